use opb_userspace::{kernel, node::Config};
use serde_json::json;

use super::{
    failure::Failure,
    output::{Format, Output},
    run::NodeFile,
};

/// Removes every program, link, map and pin of opb, daemon or not: nothing is filtered after that
#[derive(Debug, clap::Args)]
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
            output.line("there was nothing to remove")?;
        } else {
            removed.iter().try_for_each(|what| output.line(format_args!("removed {what}")))?;
        }
        output.finish()
    }
}
