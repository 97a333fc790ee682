//! The gateway as a node: its files, and the real `opb` on them.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result};
use opb_lab::process::{self, Process, wait_until};
use serde_json::Value;

use super::net::Net;

pub(crate) const OPB: &str = env!("CARGO_BIN_EXE_opb");
/// Emulated machines are slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

pub(crate) struct Node<'a> {
    net: &'a Net,
    directory: tempfile::TempDir,
    daemon: Option<Process>,
}

impl<'a> Node<'a> {
    /// `interfaces` is the value of the node file's key; what is pinned is below `bpffs`.
    pub(crate) fn new(
        net: &'a Net,
        bpffs: &opb_lab::bpffs::Bpffs,
        policy: &str,
        interfaces: &str,
    ) -> Result<Self> {
        let node = Self { net, directory: tempfile::tempdir()?, daemon: None };
        let text = format!(
            "version: 1\npolicy: policy.yaml\nstate: {}\ncontrol: {}\nhttp: off\npins: {}\ninterfaces: {interfaces}\n",
            node.path("state").display(),
            node.path("opb.sock").display(),
            bpffs.path().join("opb").display()
        );
        node.write("policy.yaml", policy)?;
        node.write("opb.yaml", &text)?;
        Ok(node)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.path(name), text)?)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command that reads the node file.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.net.gateway.command(OPB);
        command.args(arguments).arg("--config").arg(self.path("opb.yaml"));
        command
    }

    /// Starts the daemon, and waits until it is enforcing.
    pub(crate) fn run(&mut self) -> Result<()> {
        let log = self.path("opb.log");
        let mut daemon = Process::spawn("opb run", &mut self.command(&["run"]), &log)?;
        daemon.wait_ready(LIMIT, || Ok(self.status()?["state"] == "enforcing"))?;
        self.daemon = Some(daemon);
        Ok(())
    }

    pub(crate) fn status(&self) -> Result<Value> {
        let mut command = self.net.gateway.command(OPB);
        command.args(["status", "--json", "--control"]).arg(self.path("opb.sock"));
        let said = process::run(&mut command, LIMIT)?.stdout;
        Ok(serde_json::from_str(&said).unwrap_or(Value::Null))
    }

    /// The status once `condition` holds of it.
    pub(crate) fn status_when(&self, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let found = wait_until(LIMIT, || {
            last = self.status()?;
            Ok(condition(&last).then(|| last.clone()))
        })?;
        found.with_context(|| format!("the status never became what it should: {last}"))
    }

    /// Ends the daemon, and removes what is in the kernel.
    pub(crate) fn detach(mut self) -> Result<()> {
        self.daemon.take().context("opb does not run")?.stop()?;
        process::check(&mut self.command(&["detach"])).map(drop)
    }
}

/// The interfaces that a status says are covered.
pub(crate) fn covered(status: &Value) -> usize {
    status["interfaces"].as_array().map_or(0, Vec::len)
}
