//! `opb run` on a gateway, used as an operator uses it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use opb_lab::{
    bpffs::Bpffs,
    netns::Netns,
    process::{self, Process},
    workdir::Workdir,
};
use serde_json::Value;

/// Longer than anything here takes: a hang has to end.
const LIMIT: Duration = Duration::from_secs(120);

pub struct Node {
    daemon: Option<Process>,
    binary: PathBuf,
    gateway: Netns,
    bpffs: Bpffs,
    workdir: Workdir,
}

impl Node {
    /// Files of a node whose policy is the directory [`Node::policy`], still empty. `interfaces` is the value of the node
    /// file's key.
    pub fn prepare(opb: &Path, gateway: &Netns, interfaces: &str) -> Result<Self> {
        let node = Self {
            daemon: None,
            binary: opb.canonicalize().with_context(|| format!("no opb at {}", opb.display()))?,
            gateway: gateway.clone(),
            bpffs: Bpffs::mount()?,
            workdir: Workdir::new("bench")?,
        };
        fs::create_dir(node.policy())?;
        let text = format!(
            "version: 1\npolicy: {}\ninterfaces: {interfaces}\nstate: {}\ncontrol: {}\nhttp: off\npins: {}\nwatch: off\n",
            node.policy().display(),
            node.path("state").display(),
            node.path("opb.sock").display(),
            node.bpffs.path().join("opb").display(),
        );
        fs::write(node.path("opb.yaml"), text)?;
        Ok(node)
    }

    pub fn policy(&self) -> PathBuf {
        self.path("policy")
    }

    /// Starts the daemon and waits until it enforces.
    pub fn run(&mut self) -> Result<()> {
        let mut command = self.command(&["run", "--config"]);
        command.arg(self.path("opb.yaml"));
        let mut daemon = Process::spawn("opb run", &mut command, &self.path("opb.log"))?;
        daemon.wait_ready(LIMIT, || {
            let status = process::run(&mut self.command(&["status", "--json"]), LIMIT)?;
            let status: Option<Value> = serde_json::from_str(&status.stdout).ok();
            let state = status.as_ref().and_then(|status| status.get("state")?.as_str());
            Ok(state == Some("enforcing"))
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Process id of the daemon.
    pub fn id(&self) -> Result<u32> {
        Ok(self.daemon.as_ref().context("opb does not run")?.id())
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.gateway.command(&self.binary);
        command.args(arguments);
        command.env_remove("OPB_CONFIG").env("OPB_CONTROL", self.path("opb.sock"));
        command
    }

    /// What a command that must succeed writes.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let ended = process::run(&mut self.command(arguments), LIMIT)?;
        if !ended.status.success() {
            let log = fs::read_to_string(self.path("opb.log")).unwrap_or_default();
            bail!("opb {arguments:?}: {}{}{}\n{log}", ended.status, ended.stdout, ended.stderr);
        }
        Ok(ended.stdout)
    }

    /// Packets of all counters with this verdict.
    pub fn counted(&self, verdict: &str) -> Result<u64> {
        let mut sum = 0;
        for line in self.ask(&["counters", "--json"])?.lines() {
            let row: Value = serde_json::from_str(line).context("opb counters")?;
            if row.get("verdict").and_then(Value::as_str) == Some(verdict) {
                sum += row.get("packets").and_then(Value::as_u64).unwrap_or_default();
            }
        }
        Ok(sum)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.workdir.path().join(name)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.daemon.take());
        let config = self.path("opb.yaml");
        let _ = process::run(self.command(&["detach", "--config"]).arg(config), LIMIT);
    }
}
