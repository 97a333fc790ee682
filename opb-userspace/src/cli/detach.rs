use opb_userspace::{kernel, node::Config};
use serde_json::json;

use super::{
    failure::Failure,
    output::{Format, Output},
    run::NodeFile,
};

/// Remove all programs, links, maps and pins of opb
///
/// Afterwards nothing is filtered. Fails while a daemon runs, because it would attach again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb detach --config /etc/opb/opb.yaml")]
pub(crate) struct Detach {
    #[command(flatten)]
    node: NodeFile,

    #[command(flatten)]
    format: Format,
}

impl Detach {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        let config = Config::load(&self.node.config)?;
        let removed = kernel::detach(&config.pins)?;
        let mut output = Output::new();
        if self.format.json {
            output.json(&json!({ "removed": removed }))?;
        } else if removed.is_empty() {
            output.line("nothing to remove")?;
        } else {
            removed.iter().try_for_each(|what| output.line(format_args!("removed {what}")))?;
        }
        output.finish()
    }
}
