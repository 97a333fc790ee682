use opb_userspace::kernel;
use serde_json::json;

use super::{
    failure::Failure,
    output::{Format, Output},
    pins::PinDirectory,
};

/// Remove all programs, links, maps and pins of opb
///
/// Afterwards nothing is filtered. Fails while a daemon runs, because it would attach again. It needs
/// no valid node file: without one, it looks at the default place, and says so.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb detach --config /etc/opb/opb.yaml")]
pub(crate) struct Detach {
    #[command(flatten)]
    pins: PinDirectory,

    #[command(flatten)]
    format: Format,
}

impl Detach {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        let pins = self.pins.find();
        let removed = kernel::detach(&pins)?;
        let mut output = Output::new();
        if self.format.json {
            output.json(&json!({ "removed": removed }))?;
        } else if removed.is_empty() {
            output.line(format_args!("nothing to remove at {}", pins.display()))?;
        } else {
            removed.iter().try_for_each(|what| output.line(format_args!("removed {what}")))?;
        }
        output.finish()
    }
}
