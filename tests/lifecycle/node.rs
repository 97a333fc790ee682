//! One node on a line, used as an operator can use it, and what the kernel says of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use opb_lab::{
    bpffs::Bpffs,
    frames::{Ethernet, Ipv4, Tcp},
    line::{Ends, Line, Way},
    process::{self, Output, Process, wait_until},
};
use serde_json::Value;
use tempfile::TempDir;

const OPB: &str = env!("CARGO_BIN_EXE_opb");
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) const POLICY: &str = "\
version: 1
relays:
  isp: {addresses: [198.51.100.25]}
groups:
  dynamic: {prefixes: [203.0.113.0/24], relays: [isp]}
";

pub(crate) struct Node {
    daemon: Option<Process>,
    pub(crate) ends: Ends,
    pub(crate) line: Line,
    dir: TempDir,
    bpffs: Bpffs,
}

/// Link and program by the name of the link's pin.
pub(crate) type Links = BTreeMap<String, (u64, u64)>;

impl Node {
    /// A line and the node's files. `interfaces` is the value of the node file's key.
    pub(crate) fn new(interfaces: &str) -> Result<Self> {
        let line = Line::lay()?;
        let node = Self {
            daemon: None,
            ends: line.open()?,
            line,
            dir: tempfile::tempdir()?,
            bpffs: Bpffs::mount()?,
        };
        node.write("policy.yaml", POLICY)?;
        node.configure(interfaces)?;
        Ok(node)
    }

    pub(crate) fn configure(&self, interfaces: &str) -> Result<()> {
        let (state, control) = (self.path("state"), self.control());
        let text = format!(
            "version: 1\npolicy: policy.yaml\ninterfaces: {interfaces}\nstate: {}\ncontrol: {}\nhttp: off\npins: {}\n",
            state.display(),
            control.display(),
            self.pins().display(),
        );
        self.write("opb.yaml", &text)
    }

    /// Replaces a file in one step.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.path("new"), text)?;
        Ok(fs::rename(self.path("new"), self.path(name))?)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.bpffs.path().join("opb")
    }

    /// Everything that is pinned.
    pub(crate) fn pinned(&self) -> Result<Vec<String>> {
        self.bpffs.pins()
    }

    fn control(&self) -> PathBuf {
        self.path("opb.sock")
    }

    /// Starts the daemon, and waits until it reports `state`.
    pub(crate) fn run(&mut self, state: &str) -> Result<()> {
        let mut command = self.command(&["run", "--config"]);
        command.arg(self.path("opb.yaml"));
        let mut daemon = Process::spawn("opb run", &mut command, &self.path("opb.log"))?;
        daemon.wait_ready(LIMIT, || Ok(self.state()?.as_deref() == Some(state)))?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// A second daemon with files of its own on the same interfaces.
    pub(crate) fn run_beside(&self, config: &str, control: &str) -> Result<Process> {
        let mut command = self.command(&["run", "--config"]);
        command.arg(self.path(config));
        let mut daemon = Process::spawn("opb run", &mut command, &self.path("second.log"))?;
        daemon.wait_ready(LIMIT, || {
            let mut status = self.command(&["status", "--json", "--control"]);
            Ok(!process::run(status.arg(self.path(control)), LIMIT)?.stdout.is_empty())
        })?;
        Ok(daemon)
    }

    /// Pins every link once more, where the daemon does not look. Until it is dropped.
    pub(crate) fn hold_links(&self) -> Result<Bpffs> {
        let elsewhere = Bpffs::mount()?;
        for (name, (link, _)) in self.links()? {
            let pin = elsewhere.path().join(name);
            let (link, pin) = (link.to_string(), pin.display().to_string());
            process::check(Command::new("bpftool").args(["link", "pin", "id", &link, &pin]))?;
        }
        Ok(elsewhere)
    }

    /// Without any chance to clean up.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("opb does not run")?.kill()?;
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        let status = self.daemon.take().context("opb does not run")?.stop()?;
        ensure!(status.success(), "{status}");
        Ok(())
    }

    pub(crate) fn hang_up(&self) -> Result<()> {
        self.daemon.as_ref().context("opb does not run")?.signal(Signal::SIGHUP)
    }

    pub(crate) fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path("opb.log"))?)
    }

    /// The status once `condition` holds of it.
    pub(crate) fn status_when(&self, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = None;
        let found = wait_until(LIMIT, || {
            last = self.status()?;
            Ok(last.clone().filter(&condition))
        })?;
        found.with_context(|| format!("the status never became what it should: {last:?}"))
    }

    fn status(&self) -> Result<Option<Value>> {
        let Output { stdout, .. } = self.opb(&["status", "--json"])?;
        Ok(if stdout.is_empty() { None } else { Some(serde_json::from_str(&stdout)?) })
    }

    fn state(&self) -> Result<Option<String>> {
        let status = self.status()?;
        Ok(status.and_then(|status| Some(status["state"].as_str()?.to_owned())))
    }

    /// Packets of one counter.
    pub(crate) fn counter(&self, verdict: &str, reason: &str) -> Result<u64> {
        let Output { stdout, .. } = self.opb(&["counters", "--json"])?;
        let mut packets = 0;
        for line in stdout.lines() {
            let row: Value = serde_json::from_str(line)?;
            if row["verdict"] == verdict && row["reason"] == reason {
                packets += row["packets"].as_u64().context("a number")?;
            }
        }
        Ok(packets)
    }

    /// A command that talks to the daemon.
    pub(crate) fn opb(&self, arguments: &[&str]) -> Result<Output> {
        process::run(self.command(arguments).arg("--control").arg(self.control()), LIMIT)
    }

    /// A command that reads the node file.
    pub(crate) fn opb_with_config(&self, arguments: &[&str]) -> Result<Output> {
        self.opb_with(arguments, &self.path("opb.yaml"))
    }

    pub(crate) fn opb_with(&self, arguments: &[&str], config: &Path) -> Result<Output> {
        process::run(self.command(arguments).arg("--config").arg(config), LIMIT)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.line.gateway.command(OPB);
        command.args(arguments).env_remove("OPB_CONTROL").env_remove("OPB_CONFIG");
        command
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

    /// The links (or, for clsact, the programs that stand for them) that are pinned.
    pub(crate) fn links(&self) -> Result<Links> {
        let mut links = Links::new();
        for pin in self.pinned()?.iter().filter(|pin| pin.starts_with("opb/v1/links/")) {
            let path = self.bpffs.path().join(pin);
            let kind = if pin.contains("clsact") { "prog" } else { "link" };
            let shown = bpftool(&[kind, "show", "pinned", &path.display().to_string()])?;
            let id = shown["id"].as_u64().context("an id")?;
            let program = if kind == "prog" { Some(id) } else { shown["prog_id"].as_u64() };
            let name = pin.rsplit('/').next().unwrap_or(pin).to_owned();
            // A clsact filter has no link; what stays is the filter's place.
            links
                .insert(name, (if kind == "prog" { 0 } else { id }, program.context("a program")?));
        }
        ensure!(!links.is_empty(), "nothing is attached");
        Ok(links)
    }

    /// `opb detach`, and a look at everything that must be gone.
    pub(crate) fn detach(&self) -> Result<()> {
        let links = self.links()?;
        let programs: BTreeSet<u64> = links.values().map(|(_, program)| *program).collect();
        let mut maps = BTreeSet::new();
        for program in &programs {
            let shown = bpftool(&["prog", "show", "id", &program.to_string()])?;
            maps.extend(
                shown["map_ids"].as_array().into_iter().flatten().filter_map(Value::as_u64),
            );
        }
        ensure!(!maps.is_empty(), "programs without maps");
        let Output { status, stderr, .. } = self.opb_with_config(&["detach"])?;
        ensure!(status.success(), "opb detach: {status} {stderr}");
        ensure!(self.pinned()?.is_empty(), "still pinned: {:?}", self.pinned()?);
        ensure!(!self.pins().exists(), "the pin directory is still there");
        self.enforces_nothing("after opb detach")?;
        let links: BTreeSet<u64> =
            links.values().map(|(link, _)| *link).filter(|id| *id != 0).collect();
        for (kind, ids) in [("link", links), ("prog", programs), ("map", maps)] {
            // The kernel frees what is unused a moment later.
            let mut left = Vec::new();
            let gone = wait_until(Duration::from_secs(10), || {
                let shown = bpftool(&[kind, "show"])?;
                let shown = shown.as_array().context("a list")?;
                let all = shown.iter().filter_map(|object| object["id"].as_u64());
                left = all.filter(|id| ids.contains(id)).collect();
                Ok(left.is_empty().then_some(()))
            })?;
            gone.with_context(|| format!("bpftool {kind} show: {left:?} are left"))?;
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Before its namespace and bpffs go.
        drop(self.daemon.take());
    }
}

pub(crate) fn bpftool(arguments: &[&str]) -> Result<Value> {
    let shown = process::check(Command::new("bpftool").arg("-j").args(arguments))?;
    serde_json::from_str(&shown).with_context(|| format!("bpftool {arguments:?}: {shown}"))
}

pub(crate) fn mail_to(destination: [u8; 4]) -> Vec<u8> {
    syn([203, 0, 113, 9], destination, 25, b"")
}

fn web() -> Vec<u8> {
    syn([203, 0, 113, 9], [192, 0, 2, 25], 80, b"")
}

pub(crate) fn syn(source: [u8; 4], destination: [u8; 4], port: u16, data: &[u8]) -> Vec<u8> {
    Ethernet::new().carrying(&Ipv4::new(source, destination).carrying(Tcp::syn_to(port).data(data)))
}
