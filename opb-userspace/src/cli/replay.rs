use std::{collections::BTreeMap, error::Error, fmt, fs::File, net::IpAddr, path::PathBuf};

use clap::ValueEnum;
use opb_common::{
    judge::Tables as _,
    observation,
    outcome::{Line, Outcome},
    parse::parse,
    settings::Settings,
};
use opb_userspace::{
    capture::{Capture, Link},
    compiled::Compiled,
    errors::one_line,
    image::{GroupIds, Image, Tables},
    kernel::{self, Replay as Program, ReplayHook},
    telemetry::privacy::ip,
};
use serde::Serialize;

use super::{
    Way,
    failure::Failure,
    output::{Format, Output},
    policy,
};

/// Run every packet of a capture through the kernel program
///
/// Needs root, but no interface and no daemon. The running filter is not touched.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb replay yesterday.pcap --policy /etc/opb/policy.yaml")]
pub(crate) struct Replay {
    /// Capture file (pcap or pcapng) of Ethernet frames or raw IP packets
    #[arg(value_name = "CAPTURE")]
    capture: PathBuf,

    /// Policy file or directory to apply, or a node file that names one
    #[arg(long, value_name = "PATH")]
    policy: PathBuf,

    /// Role of the interface that captured the packets
    #[arg(long, value_enum, default_value_t)]
    role: Role,

    /// Direction of the packets
    #[arg(long, value_enum, default_value_t)]
    direction: Way,

    /// Hook of the program [default: xdp if this direction comes in on that role, else tc]
    #[arg(long, value_enum)]
    hook: Option<Hook>,

    #[command(flatten)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Role {
    #[default]
    Subscriber,
    Core,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Hook {
    Xdp,
    Tc,
}

impl Replay {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        let Compiled { image, .. } =
            Compiled::load(policy::at(self.policy.clone())?, &GroupIds::default(), 1)?;
        let packets = self.open()?;
        let mut programs = Programs { replay: &self, image: &image, loaded: [None, None] };
        let tables = Tables::new(&image);
        let mut output = Output::new();
        let mut summary = Summary::default();
        let mut end = Ok(());
        for packet in packets {
            let packet = match packet {
                Ok(packet) => packet,
                Err(error) => {
                    end = Err(self.unreadable(&error));
                    break;
                }
            };
            let result = programs.on(packet.link)?.run(&packet.data);
            summary.count(&result);
            let line = result
                .as_ref()
                .ok()
                .and_then(|outcome| self.line(&packet.data, packet.link, *outcome, &tables));
            let row = Row::new(packet.number, &result, line, image.group_ids());
            if self.format.json { output.json(&row)? } else { output.line(row)? }
        }
        if self.format.json {
            output.json(&serde_json::json!({ "summary": summary }))?;
        } else {
            summary.describe(&mut output)?;
        }
        output.finish()?;
        match summary.errors {
            0 => end,
            errors => Err(Failure::new(format!("packets that the kernel could not run: {errors}"))),
        }
    }

    /// Returns the address that names the line, if it is not the subscriber address of the packet.
    fn line(
        &self,
        frame: &[u8],
        link: Link,
        outcome: Outcome,
        tables: &Tables<'_>,
    ) -> Option<IpAddr> {
        if outcome.line == Line::Own {
            return None;
        }
        let settings = self.settings(link);
        let parsed = parse(frame, settings, tables.ports(settings));
        let downstream = settings.has(Settings::DOWNSTREAM);
        ip(observation::addresses(frame, parsed, outcome.line, downstream)?.subscriber)
    }

    fn open(&self) -> Result<Capture<File>, Failure> {
        let file = File::open(&self.capture).map_err(|error| self.unreadable(&error))?;
        Capture::new(file).map_err(|error| self.unreadable(&error))
    }

    fn hook(&self) -> ReplayHook {
        // XDP sees only incoming packets: upstream on the subscriber side, downstream on the core
        // side.
        let is_ingress = (self.role == Role::Subscriber) == matches!(self.direction, Way::Upstream);
        match self.hook {
            Some(Hook::Xdp) => ReplayHook::Xdp,
            Some(Hook::Tc) => ReplayHook::Tc,
            None if is_ingress => ReplayHook::Xdp,
            None => ReplayHook::Tc,
        }
    }

    fn settings(&self, link: Link) -> Settings {
        let settings = [
            (self.role == Role::Subscriber, Settings::SUBSCRIBER),
            (matches!(self.direction, Way::Downstream), Settings::DOWNSTREAM),
            (link == Link::BareIp, Settings::BARE_IP),
        ];
        let set = settings.into_iter().filter(|(set, _)| *set);
        set.fold(Settings::default(), |all, (_, setting)| all.with(setting))
    }

    fn unreadable(&self, error: &dyn Error) -> Failure {
        Failure::new(format!("cannot read {}", self.capture.display())).caused_by(Some(error))
    }
}

/// The kernel programs, one for each kind of link. Each is loaded for its first packet.
struct Programs<'a> {
    replay: &'a Replay,
    image: &'a Image,
    loaded: [Option<Program>; 2],
}

impl Programs<'_> {
    fn on(&mut self, link: Link) -> Result<&mut Program, Failure> {
        let settings = self.replay.settings(link);
        let loaded = &mut self.loaded[usize::from(settings.has(Settings::BARE_IP))];
        match loaded {
            Some(program) => Ok(program),
            None => Ok(loaded.insert(Program::new(self.image, settings, self.replay.hook())?)),
        }
    }
}

/// The result of one packet.
#[derive(Serialize)]
#[serde(untagged)]
enum Row {
    Judged {
        packet: u64,
        verdict: &'static str,
        reason: &'static str,
        group: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        line: Option<IpAddr>,
    },
    Failed {
        packet: u64,
        error: String,
    },
}

impl Row {
    fn new(
        packet: u64,
        result: &Result<Outcome, kernel::Error>,
        line: Option<IpAddr>,
        slots: &GroupIds,
    ) -> Self {
        match result {
            Ok(Outcome { verdict, reason, group, .. }) => Self::Judged {
                packet,
                verdict: verdict.name(),
                reason: reason.name(),
                group: slots.name(*group).map(str::to_owned),
                line,
            },
            Err(error) => Self::Failed { packet, error: one_line(error) },
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Judged { packet, verdict, reason, group, line } => {
                let group = group.as_deref().unwrap_or("-");
                write!(f, "{packet:>8}  {verdict:<10}  {reason:<12}  {group}")?;
                line.map_or(Ok(()), |line| write!(f, "  line {line}"))
            }
            Self::Failed { packet, error } => write!(f, "{packet:>8}  error: {error}"),
        }
    }
}

#[derive(Default, Serialize)]
struct Summary {
    packets: u64,
    /// Packets that the kernel could not run.
    errors: u64,
    /// Packets by verdict and reason.
    verdicts: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
}

impl Summary {
    fn count(&mut self, result: &Result<Outcome, kernel::Error>) {
        self.packets += 1;
        match result {
            Ok(Outcome { verdict, reason, .. }) => {
                let reasons = self.verdicts.entry(verdict.name()).or_default();
                *reasons.entry(reason.name()).or_default() += 1;
            }
            Err(_) => self.errors += 1,
        }
    }

    fn describe(&self, output: &mut Output) -> Result<(), Failure> {
        output.line(format_args!("\n{} packets", self.packets))?;
        let rows = self.verdicts.iter().flat_map(|(verdict, reasons)| {
            reasons.iter().map(|(reason, packets)| {
                [(*verdict).to_owned(), (*reason).to_owned(), packets.to_string()]
            })
        });
        output.table(["verdict", "reason", "packets"], rows)
    }
}
