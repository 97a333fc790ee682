//! The filter under test: `opb run` in the gateway's namespace, used only as an operator can use it.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    attached::{self, Attachment},
    bpffs::Bpffs,
    counts::Counter,
    netns::Netns,
    process::{self, Output, Process, wait_until},
    topology::{
        DYNAMIC_PREFIXES, FIXED_PREFIXES, RELAY_ADDRESSES, SUBSCRIBER_INTERFACES, Topology,
        WATCHED_PREFIXES,
    },
    workdir::unique,
};

/// How long `opb` may take for anything: a machine may be busy, but a hang has to end.
const LIMIT: Duration = Duration::from_secs(20);

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
    /// Whether an attachment is what this setting asks for on a veth pair. `auto` means native XDP there.
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

/// The table's policy, as an operator would write it.
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

/// Files, pins and processes of one `opb` node.
#[derive(Debug)]
pub struct OpbNode {
    daemon: Option<Process>,
    binary: PathBuf,
    gateway: Netns,
    bpffs: Bpffs,
    dir: PathBuf,
    hook: Hook,
    /// Programs that were seen attached: they must be gone at the end.
    programs: BTreeSet<u64>,
}

impl OpbNode {
    /// Writes the node's files. Nothing runs yet.
    pub fn prepare(topology: &Topology, binary: &Path, hook: Hook) -> Result<Self> {
        let binary = binary
            .canonicalize()
            .with_context(|| format!("there is no opb at {}", binary.display()))?;
        let dir = topology.dir().join(unique("node"));
        fs::create_dir_all(dir.join("state"))?;
        let gateway = topology.gateway.clone();
        let node = Self {
            daemon: None,
            binary,
            gateway,
            bpffs: Bpffs::mount()?,
            dir,
            hook,
            programs: BTreeSet::new(),
        };
        node.write_policy(Match::Syn)?;
        fs::write(node.config(), node.node_file())?;
        Ok(node)
    }

    /// Starts `opb run` and waits until it enforces.
    pub fn run(&mut self) -> Result<()> {
        let mut command = self.opb("run");
        command.arg("--config").arg(self.config());
        let mut daemon = Process::spawn("opb run", &mut command, &self.log())?;
        daemon.wait_ready(LIMIT, || Ok(self.state()?.as_deref() == Some("enforcing")))?;
        self.daemon = Some(daemon);
        let attached = self.attached()?;
        self.programs.extend(attached.iter().map(|program| program.id));
        for name in SUBSCRIBER_INTERFACES {
            if !attached.iter().any(|found| found.interface == name && self.hook.fits(found)) {
                bail!("opb enforces, but not with hook {} on {name}: {attached:?}", self.hook);
            }
        }
        Ok(())
    }

    /// `opb status --json`, or nothing while no daemon answers.
    pub fn status(&self) -> Result<Option<Value>> {
        let Output { status, stdout, .. } = self.ask("status")?;
        if !status.success() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&stdout).with_context(|| format!("opb status: {stdout}"))?))
    }

    pub fn counters(&self) -> Result<Vec<Counter>> {
        let Output { status, stdout, stderr } = self.ask("counters")?;
        if !status.success() {
            bail!("opb counters: {status}\n{stderr}");
        }
        stdout
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("opb counters: {line}")))
            .collect()
    }

    /// Puts a policy into place and has it applied with `opb reload`.
    pub fn reload(&self, judged: Match) -> Result<()> {
        self.write_policy(judged)?;
        let Output { status, stdout, stderr } = self.ask("reload")?;
        if !status.success() {
            bail!("opb reload: {status}\n{stdout}{stderr}");
        }
        Ok(())
    }

    /// The same by SIGHUP, which answers nothing: the generation tells when it is done.
    pub fn reload_by_signal(&self, judged: Match) -> Result<()> {
        let daemon = self.daemon.as_ref().context("opb does not run")?;
        let before = self.generation()?;
        self.write_policy(judged)?;
        daemon.signal(Signal::SIGHUP)?;
        let moved = wait_until(LIMIT, || Ok((self.generation()? != before).then_some(())))?;
        moved.with_context(|| format!("generation {before} is still in force after SIGHUP"))
    }

    /// Ends the daemon the hard way. What it put into the kernel stays.
    pub fn kill(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("opb does not run")?;
        daemon.kill()?;
        Ok(())
    }

    /// Ends the daemon as a service manager does. What it put into the kernel stays.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            let status = daemon.stop()?;
            if !status.success() {
                bail!("opb run ended with {status} after SIGTERM\n{}", daemon.said()?);
            }
        }
        Ok(())
    }

    /// `opb detach`, then a look at the kernel: no attachment, pin or program may be left.
    pub fn detach(&mut self) -> Result<()> {
        let mut command = self.opb("detach");
        process::check(command.arg("--config").arg(self.config()))?;
        let attached = self.attached()?;
        if !attached.is_empty() {
            bail!("still attached after opb detach: {attached:?}");
        }
        let pins = self.bpffs.pins()?;
        if !pins.is_empty() {
            bail!("still pinned after opb detach: {}", pins.join(", "));
        }
        // The kernel frees programs a moment after the last reference is gone.
        let mut left = Vec::new();
        let gone = wait_until(Duration::from_secs(5), || {
            let loaded = attached::loaded_programs()?;
            left = self.programs.iter().filter(|id| loaded.contains(id)).copied().collect();
            Ok(left.is_empty().then_some(()))
        })?;
        gone.with_context(|| format!("programs {left:?} are still loaded after opb detach"))
    }

    /// Detaches and removes the node's bpffs.
    pub fn remove(mut self) -> Result<()> {
        self.stop()?;
        self.detach()?;
        // Without its files, `Drop` knows that there is nothing left to detach.
        fs::remove_dir_all(&self.dir)?;
        let mount = self.bpffs.path().to_owned();
        drop(self);
        if mount.exists() {
            bail!("the bpffs at {} is still there", mount.display());
        }
        Ok(())
    }

    /// What is attached to the gateway's filtered interfaces.
    pub fn attached(&self) -> Result<Vec<Attachment>> {
        attached::attached(&self.gateway, &SUBSCRIBER_INTERFACES)
    }

    /// What the daemon has said.
    pub fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn node_file(&self) -> String {
        let mut text = format!("version: 1\npolicy: {}\ninterfaces:\n", self.policy().display());
        for name in SUBSCRIBER_INTERFACES {
            text += &format!("  - name: {name}\n    role: subscriber\n    hook: {}\n", self.hook);
        }
        text += &format!(
            "state: {}\ncontrol: {}\nhttp: 127.0.0.1:9625\npins: {}\n",
            self.dir.join("state").display(),
            self.control().display(),
            self.bpffs.path().join("opb").display(),
        );
        text
    }

    /// Replaces the file in one step: opb may look at any moment.
    fn write_policy(&self, judged: Match) -> Result<()> {
        let new = self.dir.join("policy.new");
        fs::write(&new, policy_file(judged))?;
        fs::rename(new, self.policy())?;
        Ok(())
    }

    fn state(&self) -> Result<Option<String>> {
        let status = self.status()?;
        Ok(status.and_then(|status| Some(status.get("state")?.as_str()?.to_owned())))
    }

    fn generation(&self) -> Result<u64> {
        let status = self.status()?.context("opb does not answer")?;
        status
            .pointer("/policy/generation")
            .and_then(Value::as_u64)
            .with_context(|| format!("no generation in opb status: {status}"))
    }

    fn ask(&self, command: &str) -> Result<Output> {
        let mut command = self.opb(command);
        process::run(command.arg("--json").arg("--control").arg(self.control()), LIMIT)
    }

    fn opb(&self, subcommand: &str) -> Command {
        let mut command = self.gateway.command(&self.binary);
        command.arg(subcommand).env_remove("OPB_CONTROL").env_remove("OPB_CONFIG");
        command
    }

    fn config(&self) -> PathBuf {
        self.dir.join("opb.yaml")
    }

    fn policy(&self) -> PathBuf {
        self.dir.join("policy.yaml")
    }

    fn control(&self) -> PathBuf {
        self.dir.join("opb.sock")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("opb.log")
    }
}

impl Drop for OpbNode {
    /// After a failure: the namespace and the bpffs would go anyway, but only once both are unused.
    fn drop(&mut self) {
        drop(self.daemon.take());
        if self.dir.exists() {
            let _ = process::run(self.opb("detach").arg("--config").arg(self.config()), LIMIT);
        }
    }
}
