use std::{env, num::NonZeroU32, time::Duration};

use nix::unistd::getuid;
use opb_userspace::{
    api::{
        bypass::{BypassEnd, BypassLine, BypassRequest},
        entries::Who,
    },
    image::GroupIds,
    kernel::{ActiveBypass, PinnedBypasses},
    period::Period,
};
use serde::de::DeserializeOwned;

use super::{
    client::{Control, Unanswered, with_query},
    failure::{self, Failure},
    output::{Format, Output},
    pins::PinDirectory,
};

/// In an emergency, let everything pass for a while
///
/// The kernel ends the bypass when its time is over. It works without a daemon, too: then only root
/// can use it. Without options, it shows what is bypassed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  opb bypass --for 30m --reason relay-is-down\n  opb bypass --end"
)]
pub(crate) struct Bypass {
    /// Only this group, instead of all
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,

    /// How long, such as 30m; at most 24h
    #[arg(long = "for", value_name = "TIME", requires = "reason", conflicts_with = "end")]
    period: Option<Period>,

    /// Why: shown wherever the bypass is
    #[arg(long, value_name = "TEXT", requires = "period")]
    reason: Option<String>,

    /// End the bypass of the group, or all bypasses
    #[arg(long)]
    end: bool,

    #[command(flatten)]
    pins: PinDirectory,

    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

/// How long the daemon may take. After that, this command does it itself.
const PATIENCE: Duration = Duration::from_secs(10);

impl Bypass {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        let Self { group, period, reason, end, pins, control, format } = self;
        let way = Way { control, pins };
        match (period, reason) {
            (Some(period), Some(reason)) => {
                let seconds = u32::try_from(period.duration().as_secs()).unwrap_or(u32::MAX);
                let seconds = NonZeroU32::new(seconds).unwrap_or(NonZeroU32::MIN);
                started(&way.start(&BypassRequest { group, seconds, reason })?, format)
            }
            _ if end => ended(&way.end(&BypassEnd { group: group.clone() })?, group, format),
            _ => {
                let mut lines = way.list()?;
                lines.retain(|line| group.is_none() || line.group == group);
                listed(&lines, format)
            }
        }
    }
}

/// The daemon, and the kernel's table for when it does not answer.
struct Way {
    control: Control,
    pins: PinDirectory,
}

impl Way {
    fn start(self, request: &BypassRequest) -> Result<BypassLine, Failure> {
        let path = with_query("/v1/bypass", request)?;
        if let Some(line) = self.ask(|control| control.post_within(&path, PATIENCE))? {
            return Ok(line);
        }
        let pinned = self.pinned()?;
        // A bypass for everybody needs no policy that can be read.
        let ids = match request.group {
            Some(_) => pinned.group_ids()?,
            None => GroupIds::default(),
        };
        let refused = |error| Failure::invalid(format!("{error}"));
        pinned.bypasses.start(request, &ids, &me()).map_err(refused)
    }

    fn end(self, which: &BypassEnd) -> Result<Vec<BypassLine>, Failure> {
        let path = with_query("/v1/bypass/end", which)?;
        if let Some(lines) = self.ask(|control| control.post_within(&path, PATIENCE))? {
            return Ok(lines);
        }
        Ok(self.pinned()?.bypasses.end(which.group.as_deref()))
    }

    fn list(self) -> Result<Vec<BypassLine>, Failure> {
        if let Some(lines) = self.ask(|control| control.get_within("/v1/bypass", PATIENCE))? {
            return Ok(lines);
        }
        Ok(self.pinned()?.bypasses.active().iter().map(ActiveBypass::line).collect())
    }

    /// Asks the daemon. Returns `None` if it does not answer, and says so on stderr.
    fn ask<T: DeserializeOwned>(
        &self,
        question: impl FnOnce(&Control) -> Result<T, Unanswered>,
    ) -> Result<Option<T>, Failure> {
        match question(&self.control) {
            Ok(answer) => Ok(Some(answer)),
            Err(Unanswered::Refused(failure)) => Err(failure),
            Err(Unanswered::Silent(failure)) => {
                failure::warn([format!("warning: {failure}: the kernel is asked directly")]);
                Ok(None)
            }
        }
    }

    fn pinned(self) -> Result<PinnedBypasses, Failure> {
        let pins = self.pins.find();
        let pinned = PinnedBypasses::open(&pins)?;
        pinned.ok_or_else(|| {
            Failure::new(format!("no filter of this version has its pins at {}", pins.display()))
                .hint("name another place with --pins; `opb detach` removes a filter")
        })
    }
}

/// The user of this command. Behind sudo, that of the session.
fn me() -> Who {
    let uid = getuid().as_raw();
    let user = env::var("SUDO_USER").ok().or_else(|| (uid == 0).then(|| "root".to_owned()));
    Who { uid, pid: None, user }
}

fn started(line: &BypassLine, format: Format) -> Result<(), Failure> {
    let mut output = Output::new();
    if format.json {
        output.json(line)?;
    } else {
        output.line(line)?;
        let group = line.group.as_ref().map(|group| format!(" --group {group}"));
        let group = group.unwrap_or_default();
        output.line(format_args!("to end it earlier: opb bypass --end{group}"))?;
    }
    output.finish()
}

fn ended(lines: &[BypassLine], group: Option<String>, format: Format) -> Result<(), Failure> {
    let mut output = Output::new();
    for line in lines {
        if format.json {
            output.json(line)?;
        } else {
            output.line(format_args!("ended for {}: the policy applies again", line.scope()))?;
        }
    }
    output.finish()?;
    match (lines, group) {
        ([_, ..], _) => Ok(()),
        ([], None) => Err(Failure::new("no bypass is active")),
        ([], Some(group)) => Err(Failure::new(format!("no bypass of group {group} is active"))
            .hint("`opb bypass` shows all; `opb bypass --end` without a group ends all")),
    }
}

fn listed(lines: &[BypassLine], format: Format) -> Result<(), Failure> {
    let mut output = Output::new();
    if format.json {
        lines.iter().try_for_each(|line| output.json(line))?;
    } else if lines.is_empty() {
        output.line("no bypass is active")?;
    } else {
        lines.iter().try_for_each(|line| output.line(line))?;
    }
    output.finish()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::Arguments;

    #[test]
    fn a_bypass_takes_an_end_and_a_reason() {
        let parses = |text: &str| {
            let words = format!("opb bypass {text}");
            Arguments::try_parse_from(words.split_whitespace()).is_ok()
        };
        for right in ["", "--end", "--end --group a", "--for 30m --reason x", "--group a"] {
            assert!(parses(right), "{right}");
        }
        for wrong in [
            "--for 30m",
            "--reason x",
            "--for 30m --reason x --end",
            "--for never --reason x",
            "--for 0s --reason x",
        ] {
            assert!(!parses(wrong), "{wrong}");
        }
    }
}
