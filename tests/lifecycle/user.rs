//! A daemon without root: an ordinary user with the capabilities of `opb.service` and no others.

use std::{fs, os::unix::fs::MetadataExt as _};

use anyhow::{Context, Result, ensure};
use opb_lab::{
    node::{LIMIT, USER},
    process::{self, Process, wait_until},
};

use crate::{kept::large_policy, node::Node};

/// With the bits that `/proc/PID/status` shows.
const CAPABILITIES: [(&str, u64); 3] = [("net_admin", 12), ("perfmon", 38), ("bpf", 39)];

fn granted() -> [&'static str; 3] {
    CAPABILITIES.map(|(name, _)| name)
}

fn subscriber(hook: &str) -> String {
    format!("[{{name: access, role: subscriber, hook: {hook}}}]")
}

/// A set of capabilities of the daemon.
fn set(node: &Node, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid()?))?;
    let found = status.lines().find_map(|line| line.strip_prefix(name));
    Ok(u64::from_str_radix(found.with_context(|| format!("no {name}"))?.trim(), 16)?)
}

/// Starts the daemon as the unit does, and waits until it enforces.
fn launch(node: &mut Node) -> Result<()> {
    let command = node.command_of_user(&granted(), &["run"])?;
    node.launch(command)
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn the_capabilities_of_the_service_are_enough() -> Result<()> {
    for hook in ["xdp", "xdp-generic", "tc", "clsact"] {
        let mut node = Node::new(&subscriber(hook))?;
        node.give_to_user()?;
        launch(&mut node)?;
        node.enforces(hook)?;
        let expected = CAPABILITIES.iter().fold(0, |bits, (_, bit)| bits | 1 << bit);
        ensure!(set(&node, "CapEff:")? == expected && set(&node, "CapBnd:")? == expected);
        ensure!(set(&node, "CapAmb:")? == 0, "programs that the daemon starts inherit them");
        for path in [node.pins(), node.path("state/entries.redb"), node.path("opb.sock")] {
            ensure!(fs::metadata(&path)?.uid() == USER, "{}", path.display());
        }
        // The commands of the daemon's user need no capability.
        let reload = process::run(&mut node.command_of_user(&[], &["reload"])?, LIMIT)?;
        ensure!(reload.status.success(), "{}{}", reload.stdout, reload.stderr);
        node.ask(&["subscriber", "add", "203.0.113.77", "--exempt"])?;

        // The next one adopts all of it.
        let first = node.links()?;
        node.kill()?;
        node.enforces("after SIGKILL")?;
        launch(&mut node)?;
        node.enforces("adopted")?;
        let second = node.links()?;
        ensure!(first.keys().eq(second.keys()), "{hook}: {first:?} became {second:?}");
        ensure!(
            first.values().zip(second.values()).all(|(old, new)| old.0 == new.0 && old.1 != new.1),
            "{hook}: {first:?} became {second:?}"
        );
        node.stop()?;
        node.enforces("after SIGTERM")?;
        let detached = process::run(&mut node.command_of_user(&granted(), &["detach"])?, LIMIT)?;
        ensure!(detached.status.success(), "{hook}: {}{}", detached.stdout, detached.stderr);
        node.enforces_nothing("after opb detach")?;
    }
    Ok(())
}

/// A daemon of root may have run before the package was installed.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn pins_of_a_daemon_of_root_are_adopted() -> Result<()> {
    let mut node = Node::new(&subscriber("auto"))?;
    node.run()?;
    let first = node.links()?;
    node.stop()?;
    node.give_to_user()?;
    launch(&mut node)?;
    node.enforces("adopted")?;
    let second = node.links()?;
    ensure!(first.keys().eq(second.keys()), "{first:?} became {second:?}");
    node.stop()?;
    node.detach()
}

/// Only CAP_SYS_ADMIN opens the blocks of an image by their numbers, so they are pinned.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_image_of_many_blocks_is_adopted() -> Result<()> {
    let mut node = Node::new(&subscriber("auto"))?;
    large_policy(&node)?;
    node.give_to_user()?;
    launch(&mut node)?;
    node.ask(&["subscriber", "add", "203.0.113.77", "--exempt"])?;
    let blocks = node.pins().join("v1/blocks");
    let count = || fs::read_dir(&blocks).map_or(0, Iterator::count);
    ensure!(count() == 3, "two of the image, one of the overlay: {}", count());

    fs::remove_dir_all(&blocks)?;
    let again = wait_until(LIMIT, || Ok((count() == 3).then_some(())))?;
    again.context("the daemon pins them again")?;
    node.kill()?;
    launch(&mut node)?;
    ensure!(node.said().contains("adopted what an earlier daemon left"), "{}", node.said());
    node.enforces("adopted")?;
    node.stop()?;
    node.detach()
}

/// Each capability is needed, and its lack has words.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn without_one_of_the_capabilities_nothing_is_enforced() -> Result<()> {
    for (missing, _) in CAPABILITIES {
        let node = Node::new(&subscriber("auto"))?;
        node.give_to_user()?;
        let rest: Vec<_> = granted().into_iter().filter(|name| *name != missing).collect();
        let mut command = node.command_of_user(&rest, &["run"])?;
        let mut daemon = Process::spawn("opb run", &mut command, &node.path("opb.log"))?;
        let state = wait_until(LIMIT, || match daemon.ended()? {
            Some(status) => Ok(Some(format!("ended with {status}"))),
            None => node.state(),
        })?;
        let state = state.with_context(|| format!("without {missing}: {}", node.said()))?;
        ensure!(state != "enforcing", "without {missing}: {state}\n{}", node.said());
        let said = node.said();
        // The kernel's words for EPERM and for the verifier's EACCES.
        let refused = ["Operation not permitted", "Permission denied"];
        ensure!(refused.iter().any(|words| said.contains(words)), "without {missing}: {said}");
        node.enforces_nothing(missing)?;
        // As the table in docs/install.md says.
        ensure!(state.starts_with("ended") == (missing == "bpf"), "without {missing}: {state}");
    }
    Ok(())
}
