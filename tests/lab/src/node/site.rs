//! A node with one subscriber's cable.

use std::path::Path;

use anyhow::Result;

use super::Node;
use crate::netns::{Netns, veth};

/// ```text
/// subscriber            gateway: opb
///     [eth0]──────[sub0]
/// ```
#[derive(Debug)]
pub struct Site {
    node: Node,
    pub subscriber: Netns,
}

impl Site {
    pub const POLICY: &str = "\
version: 1
relays:
  isp: {addresses: [198.51.100.25]}
groups:
  dyn: {prefixes: [203.0.113.0/24, \"2001:db8:1000::/36\"], relays: [isp]}
  open: {prefixes: [192.0.2.0/24], action: monitor}
";

    /// Namespaces, cable and files; nothing runs. `interfaces` are entries of the node file's list,
    /// `more` are further lines of that file.
    pub fn prepare(opb: &Path, interfaces: &str, more: &str) -> Result<Self> {
        let (gateway, subscriber) = (Netns::new("gateway")?, Netns::new("subscriber")?);
        veth((&gateway, "sub0"), (&subscriber, "eth0"))?;
        let node = Node::prepare(opb, &gateway, Self::POLICY, &format!("[{interfaces}]"), more)?;
        Ok(Self { node, subscriber })
    }
}

crate::deref!(Site, node: Node);
