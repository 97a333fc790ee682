use opb_userspace::daemon::report::ReloadOutcome;

use super::{
    client::Control,
    failure::Failure,
    output::{Format, Output},
};

/// Makes the daemon read its files again, and waits for what comes of it
#[derive(Debug, clap::Args)]
pub(crate) struct Reload {
    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

impl Reload {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        let outcome: ReloadOutcome = self.control.post("/v1/reload")?;
        let mut output = Output::new();
        if self.format.json {
            output.json(&outcome)?;
        } else {
            match &outcome {
                ReloadOutcome::Unchanged => output.line("unchanged")?,
                ReloadOutcome::Applied { generation, digest } => {
                    output
                        .line(format_args!("applied: generation {generation}, digest {digest}"))?;
                }
                ReloadOutcome::Rejected { .. } => output.line("rejected")?,
            }
        }
        output.finish()?;
        match outcome {
            ReloadOutcome::Rejected { errors } => {
                let texts = errors.into_iter().map(|problem| problem.text).collect();
                Err(Failure::invalid_files(texts)
                    .hint("the policy that was in force stays in force"))
            }
            _ => Ok(()),
        }
    }
}
