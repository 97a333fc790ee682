//! The node of this suite.

use std::path::Path;

use anyhow::Result;
use opb_lab::node::Site;

pub(crate) use opb_lab::node::LIMIT;

pub(crate) const POLICY: &str = Site::POLICY;

pub(crate) struct Node(Site);

impl Node {
    /// Namespaces, cable and files; nothing runs. `more` are further lines of the node file.
    pub(crate) fn prepare(more: &str) -> Result<Self> {
        Self::with_interfaces("{name: sub0, role: subscriber}", more)
    }

    pub(crate) fn with_interfaces(interfaces: &str, more: &str) -> Result<Self> {
        Site::prepare(Path::new(env!("CARGO_BIN_EXE_opb")), interfaces, more).map(Self)
    }

    /// The same with `opb run` in it, enforcing.
    pub(crate) fn start(more: &str) -> Result<Self> {
        let mut node = Self::prepare(more)?;
        node.run()?;
        Ok(node)
    }
}

opb_lab::deref!(Node, 0: Site);
