use std::{net::IpAddr, path::PathBuf};

use jiff::Timestamp;
use opb_userspace::{compiled::Compiled, explain::explain, image::GroupIds};

use super::{
    Way,
    client::{Control, with_query},
    failure::Failure,
    output::{Format, Output},
    policy,
};
use opb_userspace::api::explain::{CounterName, Explanation, Flags, OtherRules, Query};

/// Show what would happen to a TCP packet, and why
///
/// Uses the policy now in the kernel, which needs the daemon. With --policy, uses the given files,
/// which needs no daemon.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb explain --src 203.0.113.9 --dst 192.0.2.25")]
pub(crate) struct Explain {
    /// Source address of the packet
    #[arg(long, value_name = "ADDRESS")]
    src: IpAddr,

    /// Destination address of the packet
    #[arg(long, value_name = "ADDRESS")]
    dst: IpAddr,

    /// Source port [default: upstream any, downstream 25]
    #[arg(long, value_name = "PORT")]
    sport: Option<u16>,

    /// Destination port [default: upstream 25, downstream any]
    #[arg(long, value_name = "PORT")]
    dport: Option<u16>,

    /// TCP flags to set: letters of S, A, F, R, P, U
    #[arg(long, default_value_t)]
    flags: Flags,

    /// Direction of the packet
    #[arg(long, value_enum, default_value_t)]
    direction: Way,

    /// Outer source address, for a packet in a tunnel
    #[arg(long, value_name = "ADDRESS", requires = "outer_dst")]
    outer_src: Option<IpAddr>,

    /// Outer destination address, for a packet in a tunnel
    #[arg(long, value_name = "ADDRESS", requires = "outer_src")]
    outer_dst: Option<IpAddr>,

    /// Policy file or directory to use instead of the daemon, or a node file that names one
    #[arg(long, value_name = "PATH")]
    policy: Option<PathBuf>,

    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

impl Explain {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        let Self { src, dst, sport, dport, flags, direction, outer_src, outer_dst, .. } = self;
        let direction = direction.into();
        let query = Query { src, dst, sport, dport, flags, direction, outer_src, outer_dst };
        let explanation = match self.policy {
            Some(path) => offline(&query, path)?,
            None => self.control.get(&with_query("/v1/explain", &query)?)?,
        };
        let mut output = Output::new();
        if self.format.json {
            output.json(&explanation)?;
        } else {
            describe(&mut output, &query, &explanation)?;
        }
        output.finish()
    }
}

fn offline(query: &Query, path: PathBuf) -> Result<Explanation, Failure> {
    let Compiled { policy, image, .. } =
        Compiled::load(policy::at(path)?, &GroupIds::default(), 1)?;
    explain(query, &image, None, &policy, &[], Timestamp::now())
        .map_err(|error| Failure::invalid(error.to_string()))
}

fn describe(output: &mut Output, query: &Query, explained: &Explanation) -> Result<(), Failure> {
    let Explanation { verdict, reason, direction, chain, counter, .. } = explained;
    let Query { src, dst, outer_src, outer_dst, .. } = query;
    let tunnel = match (outer_src, outer_dst) {
        (Some(src), Some(dst)) => format!(", in a tunnel from {src} to {dst}"),
        _ => String::new(),
    };
    output.line(format_args!("{src} to {dst}{tunnel}, {direction}: {verdict} ({reason})"))?;
    for (index, step) in chain.iter().enumerate() {
        output.line(format_args!("{:>3}. {step}", index + 1))?;
    }
    if let Some(OtherRules { rules, more, unknown }) = &explained.other_rules {
        if !rules.is_empty() {
            output
                .line("opb does not block this; a rule on this node that opb did not make may:")?;
        }
        for rule in rules {
            output.line(format_args!("  - {rule}"))?;
        }
        if *more > 0 {
            output.line(format_args!("  - and {more} more"))?;
        }
        for why in unknown {
            output
                .line(format_args!("unknown whether other rules on this node block this: {why}"))?;
        }
    }
    match counter {
        Some(CounterName { group, direction, verdict, reason }) => {
            output.line(format_args!("counted as: group {group}, {direction}, {verdict}, {reason}"))
        }
        None => output.line("not counted"),
    }
}
