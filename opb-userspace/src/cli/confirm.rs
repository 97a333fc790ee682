use opb_userspace::period::Period;

use super::{
    client::Control,
    failure::Failure,
    output::{Format, Output},
};
use opb_userspace::api::{reload::Confirmation, reload::TrialOf};

/// Keeps what `reload --confirm` or `subscriber import --confirm` has put in force
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
        let Confirmation { confirmed, of, generation } = confirmation;
        let mut output = Output::new();
        if self.format.json {
            output.json(&confirmation)?;
        } else {
            match of {
                None => {}
                Some(TrialOf::Policy) => output
                    .line(format_args!("confirmed: generation {generation} stays in force"))?,
                Some(TrialOf::Import) => output.line("confirmed: the import stays")?,
            }
        }
        output.finish()?;
        if confirmed || self.format.json {
            return if confirmed { Ok(()) } else { Err(Failure::NEGATIVE) };
        }
        Err(Failure::new("nothing waits for a confirmation")
            .hint("`opb status` says when and why a policy was last put in force"))
    }
}

/// What to say of something that waits for a confirmation.
pub(super) fn on_trial(limit: Period) -> String {
    format!("on trial: taken back in {limit} unless `opb confirm` comes before")
}

/// The query that asks for a trial.
pub(super) fn query(limit: Option<Period>) -> String {
    limit.map(|limit| format!("?confirm={}", limit.duration().as_secs())).unwrap_or_default()
}
