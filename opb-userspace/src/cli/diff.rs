use std::path::PathBuf;

use jiff::Timestamp;
use opb_userspace::{diff::diff, policy::Policy};

use super::{
    failure::Failure,
    output::{Format, Output},
    policy,
};
use opb_userspace::api::{diff::Change, diff::Endpoints, diff::Range};

/// Show which address ranges two policies treat differently
///
/// The list is exact. `opb reload --dry-run` shows what the daemon would change.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb diff /etc/opb/policy.yaml new.yaml")]
pub(crate) struct Diff {
    /// Old policy: a file, a directory, or a node file that names one
    old: PathBuf,

    /// New policy: a file, a directory, or a node file that names one
    new: PathBuf,

    #[command(flatten)]
    format: Format,
}

impl Diff {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        let load = |path| Ok::<_, Failure>(Policy::load(&[policy::at(path)?])?);
        let [old, new] = [load(self.old)?, load(self.new)?];
        let mut output = Output::new();
        let changes = diff(&old, &new, Timestamp::now());
        show(&mut output, &changes, &Endpoints::diff(&old, &new), self.format)?;
        output.finish()
    }
}

/// Prints changes as JSON Lines or as a table.
pub(super) fn show(
    output: &mut Output,
    changes: &[Change],
    endpoints: &Endpoints,
    format: Format,
) -> Result<(), Failure> {
    if format.json {
        changes.iter().try_for_each(|change| output.json(change))?;
        return if endpoints.is_empty() { Ok(()) } else { output.json(endpoints) };
    }
    if !endpoints.is_empty() {
        let gained = signed('+', &endpoints.endpoints_gained);
        let ranges: Vec<_> = gained.chain(signed('-', &endpoints.endpoints_lost)).collect();
        output.line(format_args!("endpoints of softwires: {}", ranges.join(" ")))?;
    }
    if changes.is_empty() {
        let scope = if endpoints.is_empty() { "" } else { " outside of softwires" };
        return output.line(format_args!("no address is treated differently{scope}"));
    }
    output.table(
        ["addresses", "old", "new", "relays"],
        changes.iter().map(|change| {
            let gained = signed('+', &change.relays_gained);
            let relays: Vec<_> = gained.chain(signed('-', &change.relays_lost)).collect();
            let Change { range, old, new, .. } = change;
            [range.to_string(), old.to_string(), new.to_string(), relays.join(" ")]
        }),
    )
}

fn signed(sign: char, ranges: &[Range]) -> impl Iterator<Item = String> {
    ranges.iter().map(move |range| format!("{sign}{range}"))
}
