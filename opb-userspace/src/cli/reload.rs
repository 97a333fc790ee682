use opb_userspace::period::Period;

use super::{
    client::{Control, Rejectable},
    confirm, diff,
    failure::Failure,
    output::{Format, Output},
};
use opb_userspace::api::{reload::Preview, reload::ReloadOutcome};

/// Tell the daemon to re-read its files and print the result
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb reload --confirm 5m")]
pub(crate) struct Reload {
    /// Change nothing: show which address ranges would be treated differently
    #[arg(long)]
    dry_run: bool,

    /// Roll back unless `opb confirm` comes within this time, such as 5m
    #[arg(long, value_name = "TIME", conflicts_with = "dry_run")]
    confirm: Option<Period>,

    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

impl Reload {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        if self.dry_run {
            return self.preview();
        }
        let path = format!("/v1/reload{}", confirm::query(self.confirm));
        let outcome: ReloadOutcome = self.control.post(&path)?;
        let mut output = Output::new();
        if self.format.json {
            output.json(&outcome)?;
        } else {
            match &outcome {
                ReloadOutcome::Unchanged => output.line("unchanged")?,
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
        match outcome {
            ReloadOutcome::Rejected { .. } => Err(rejected(outcome)),
            _ => Ok(()),
        }
    }

    fn preview(&self) -> Result<(), Failure> {
        let preview: Preview = match self.control.get("/v1/diff")? {
            Rejectable::Done(preview) => preview,
            Rejectable::Rejected(outcome) => return Err(rejected(outcome)),
        };
        let mut output = Output::new();
        if self.format.json {
            output.json(&preview)?;
        } else {
            diff::show(&mut output, &preview.changes, &preview.endpoints, self.format)?;
            if preview.interfaces {
                output.line("the list of interfaces would change")?;
            }
        }
        output.finish()
    }
}

fn rejected(outcome: ReloadOutcome) -> Failure {
    let ReloadOutcome::Rejected { errors } = outcome else { return Failure::NEGATIVE };
    let texts = errors.into_iter().map(|problem| problem.text).collect();
    Failure::invalid_files(texts).hint("the policy in force stays in force")
}
