//! `opb subscriber`: run-time entries.

use std::{fs, io, io::Read, path::PathBuf, sync::Arc, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use jiff::{SignedDuration, Timestamp};
use opb_userspace::period::Period;
use serde::Serialize;
use serde_json::json;

use super::{
    client::Control,
    confirm,
    failure::{self, Failure},
    output::{Format, Output},
    upload::Upload,
};
use opb_userspace::api::{
    entries::Addition, entries::ChangeResponse, entries::Failure as Refused, entries::NewEntry,
    entries::Removal, entries::Row,
};

/// Maximum number of errors to list; the others are counted.
const LISTED: usize = 100;

/// Add, remove and list per-subscriber overrides of the policy files
///
/// When the command ends, the entries are on disk and in force. They survive reloads, restarts and
/// reboots, until they are removed or expire. Adding the same entry again changes nothing and is
/// not an error.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Example:\n  opb subscriber add 203.0.113.9 --exempt --for 30d --reason \
                  ticket-1234")]
pub(crate) enum Subscriber {
    Add(Add),
    Remove(Remove),
    List(List),
    Import(Import),
}

/// Add prefixes to a group, or exempt them
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb subscriber add 203.0.113.9 --exempt --for 30d --reason \
                  ticket-1234")]
pub(crate) struct Add {
    /// Prefixes, or single addresses
    #[arg(value_name = "PREFIX", required = true)]
    prefixes: Vec<String>,

    #[command(flatten)]
    target: Target,

    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

/// Effect and end of the entries.
#[derive(Debug, clap::Args)]
struct Target {
    /// Group of the policy to add them to
    #[arg(long, value_name = "GROUP", conflicts_with = "exempt")]
    group: Option<Arc<str>>,

    /// Pass all their packets, whatever group they are in
    #[arg(long)]
    exempt: bool,

    /// Time until the entries expire, such as 8h or 30d
    #[arg(long = "for", value_name = "TIME", conflicts_with = "until")]
    period: Option<Period>,

    /// When the entries expire, such as 2027-03-31T00:00:00+09:00
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,

    /// Reason, shown by `opb subscriber list`
    #[arg(long, value_name = "TEXT")]
    reason: Option<Arc<str>>,
}

fn time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| {
        format!(
            "invalid time `{text}`: expected for example 2027-03-31T00:00:00+09:00 or \
             2027-03-30T15:00:00Z"
        )
    })
}

/// Remove entries, so that the policy files apply again
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb subscriber remove 203.0.113.9")]
pub(crate) struct Remove {
    /// Prefixes, or single addresses, as they were added
    #[arg(value_name = "PREFIX", required = true)]
    prefixes: Vec<String>,

    /// Remove only entries with this reason
    #[arg(long, value_name = "TEXT")]
    if_reason: Option<String>,

    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

/// List all entries, what they override, and which have no effect
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb subscriber list --json")]
pub(crate) struct List {
    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

/// Add the entries of a file
///
/// A line is a prefix, to which the options apply, or one line of `opb subscriber list --json`. `#`
/// starts a comment. If a line is invalid, no entry is added, except with --partial.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb subscriber import entries.jsonl --confirm 5m")]
pub(crate) struct Import {
    /// File, or - for standard input
    file: PathBuf,

    /// Add the valid lines even if others are invalid
    #[arg(long)]
    partial: bool,

    /// Roll back unless `opb confirm` comes within this time, such as 5m
    #[arg(long, value_name = "TIME")]
    confirm: Option<Period>,

    #[command(flatten)]
    target: Target,

    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

impl Subscriber {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        match self {
            Self::Add(command) => command.execute(),
            Self::Remove(command) => command.execute(),
            Self::List(command) => command.execute(),
            Self::Import(command) => command.execute(),
        }
    }
}

impl Target {
    fn is_given(&self) -> bool {
        self.exempt || self.group.is_some()
    }

    fn until(&self) -> Result<Option<Timestamp>, Failure> {
        let Some(period) = self.period else { return Ok(self.until) };
        let until = SignedDuration::try_from(period.duration())
            .and_then(|length| Timestamp::now().checked_add(length));
        until.map(Some).map_err(|_| {
            Failure::invalid(format!(
                "invalid time {period}: the end must be before the year 10000"
            ))
        })
    }

    fn entry(&self, prefix: &str, until: Option<Timestamp>) -> NewEntry {
        let Self { group, exempt, reason, .. } = self;
        let (group, reason) = (group.clone(), reason.clone());
        NewEntry { prefix: prefix.to_owned(), group, exempt: *exempt, reason, until }
    }
}

impl Add {
    fn execute(self) -> Result<(), Failure> {
        let Self { prefixes, target, control, format } = self;
        if !target.is_given() {
            return Err(Failure::invalid("no effect is given: expected --group GROUP or --exempt")
                .hint("`opb status` lists the groups"));
        }
        let until = target.until()?;
        let entries = prefixes.iter().map(|prefix| target.entry(prefix, until)).collect();
        let body = Addition { entries, partial: false, validate_only: false };
        let answer: ChangeResponse = control.send("/v1/subscribers", upload(&body))?;
        let failed = answer.failures.iter().map(complaint).collect();
        conclude(&answer, failed, false, None, format)
    }
}

impl Remove {
    fn execute(self) -> Result<(), Failure> {
        let Self { prefixes, if_reason, control, format } = self;
        let body = Removal { prefixes, partial: false, if_reason };
        let answer: ChangeResponse = control.send("/v1/subscribers/remove", upload(&body))?;
        let failed = answer.failures.iter().map(complaint).collect();
        conclude(&answer, failed, false, None, format)
    }
}

impl List {
    fn execute(self) -> Result<(), Failure> {
        let rows: Vec<Row> = self.control.get("/v1/subscribers")?;
        let mut output = Output::new();
        if self.format.json {
            rows.iter().try_for_each(|row| output.json(row))?;
        } else if rows.is_empty() {
            output.line("no run-time entries")?;
        } else {
            let header = ["prefix", "entry", "until", "by", "created", "reason", "note"];
            output.table(header, rows.into_iter().map(columns))?;
        }
        output.finish()
    }
}

fn columns(row: Row) -> [String; 7] {
    let Row { prefix, group, reason, until, created, by, overrides, orphaned, .. } = row;
    let entry = group.map_or_else(|| "exempt".to_owned(), |group| format!("group {group}"));
    let until = until.map_or_else(|| "no end".to_owned(), |until| format!("{until:.0}"));
    let by = by.user.clone().unwrap_or_else(|| by.uid.to_string());
    let reason = reason.as_deref().unwrap_or_default().to_owned();
    let overrides = overrides.map(|what| format!("overrides {what}"));
    let orphaned = orphaned.map(|why| format!("no effect: {why}"));
    let notes: Vec<_> = orphaned.into_iter().chain(overrides).collect();
    [prefix.to_string(), entry, until, by, format!("{created:.0}"), reason, notes.join("; ")]
}

impl Import {
    fn execute(self) -> Result<(), Failure> {
        let text = self.read()?;
        let until = self.target.until()?;
        let mut lines = Vec::new();
        let mut entries = Vec::new();
        let mut failed = Vec::new();
        // The same mistake of the command, not one of each line.
        let mut without_target = 0;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_start_matches('\u{feff}');
            match self.parse(line, until) {
                Ok(Some(entry)) => {
                    entries.push(entry);
                    lines.push(number);
                }
                Ok(None) => {}
                Err(LineError::NoTarget) => {
                    if without_target == 0 {
                        failed.push((number, LineError::NoTarget.to_string()));
                    }
                    without_target += 1;
                }
                Err(error) => failed.push((number, error.to_string())),
            }
        }
        let mut answer = ChangeResponse::default();
        let partial = self.partial;
        // After an invalid line, nothing may change, but the daemon still examines the others.
        let validate_only = !partial && !failed.is_empty();
        if !entries.is_empty() {
            let body = to_json(&Addition { entries, partial, validate_only });
            let bar = progress(body.len());
            let path = format!("/v1/subscribers{}", confirm::query(self.confirm));
            answer = self.control.send(&path, Upload::new(body, bar.clone()))?;
            bar.finish_and_clear();
        }
        if validate_only {
            let ChangeResponse { failures, unlisted, .. } = answer;
            answer = ChangeResponse { failures, unlisted, ..ChangeResponse::default() };
        }
        for Refused { index, prefix, error } in &answer.failures {
            if let Some(&number) = lines.get(*index) {
                let text = if error.contains(&**prefix) {
                    error.clone()
                } else {
                    format!("{prefix}: {error}")
                };
                failed.push((number, text));
            }
        }
        failed.sort();
        if without_target > 1 {
            let text = LineError::NoTarget.to_string();
            let more = format!(" (and for {} more lines)", without_target - 1);
            let first = failed.iter_mut().find(|(_, error)| *error == text);
            first.into_iter().for_each(|(_, error)| *error += &more);
        }
        let file = self.file.display();
        let failed = failed.into_iter().map(|(line, error)| format!("{file}:{line}: {error}"));
        conclude(&answer, failed.collect(), partial, self.confirm, self.format)
    }

    fn read(&self) -> Result<String, Failure> {
        let mut text = String::new();
        let result = if self.file.as_os_str() == "-" {
            io::stdin().lock().read_to_string(&mut text)
        } else {
            fs::File::open(&self.file).and_then(|mut file| file.read_to_string(&mut text))
        };
        result.map(|_| text).map_err(|error| {
            Failure::new(format!("cannot read {}", self.file.display())).caused_by(Some(&error))
        })
    }

    fn parse(&self, line: &str, until: Option<Timestamp>) -> Result<Option<NewEntry>, LineError> {
        if line.trim_start().starts_with('{') {
            // `list --json` has the addresses of sessions, too: those are not an operator's, and
            // would stay behind when the sessions end.
            let is_session = line.contains("\"session\":")
                && serde_json::from_str::<Row>(line).is_ok_and(|row| row.session.is_some());
            return if is_session { Ok(None) } else { Ok(Some(serde_json::from_str(line)?)) };
        }
        let text = line.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            return Ok(None);
        }
        if !self.target.is_given() {
            return Err(LineError::NoTarget);
        }
        Ok(Some(self.target.entry(text, until)))
    }
}

/// Why a line of an import is invalid.
#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(
        "no effect is given for this line: expected --group GROUP or --exempt with the command, or \
         a line of `list --json`"
    )]
    NoTarget,
}

/// Returns a progress bar. It is visible only on a terminal.
fn progress(bytes: usize) -> ProgressBar {
    let bar = ProgressBar::new(bytes as u64);
    let style = ProgressStyle::with_template(
        "{spinner} {bar:40} {bytes}/{total_bytes} sent, {elapsed} {msg}",
    );
    if let Ok(style) = style {
        bar.set_style(style);
    }
    // The spinner turns while the daemon compiles and writes.
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn upload(body: &impl Serialize) -> Upload {
    Upload::new(to_json(body), ProgressBar::hidden())
}

fn to_json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_else(|error| unreachable!("plain values: {error}"))
}

fn complaint(failure: &Refused) -> String {
    let Refused { prefix, error, .. } = failure;
    if error.contains(&**prefix) { error.clone() } else { format!("{prefix}: {error}") }
}

/// Prints the result: counts on stdout, errors on stderr.
fn conclude(
    answer: &ChangeResponse,
    mut failed: Vec<String>,
    partial: bool,
    confirm: Option<Period>,
    format: Format,
) -> Result<(), Failure> {
    let ChangeResponse { added, changed, removed, unchanged, unlisted, confirm_by, .. } = answer;
    let nothing_done = !failed.is_empty() && !partial;
    let mut output = Output::new();
    if format.json {
        let mut object = json!({
            "added": added, "changed": changed, "removed": removed, "unchanged": unchanged,
            "errors": failed,
        });
        if let Some(time) = confirm_by {
            object["confirm_by"] = json!(time);
        }
        if *unlisted > 0 {
            object["unlisted"] = json!(unlisted);
        }
        output.json(&object)?;
    } else if !nothing_done {
        let counts = [
            ("added", added),
            ("changed", changed),
            ("removed", removed),
            ("unchanged", unchanged),
        ];
        let counts: Vec<_> = (counts.iter())
            .filter(|(_, count)| **count > 0)
            .map(|(what, count)| format!("{what}: {count}"))
            .collect();
        if !counts.is_empty() {
            output.line(counts.join(", "))?;
        }
        if let Some(timeout) = confirm.filter(|_| confirm_by.is_some()) {
            output.line(confirm::reminder(timeout))?;
        }
    }
    output.finish()?;
    if failed.is_empty() {
        return Ok(());
    }
    let more = failed.len().saturating_sub(LISTED) + unlisted;
    failed.truncate(LISTED);
    if more > 0 {
        failed.push(format!("and {more} more"));
    }
    if partial {
        failure::warn(failed);
        return Err(Failure::NEGATIVE);
    }
    Err(Failure::invalid_files(failed).hint("nothing was changed"))
}
