use opb_userspace::period::Period;

use super::{
    client::Control,
    failure::Failure,
    output::{Format, Output},
};
use opb_userspace::api::reload::{Confirmation, UnconfirmedKind};

/// Keep the changes of a reload or import made with `--confirm`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb confirm")]
pub(crate) struct Confirm {
    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

impl Confirm {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        let confirmation: Confirmation = self.control.post("/v1/confirm")?;
        let Confirmation { confirmed, kind, generation } = confirmation;
        let mut output = Output::new();
        if self.format.json {
            output.json(&confirmation)?;
        } else {
            match kind {
                None => {}
                Some(UnconfirmedKind::Policy) => output
                    .line(format_args!("confirmed: generation {generation} stays in force"))?,
                Some(UnconfirmedKind::Import) => output.line("confirmed: the import stays")?,
            }
        }
        output.finish()?;
        if confirmed || self.format.json {
            return if confirmed { Ok(()) } else { Err(Failure::NEGATIVE) };
        }
        Err(Failure::new("nothing is unconfirmed")
            .hint("`opb status` shows the time and the trigger of the last reload"))
    }
}

/// Returns the line that reminds of an unconfirmed commit.
pub(super) fn reminder(timeout: Period) -> String {
    format!("unconfirmed: rolls back in {timeout} unless `opb confirm` comes first")
}

/// Returns the query string that requests a confirmation timeout.
pub(super) fn query(timeout: Option<Period>) -> String {
    timeout.map(|timeout| format!("?confirm={}", timeout.duration().as_secs())).unwrap_or_default()
}
