//! The daemon as a process.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{LIMIT, Node};
use crate::process::Process;

impl Node {
    /// Starts the daemon and waits until it enforces.
    pub fn run(&mut self) -> Result<()> {
        self.run_until("enforcing")
    }

    /// Starts the daemon and waits until it answers, in whatever state.
    pub fn run_degraded(&mut self) -> Result<()> {
        self.spawn(self.command(&["run"]), |node| Ok(node.state()?.is_some()))
    }

    /// Starts the daemon and waits until it reports `state`.
    pub fn run_until(&mut self, state: &str) -> Result<()> {
        self.spawn(self.command(&["run"]), |node| Ok(node.state()?.as_deref() == Some(state)))
    }

    /// Starts the daemon by a command that becomes it, and waits until it enforces.
    pub fn launch(&mut self, command: Command) -> Result<()> {
        self.spawn(command, |node| Ok(node.state()?.as_deref() == Some("enforcing")))
    }

    fn spawn(
        &mut self,
        mut command: Command,
        is_ready: impl Fn(&Self) -> Result<bool>,
    ) -> Result<()> {
        let mut daemon = Process::spawn("opb run", &mut command, &self.path("opb.log"))?;
        daemon.wait_ready(LIMIT, || is_ready(self))?;
        self.daemon = Some(daemon);
        Ok(())
    }

    fn daemon(&self) -> Result<&Process> {
        self.daemon.as_ref().context("opb does not run")
    }

    /// Process id of the daemon.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.daemon()?.id())
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.daemon()?.signal(signal)
    }

    /// Ends the daemon without a chance to clean up. What it put into the kernel stays.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("opb does not run")?.kill()?;
        Ok(())
    }

    /// Ends the daemon as a service manager does. What it put into the kernel stays.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.daemon.take().context("opb does not run")?.stop()?;
        ensure!(status.success(), "opb run ended with {status}\n{}", self.said());
        Ok(())
    }

    /// What all daemons of this node have written so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.path("opb.log")).unwrap_or_default()
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
        Ok(fs::write(format!("/proc/{}/clear_refs", self.pid()?), "5")?)
    }

    /// A line of `/proc/PID/status` that is in kB, in bytes.
    pub fn memory(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let found = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = found.with_context(|| format!("no {name}"))?.trim().trim_end_matches(" kB");
        Ok(kib.parse::<u64>()? * 1024)
    }
}
