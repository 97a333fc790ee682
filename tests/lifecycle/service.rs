//! `opb.service`: the sandbox, and what the daemon tells the service manager.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use opb_lab::{
    process::{self, Process},
    release,
};

use crate::node::{Node, POLICY};

const ACCESS: &str = "[{name: access, role: subscriber}]";

fn packaging(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(path)
}

/// The exposure that `systemd-analyze security` computes, times ten: docs/install.md lists what it
/// consists of.
const EXPOSURE: &str = "20";

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn the_unit_is_valid_and_its_sandbox_closed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let unit = fs::read_to_string(packaging("systemd/opb.service"))?;
    let unit = unit.replace("/usr/bin/opb", env!("CARGO_BIN_EXE_opb"));
    let path = directory.path().join("opb.service");
    fs::write(&path, unit)?;
    process::check(
        Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .arg(&path),
    )?;
    let security = ["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE];
    process::check(Command::new("systemd-analyze").args(security).arg(&path))?;
    Ok(())
}

/// A service manager: the socket on which it is told things.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    said: Vec<String>,
}

impl Manager {
    fn new(node: &Node) -> Result<Self> {
        let path = node.path("notify");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(Self { socket, path, said: Vec::new() })
    }

    fn start(&self, node: &Node) -> Result<Process> {
        let mut command = node.command(&["run"]);
        command
            .env("NOTIFY_SOCKET", &self.path)
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        Process::spawn("opb run", &mut command, &node.path("opb.log"))
    }

    /// Adds what comes within `time`. Returns when `is_last` holds for a line of it.
    fn listen(&mut self, time: Duration, is_last: impl Fn(&str) -> bool) -> Result<bool> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let mut message = [0; 4096];
            let Ok(length) = self.socket.recv(&mut message) else { continue };
            let text = std::str::from_utf8(&message[..length])?;
            self.said.extend(text.lines().map(str::to_owned));
            if text.lines().any(&is_last) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// After this time without a ping, the service manager restarts a daemon.
const WATCHDOG: Duration = Duration::from_secs(8);

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn the_service_manager_learns_what_is_enforced() -> Result<()> {
    let mut node = Node::new(ACCESS)?;
    let mut manager = Manager::new(&node)?;
    // Not ready with a policy that cannot be enforced.
    node.write("policy.yaml", "version: 0\n")?;
    let mut failing = manager.start(&node)?;
    let ended = process::wait_until(release::patience(20)?, || failing.ended())?;
    ensure!(ended.context("it ends")?.code() == Some(2), "{ended:?}");
    ensure!(!manager.listen(Duration::from_millis(300), |_| true)?, "{:?}", manager.said);

    node.write("policy.yaml", POLICY)?;
    let mut daemon = manager.start(&node)?;
    let patience = release::patience(20)?;
    ensure!(manager.listen(patience, |line| line == "READY=1")?, "{}", node.said());
    node.enforces("at READY=1")?;
    ensure!(manager.said == ["READY=1", "STATUS=enforcing"], "{:?}", manager.said);
    ensure!(manager.listen(patience, |line| line == "WATCHDOG=1")?, "no ping");
    node.line.cut()?;
    let is_degraded =
        |line: &str| line.starts_with("STATUS=degraded: interface access does not exist");
    ensure!(manager.listen(patience, is_degraded)?, "{:?}", manager.said);
    node.line.mend()?;
    ensure!(manager.listen(patience, |line| line == "STATUS=enforcing")?, "{:?}", manager.said);
    node.ends = node.line.open()?;
    daemon.stop()?;
    ensure!(manager.listen(patience, |line| line == "STOPPING=1")?, "{:?}", manager.said);
    node.detach()
}
