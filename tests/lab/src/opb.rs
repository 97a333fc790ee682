//! The filter under test on the small internet: a node with the policy of the conformance table.

use std::{collections::BTreeSet, fmt, path::Path};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    attached::{self, Attachment},
    node::Node,
    topology::{
        DYNAMIC_PREFIXES, FIXED_PREFIXES, RELAY_ADDRESSES, SUBSCRIBER_INTERFACES, Topology,
        WATCHED_PREFIXES,
    },
};

pub const DYNAMIC_GROUP: &str = "flets-dynamic";
pub const WATCHED_GROUP: &str = "watched";

/// The node file's `hook`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Auto,
    Xdp,
    XdpGeneric,
    Tc,
    /// TC without TCX, as on kernels before 6.6.
    Clsact,
}

impl Hook {
    /// Whether an attachment fits this setting on a veth pair, where `auto` means native XDP.
    fn fits(self, attachment: &Attachment) -> bool {
        let hook = attachment.hook.as_str();
        match self {
            Self::Auto | Self::Xdp => hook == "driver",
            Self::XdpGeneric => hook == "generic",
            Self::Tc => hook == "tcx/ingress" || hook == "clsact/ingress",
            Self::Clsact => hook == "clsact/ingress",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tc => "tc",
            Self::Clsact => "clsact",
        })
    }
}

/// The dynamic group's `match`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    Syn,
    Any,
}

/// The policy of the conformance table, as an operator would write it.
pub fn policy_file(judged: Match) -> String {
    let list = |items: &[&str]| items.join(", ");
    let judged = match judged {
        Match::Syn => "syn",
        Match::Any => "any",
    };
    let mut text = format!(
        "\
version: 1
relays:
  isp:
    addresses: [{}]
groups:
  {DYNAMIC_GROUP}:
    prefixes: [{}]
    relays: [isp]
    match: {judged}
  {WATCHED_GROUP}:
    prefixes: [{}]
    relays: [isp]
    action: monitor
exemptions:
",
        list(&RELAY_ADDRESSES),
        list(&DYNAMIC_PREFIXES),
        list(&WATCHED_PREFIXES),
    );
    for prefix in FIXED_PREFIXES {
        text += &format!("  - prefix: {prefix}\n    reason: fixed-address option\n");
    }
    text
}

/// The node of the gateway.
#[derive(Debug)]
pub struct OpbNode {
    node: Node,
    hook: Hook,
    /// All programs that were ever attached: they must be gone at the end.
    programs: BTreeSet<u64>,
}

impl OpbNode {
    /// Writes the node's files. Nothing runs yet.
    pub fn prepare(topology: &Topology, binary: &Path, hook: Hook) -> Result<Self> {
        let interfaces: Vec<String> = SUBSCRIBER_INTERFACES
            .iter()
            .map(|name| format!("{{name: {name}, role: subscriber, hook: {hook}}}"))
            .collect();
        let node = Node::prepare(
            binary,
            &topology.gateway,
            &policy_file(Match::Syn),
            &format!("[{}]", interfaces.join(", ")),
            "http: 127.0.0.1:9625\n",
        )?;
        Ok(Self { node, hook, programs: BTreeSet::new() })
    }

    /// Starts `opb run` and waits until it enforces on the wanted hook.
    pub fn run(&mut self) -> Result<()> {
        self.node.run()?;
        let attached = self.attached()?;
        self.programs.extend(attached.iter().map(|program| program.id));
        for name in SUBSCRIBER_INTERFACES {
            if !attached.iter().any(|found| found.interface == name && self.hook.fits(found)) {
                bail!("opb enforces, but not with hook {} on {name}: {attached:?}", self.hook);
            }
        }
        Ok(())
    }

    /// Puts a policy into place and applies it by `opb reload`.
    pub fn reload(&self, judged: Match) -> Result<()> {
        self.node.write("policy.yaml", &policy_file(judged))?;
        self.node.ask(&["reload"]).map(drop)
    }

    /// The same by SIGHUP. The generation shows when it is done.
    pub fn reload_by_signal(&self, judged: Match) -> Result<()> {
        let generation = |status: &Value| status.pointer("/policy/generation").cloned();
        let before = generation(&self.node.status()?).context("no generation in opb status")?;
        self.node.write("policy.yaml", &policy_file(judged))?;
        self.node.signal(Signal::SIGHUP)?;
        self.node.wait_status("another generation after SIGHUP", |status| {
            generation(status).is_some_and(|now| now != before)
        })
    }

    /// Stops, detaches and removes the node's bpffs. Fails if an attachment, a pin or an object in the kernel is left.
    pub fn remove(mut self) -> Result<()> {
        if self.node.pid().is_ok() {
            self.node.stop()?;
        }
        let mut objects = self.node.objects()?;
        objects.programs.append(&mut self.programs);
        self.node.detach()?;
        let attached = self.attached()?;
        if !attached.is_empty() {
            bail!("still attached after opb detach: {attached:?}");
        }
        objects.wait_freed()?;
        let mount = self.node.mount().to_owned();
        drop(self);
        if mount.exists() {
            bail!("the bpffs at {} is still there", mount.display());
        }
        Ok(())
    }

    /// What is attached to the gateway's filtered interfaces.
    pub fn attached(&self) -> Result<Vec<Attachment>> {
        attached::attached(&self.node.gateway, &SUBSCRIBER_INTERFACES)
    }
}

crate::deref!(OpbNode, node: Node);
