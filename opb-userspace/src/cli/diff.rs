use std::path::{Path, PathBuf};

use jiff::Timestamp;
use opb_userspace::{diff::diff, policy::Policy};

use super::{
    client::{Control, Rejectable},
    failure::{self, Failure},
    output::{Format, Output},
    policy,
    reload::rejected,
};
use opb_userspace::api::{
    diff::Change, diff::Endpoints, diff::Range, reload::DiffQuery, reload::PolicyRef,
    reload::Preview,
};

/// Show which address ranges two policies treat differently
///
/// The list is exact. A policy is a file, a directory, a node file that names one, or, for the
/// daemon, `now` (in force), `files` (what a reload would read) or the number of a commit. `./now`
/// is a file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb diff /etc/opb/policy.yaml new.yaml\n  opb diff 3 now")]
pub(crate) struct Diff {
    /// Old policy
    old: PathBuf,

    /// New policy
    new: PathBuf,

    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

impl Diff {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        let side = |path: &Path| path.to_str()?.parse::<PolicyRef>().ok();
        match (side(&self.old), side(&self.new)) {
            (Some(from), Some(to)) => {
                return preview(&self.control, DiffQuery { from, to }, self.format);
            }
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => {
                return Err(Failure::invalid(
                    "a file cannot be compared with a policy of the daemon",
                )
                .hint("`opb history show NUMBER --file PATH` writes a file of a commit"));
            }
        }
        let load = |path| Ok::<_, Failure>(Policy::load(&[policy::at(path)?])?);
        let [old, new] = [load(self.old)?, load(self.new)?];
        let mut output = Output::new();
        let changes = diff(&old, &new, Timestamp::now());
        show(&mut output, &changes, &Endpoints::diff(&old, &new), self.format)?;
        output.finish()
    }
}

/// Compares two policies of the daemon.
pub(super) fn preview(control: &Control, sides: DiffQuery, format: Format) -> Result<(), Failure> {
    let DiffQuery { from, to } = sides;
    let preview: Preview = match control.get(&format!("/v1/diff?from={from}&to={to}"))? {
        Rejectable::Done(preview) => preview,
        Rejectable::Rejected(outcome) => return Err(rejected(outcome)),
    };
    let mut output = Output::new();
    if format.json {
        output.json(&preview)?;
    } else {
        show(&mut output, &preview.changes, &preview.endpoints, format)?;
        if preview.unlisted > 0 {
            output.line(format_args!("and {} more ranges", preview.unlisted))?;
        }
        if preview.interfaces {
            output.line("the list of interfaces changes")?;
        }
    }
    output.finish()?;
    failure::warn(preview.warnings.iter().map(|text| format!("warning: {text}")));
    Ok(())
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
