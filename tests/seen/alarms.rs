//! A command for suspects that does not end.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::{Result, ensure};

use crate::node::{Node, OUTSIDE, Wire, syn};

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_command_that_hangs_ends_with_all_that_it_started() -> Result<()> {
    let hook = tempfile::tempdir()?;
    let (command, told) = (hook.path().join("tell"), hook.path().join("told"));
    // Both have ended when nobody holds the pipe any more; the shell says first how many descriptors it may have.
    let script = format!(
        "#!/bin/sh\nulimit -n > {0}.limit\nsleep 1000 & echo $$ $! > {0}.new\nmv {0}.new {0}\nwait\n",
        told.display()
    );
    fs::write(&command, script)?;
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755))?;
    let suspect = format!("suspect: {{per-minute: 20, command: {}}}\n", command.display());
    let mut node = Node::prepare("auto", &suspect)?;
    let mut daemon = node.gateway.command("prlimit");
    daemon.arg("--nofile=777:4000").arg(env!("CARGO_BIN_EXE_opb"));
    daemon.args(["run", "--config"]).arg(node.path("opb.yaml"));
    daemon.env("OPB_CONTROL", node.path("opb.sock"));
    node.launch(daemon)?;
    let wire = Wire::open(&node.subscribers, "far0")?;
    (0..30).try_for_each(|_| wire.send(&syn([203, 0, 113, 9].into(), OUTSIDE)))?;
    let processes = node.wait("the command", || Ok(fs::read_to_string(&told).ok()))?;
    ensure!(fs::read_to_string(hook.path().join("told.limit"))?.trim() == "777");
    let alive = |process: &str| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    ensure!(processes.split_whitespace().all(alive), "{processes}");
    node.wait("the end of both", || Ok((!processes.split_whitespace().any(alive)).then_some(())))?;
    ensure!(fs::read_to_string(node.path("opb.log"))?.contains("timed out after 10s"));
    node.end()
}
