//! One node on a line.

use std::path::Path;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use opb_lab::{
    frames::{Ethernet, Ipv4, Tcp},
    line::{Ends, Line, Way},
    node,
    process::Process,
};

use node::LIMIT;
pub(crate) use opb_lab::attached::bpftool;

pub(crate) const POLICY: &str = "\
version: 1
relays:
  isp: {addresses: [198.51.100.25]}
groups:
  dynamic: {prefixes: [203.0.113.0/24], relays: [isp]}
";

pub(crate) struct Node {
    node: node::Node,
    pub(crate) ends: Ends,
    pub(crate) line: Line,
}

impl Node {
    /// A line and the node's files. `interfaces` is the value of the node file's key.
    pub(crate) fn new(interfaces: &str) -> Result<Self> {
        let line = Line::lay()?;
        let opb = Path::new(env!("CARGO_BIN_EXE_opb"));
        let node = node::Node::prepare(opb, &line.gateway, POLICY, interfaces, "")?;
        Ok(Self { node, ends: line.open()?, line })
    }

    pub(crate) fn configure(&self, interfaces: &str) -> Result<()> {
        self.node.configure(interfaces, "")
    }

    pub(crate) fn hang_up(&self) -> Result<()> {
        self.signal(Signal::SIGHUP)
    }

    /// A second daemon with files of its own on the same interfaces.
    pub(crate) fn run_beside(&self, config: &str, control: &str) -> Result<Process> {
        let mut command = self.command(&["run", "--config", config]);
        let mut daemon = Process::spawn("opb run", &mut command, &self.path("second.log"))?;
        daemon.wait_ready(LIMIT, || {
            let status = self.opb(&["status", "--json", "--control", control])?;
            Ok(!status.stdout.is_empty())
        })?;
        Ok(daemon)
    }

    /// Packets of one counter.
    pub(crate) fn counter(&self, verdict: &str, reason: &str) -> Result<u64> {
        let rows = self.counters()?.into_iter();
        Ok(rows
            .filter(|row| (&*row.verdict, &*row.reason) == (verdict, reason))
            .map(|row| row.packets)
            .sum())
    }

    /// Fails unless the policy is enforced upstream.
    pub(crate) fn enforces(&self, when: &str) -> Result<()> {
        ensure!(!self.ends.passes(Way::Up, &mail_to([192, 0, 2, 25]))?, "{when}: not enforced");
        ensure!(self.ends.passes(Way::Up, &mail_to([198, 51, 100, 25]))?, "{when}: relay blocked");
        ensure!(self.ends.passes(Way::Up, &web())?, "{when}: the web is blocked");
        Ok(())
    }

    pub(crate) fn enforces_nothing(&self, when: &str) -> Result<()> {
        let passes = self.ends.passes(Way::Up, &mail_to([192, 0, 2, 25]))?;
        ensure!(passes, "{when}: something is still enforced");
        Ok(())
    }

    /// `opb detach`. Fails if anything that the node had in the kernel is left.
    pub(crate) fn detach(&self) -> Result<()> {
        let objects = self.objects()?;
        self.node.detach()?;
        self.enforces_nothing("after opb detach")?;
        objects.wait_freed()
    }
}

opb_lab::deref!(Node, node: node::Node);

pub(crate) fn mail_to(destination: [u8; 4]) -> Vec<u8> {
    syn([203, 0, 113, 9], destination, 25, b"")
}

fn web() -> Vec<u8> {
    syn([203, 0, 113, 9], [192, 0, 2, 25], 80, b"")
}

pub(crate) fn syn(source: [u8; 4], destination: [u8; 4], port: u16, data: &[u8]) -> Vec<u8> {
    Ethernet::new().carrying(&Ipv4::new(source, destination).carrying(Tcp::syn_to(port).data(data)))
}
