//! A gateway with one subscriber's cable, and `opb` on it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use opb_lab::{
    bpffs::Bpffs,
    netns::{Netns, veth},
    process::{self, Output, Process, wait_until},
};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) const POLICY: &str = "\
version: 1
relays:
  isp: {addresses: [198.51.100.25]}
groups:
  dyn: {prefixes: [203.0.113.0/24, \"2001:db8:1000::/36\"], relays: [isp]}
  open: {prefixes: [192.0.2.0/24], action: monitor}
";

pub(crate) struct Node {
    daemon: Option<Process>,
    pub(crate) gateway: Netns,
    pub(crate) subscriber: Netns,
    bpffs: Option<Bpffs>,
    directory: TempDir,
}

impl Node {
    /// Namespaces, cable and files; nothing runs. `more` are further lines of the node file.
    pub(crate) fn prepare(more: &str) -> Result<Self> {
        Self::with_interfaces("{name: sub0, role: subscriber}", more)
    }

    pub(crate) fn with_interfaces(interfaces: &str, more: &str) -> Result<Self> {
        let (gateway, subscriber) = (Netns::new("gateway")?, Netns::new("subscriber")?);
        veth((&gateway, "sub0"), (&subscriber, "eth0"))?;
        let directory = tempfile::tempdir()?;
        let bpffs = Some(Bpffs::mount()?);
        let node = Self { daemon: None, gateway, subscriber, bpffs, directory };
        node.write("policy.yaml", POLICY)?;
        let text = format!(
            "version: 1\npolicy: policy.yaml\ninterfaces: [{interfaces}]\nstate: {}\ncontrol: {}\nhttp: off\npins: {}\n{more}",
            node.path("state").display(),
            node.path("opb.sock").display(),
            node.mount().join("opb").display(),
        );
        node.write("opb.yaml", &text)?;
        Ok(node)
    }

    /// The same with `opb run` in it, enforcing.
    pub(crate) fn start(more: &str) -> Result<Self> {
        let mut node = Self::prepare(more)?;
        node.run()?;
        Ok(node)
    }

    pub(crate) fn run(&mut self) -> Result<()> {
        self.run_until(|status| status.status.success())
    }

    /// The same, and it need not enforce: it answers.
    pub(crate) fn run_degraded(&mut self) -> Result<()> {
        self.run_until(|status| status.stdout.starts_with('{'))
    }

    fn run_until(&mut self, is_ready: impl Fn(&Output) -> bool) -> Result<()> {
        let mut command = self.command(&["run", "--config"]);
        command.arg(self.path("opb.yaml"));
        let mut daemon = Process::spawn("opb run", &mut command, &self.path("opb.log"))?;
        daemon.wait_ready(LIMIT, || {
            Ok(self.opb(&["status", "--json"]).is_ok_and(|ended| is_ready(&ended)))
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("opb does not run")?.kill()?;
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        let status = self.daemon.take().context("opb does not run")?.stop()?;
        if status.success() { Ok(()) } else { bail!("opb run ended with {status}") }
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.daemon.as_ref().context("opb does not run")?.signal(signal)
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        Ok(self.daemon.as_ref().context("opb does not run")?.id())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Takes the bpffs away, as somebody who tidies up might, and whatever is pinned with it.
    pub(crate) fn unmount(&self) -> Result<()> {
        nix::mount::umount2(&self.mount(), nix::mount::MntFlags::MNT_DETACH)?;
        Ok(())
    }

    pub(crate) fn remount(&self) -> Result<()> {
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("bpf"), &self.mount(), Some("bpf"), flags, None::<&str>)?;
        Ok(())
    }

    pub(crate) fn mount(&self) -> PathBuf {
        self.bpffs.as_ref().map(|bpffs| bpffs.path().to_owned()).unwrap_or_default()
    }

    /// Replaces a file in one step.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let draft = self.path(&format!(".{name}"));
        fs::write(&draft, text)?;
        Ok(fs::rename(draft, self.path(name))?)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.gateway.command(Path::new(env!("CARGO_BIN_EXE_opb")));
        command.args(arguments).current_dir(self.directory.path());
        command.env_remove("OPB_CONFIG").env("OPB_CONTROL", self.path("opb.sock"));
        let clock = self.path("clock");
        if clock.exists() {
            // libfaketime, between the program and the C library's clock.
            command.env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1");
            command.env("FAKETIME_TIMESTAMP_FILE", clock).env("FAKETIME_NO_CACHE", "1");
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_DISABLE_SHM", "1");
        }
        command
    }

    /// Sets the clock of daemon and commands, and from the first time on gives them one of their own.
    pub(crate) fn set_clock(&self, ahead: Duration) -> Result<()> {
        self.write("clock", &format!("+{}s", ahead.as_secs()))
    }

    pub(crate) fn opb(&self, arguments: &[&str]) -> Result<Output> {
        process::run(&mut self.command(arguments), LIMIT)
    }

    /// What a command that must succeed writes.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<String> {
        let Output { status, stdout, stderr } = self.opb(arguments)?;
        if !status.success() {
            bail!("opb {arguments:?}: {status}\n{stdout}{stderr}\n{}", self.said());
        }
        Ok(stdout)
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.ask(&[arguments, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("{arguments:?}: {text}"))
    }

    pub(crate) fn status(&self) -> Result<Value> {
        let Output { stdout, stderr, .. } = self.opb(&["status", "--json"])?;
        serde_json::from_str(&stdout).with_context(|| format!("{stdout}{stderr}\n{}", self.said()))
    }

    /// Verdict and reason of the live image on a SYN to port 25.
    pub(crate) fn verdict(&self, src: &str, dst: &str) -> Result<String> {
        let explained = self.json(&["explain", "--src", src, "--dst", dst])?;
        let text = |key| explained.get(key).and_then(Value::as_str).unwrap_or_default();
        Ok(format!("{} {}", text("verdict"), text("reason")))
    }

    /// Waits until a verdict is what is expected.
    pub(crate) fn wait_verdict(&self, src: &str, dst: &str, expected: &str) -> Result<Duration> {
        let start = Instant::now();
        let reached =
            wait_until(LIMIT, || Ok((self.verdict(src, dst)? == expected).then_some(())))?;
        reached.with_context(|| {
            let found = self.verdict(src, dst);
            format!("{src} to {dst}: {found:?} and never {expected}\n{}", self.said())
        })?;
        Ok(start.elapsed())
    }

    pub(crate) fn wait_status(
        &self,
        what: &str,
        mut holds: impl FnMut(&Value) -> bool,
    ) -> Result<()> {
        let reached = wait_until(LIMIT, || Ok(holds(&self.status()?).then_some(())))?;
        reached.with_context(|| format!("{what}: {:?}\n{}", self.status(), self.said()))
    }

    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.path("opb.log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.daemon.take());
        let config = self.path("opb.yaml");
        let _ = process::run(self.command(&["detach", "--config"]).arg(config), LIMIT);
    }
}
