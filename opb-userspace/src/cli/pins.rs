//! Where the pins are, even if the node file is broken.

use std::path::PathBuf;

use opb_userspace::node::{self, Config, DEFAULT_PINS};

use super::{failure, run::NodeFile};

/// The options that name the pin directory.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PinDirectory {
    #[command(flatten)]
    node: NodeFile,

    /// Pin directory, instead of that of the node file
    #[arg(long, value_name = "PATH")]
    pins: Option<PathBuf>,
}

impl PinDirectory {
    /// Returns the directory. In an emergency, the node file may be missing or broken: then its
    /// line `pins` is enough, or the default, and stderr says so.
    pub(crate) fn find(self) -> PathBuf {
        if let Some(pins) = self.pins {
            return pins;
        }
        let path = self.node.config;
        let error = match Config::load(&path) {
            Ok(config) => return config.pins,
            Err(diagnostics) => diagnostics.errors().next().map(ToString::to_string),
        };
        let why = error.unwrap_or_else(|| format!("{} is not valid", path.display()));
        let (pins, from) = match node::pins_line(&path) {
            Some(pins) => (pins, "its line `pins`"),
            None => (DEFAULT_PINS.into(), "the default"),
        };
        let why = why.lines().next().unwrap_or_default();
        failure::warn([
            format!("warning: the node file cannot be used: {why}"),
            format!(
                "warning: the pins are taken to be at {} ({from}): otherwise, name them with --pins",
                pins.display()
            ),
        ]);
        pins
    }
}
