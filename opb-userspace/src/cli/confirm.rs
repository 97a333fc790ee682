use opb_userspace::daemon::report::Confirmation;

use super::{
    client::Control,
    failure::Failure,
    output::{Format, Output},
};

/// Keeps what `reload --confirm` has put in force
#[derive(Debug, clap::Args)]
pub(crate) struct Confirm {
    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

impl Confirm {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        let confirmation: Confirmation = self.control.post("/v1/confirm")?;
        let Confirmation { confirmed, generation } = confirmation;
        let mut output = Output::new();
        if self.format.json {
            output.json(&confirmation)?;
        } else if confirmed {
            output.line(format_args!("confirmed: generation {generation} stays in force"))?;
        }
        output.finish()?;
        if confirmed || self.format.json {
            return if confirmed { Ok(()) } else { Err(Failure::NEGATIVE) };
        }
        Err(Failure::new("nothing waits for a confirmation")
            .hint("`opb status` says when and why a policy was last put in force"))
    }
}
