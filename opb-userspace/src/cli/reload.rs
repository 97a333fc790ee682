use opb_userspace::period::Period;

use super::{
    client::{Control, with_query},
    confirm, diff,
    failure::{self, Failure},
    output::{Format, Output},
};
use opb_userspace::api::reload::{DiffQuery, PolicyRef, ReloadOutcome, ReloadResponse};
use serde::{Serialize, Serializer};

/// Tell the daemon to re-read its files and print the result
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb reload --confirm 5m --comment new-relay")]
pub(crate) struct Reload {
    /// Change nothing: show which address ranges would be treated differently
    #[arg(long)]
    dry_run: bool,

    /// Roll back unless `opb confirm` comes within this time, such as 5m
    #[arg(long, value_name = "TIME", conflicts_with = "dry_run")]
    confirm: Option<Period>,

    /// Why the policy changes: kept in the history
    #[arg(long, value_name = "TEXT", conflicts_with = "dry_run")]
    comment: Option<String>,

    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

impl Reload {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        if self.dry_run {
            let sides = DiffQuery { from: PolicyRef::Now, to: PolicyRef::Files };
            return diff::preview(&self.control, sides, self.format);
        }
        let Self { confirm, comment, control, format, .. } = self;
        Commit { number: None, confirm, comment }.put_in_force(&control, format)
    }
}

/// A request to put the files in force, or a commit.
#[derive(Debug, Serialize)]
pub(super) struct Commit {
    #[serde(rename = "commit")]
    pub(super) number: Option<u64>,
    #[serde(serialize_with = "seconds")]
    pub(super) confirm: Option<Period>,
    pub(super) comment: Option<String>,
}

fn seconds<S: Serializer>(timeout: &Option<Period>, serializer: S) -> Result<S::Ok, S::Error> {
    timeout.map(|timeout| timeout.duration().as_secs()).serialize(serializer)
}

impl Commit {
    pub(super) fn put_in_force(&self, control: &Control, format: Format) -> Result<(), Failure> {
        let answer: ReloadResponse = control.post(&with_query("/v1/reload", self)?)?;
        let mut output = Output::new();
        if format.json {
            output.json(&answer)?;
        } else {
            match &answer.outcome {
                ReloadOutcome::Unchanged => output.line(unchanged(self.confirm.is_some()))?,
                ReloadOutcome::Applied { generation, digest } => {
                    output
                        .line(format_args!("applied: generation {generation}, digest {digest}"))?;
                    if let Some(timeout) = self.confirm {
                        output.line(confirm::reminder(timeout))?;
                    }
                }
                ReloadOutcome::Rejected { .. } => output.line("rejected")?,
            }
        }
        output.finish()?;
        let ReloadResponse { outcome, warnings } = answer;
        failure::warn(warnings.iter().map(|text| format!("warning: {text}")));
        match outcome {
            ReloadOutcome::Rejected { .. } => Err(rejected(outcome)),
            _ => Ok(()),
        }
    }
}

fn unchanged(with_timeout: bool) -> &'static str {
    if with_timeout {
        "unchanged: this policy is in force already, and nothing is unconfirmed"
    } else {
        "unchanged: this policy is in force already"
    }
}

pub(super) fn rejected(outcome: ReloadOutcome) -> Failure {
    let ReloadOutcome::Rejected { errors } = outcome else { return Failure::NEGATIVE };
    let texts = errors.into_iter().map(|problem| problem.text).collect();
    Failure::invalid_files(texts).hint("the policy in force stays in force")
}
