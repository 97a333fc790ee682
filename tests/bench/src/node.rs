//! `opb run` on a gateway, used as an operator uses it.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::{fs::symlink, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use opb_common::ABI_VERSION;
use opb_lab::{
    bpffs::Bpffs,
    netns::Netns,
    process::{self, Process},
    slots::filled,
    workdir::Workdir,
};
use serde_json::Value;

use crate::gateway::ACCESS;

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
    /// Files of a node, which has no policy yet, for the gateway's access interface.
    pub fn prepare(opb: &Path, gateway: &Netns, hook: &str) -> Result<Self> {
        Self::prepare_on(opb, gateway, ACCESS, hook)
    }

    /// The same for all interfaces that the pattern fits.
    pub fn prepare_on(opb: &Path, gateway: &Netns, interfaces: &str, hook: &str) -> Result<Self> {
        let node = Self {
            daemon: None,
            binary: opb.canonicalize().with_context(|| format!("no opb at {}", opb.display()))?,
            gateway: gateway.clone(),
            bpffs: Bpffs::mount()?,
            workdir: Workdir::new("bench")?,
        };
        let text = format!(
            "version: 1\npolicy: {}\ninterfaces: [{{name: \"{interfaces}\", role: subscriber, hook: {hook}}}]\nstate: {}\ncontrol: {}\nhttp: off\npins: {}\nwatch: off\n",
            node.path("policy").display(),
            node.path("state").display(),
            node.path("opb.sock").display(),
            node.bpffs.path().join("opb").display(),
        );
        fs::write(node.path("opb.yaml"), text)?;
        Ok(node)
    }

    /// Serves pages and tells of suspects as `lines` of the node file say, from the next start on.
    pub fn configure(&self, lines: &str) -> Result<()> {
        let file = self.path("opb.yaml");
        let text = fs::read_to_string(&file)?;
        ensure!(text.contains("http: off\n"), "{text}");
        Ok(fs::write(file, text.replace("http: off\n", lines))?)
    }

    /// A directory for a policy.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.path(name);
        fs::create_dir(&directory)?;
        Ok(directory)
    }

    /// Makes a directory the policy, for the next start or reload.
    pub fn select(&self, directory: &Path) -> Result<()> {
        let new = self.path("policy.new");
        symlink(directory, &new)?;
        Ok(fs::rename(new, self.path("policy"))?)
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

    /// Sends JSON to the control socket. A refusal is an error.
    pub fn post(&self, path: &str, body: &Value) -> Result<()> {
        let body = body.to_string();
        let mut socket = UnixStream::connect(self.path("opb.sock"))?;
        write!(
            socket,
            "POST {path} HTTP/1.1\r\nHost: opb\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        Ok(())
    }

    /// Bytes that the maps of the policy occupy in the kernel.
    pub fn image_bytes(&self) -> Result<u64> {
        let pins = self.bpffs.path().join("opb").join(format!("v{ABI_VERSION}"));
        let mut sum = 0;
        for map in filled(&pins.join("policy"))?.into_iter().chain(filled(&pins.join("tail"))?) {
            let info = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
            let info = fs::read_to_string(info)?;
            let locked = info.lines().find_map(|line| line.strip_prefix("memlock:"));
            sum += locked
                .context("the kernel does not say how large a map is")?
                .trim()
                .parse::<u64>()?;
        }
        Ok(sum)
    }

    /// Resident memory of the daemon, in bytes.
    pub fn resident(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most of it since the daemon started, or since [`Self::reset_peak`].
    pub fn peak(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    pub fn reset_peak(&self) -> Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.id()?), "5")?)
    }

    fn memory(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()?))?;
        let found = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = found.with_context(|| format!("no {name}"))?.trim().trim_end_matches(" kB");
        Ok(kib.parse::<u64>()? * 1024)
    }

    /// The namespace that the daemon runs in.
    pub fn netns(&self) -> &Netns {
        &self.gateway
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
