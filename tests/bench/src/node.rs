//! `opb` on the gateway of the benchmarks.

use std::path::Path;

use anyhow::Result;
use opb_lab::netns::Netns;

use crate::gateway::ACCESS;

pub use opb_lab::node::Node;

/// Files of a node that filters the gateway's access interface.
pub fn prepare(opb: &Path, gateway: &Netns, hook: &str) -> Result<Node> {
    prepare_on(opb, gateway, ACCESS, hook)
}

/// The same for all interfaces that the pattern fits.
pub fn prepare_on(opb: &Path, gateway: &Netns, interfaces: &str, hook: &str) -> Result<Node> {
    let entry = format!("[{{name: \"{interfaces}\", role: subscriber, hook: {hook}}}]");
    // Until the benchmark selects another one, the policy is empty.
    Node::prepare(opb, gateway, "version: 1\n", &entry, "watch: off\n")
}
