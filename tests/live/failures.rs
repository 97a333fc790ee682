//! A kernel that refuses, and one that does not tell.

use std::process::Command;

use nix::sys::signal::Signal;
use opb_lab::process::{self, Output};

use super::*;
use crate::{
    interfaces::{batch, covered, hooked},
    node::{LIMIT, Node},
    prober::{ends, probe},
};

const MX: &str = "198.18.0.25";

/// Lets the daemon open so many descriptors more than it has.
pub(crate) fn limit(node: &Node, more: usize) -> Result<()> {
    let pid = node.pid()?;
    let open: Vec<u32> = fs::read_dir(format!("/proc/{pid}/fd"))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    // The first that it cannot have.
    let soft = (0..).filter(|number| !open.contains(number)).nth(more).context("a number")?;
    let mut command = Command::new("prlimit");
    command.arg(format!("--pid={pid}")).arg(format!("--nofile={soft}:"));
    process::check(&mut command).map(drop)
}

pub(crate) const ENOUGH: usize = 500;

/// The daemon has no descriptor left for a map: the kernel refuses every new image.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_image_that_the_kernel_refuses_leaves_the_old_one_in_force() -> Result<()> {
    let mut node = Node::start("watch: off\n")?;
    let (receiver, sender) = ends(&node)?;
    let passes = |expected: bool| -> Result<()> {
        let (sent, seen) = probe(&receiver, &sender)?;
        assert_eq!((seen.denied, seen.allowed), (if expected { sent } else { 0 }, sent));
        Ok(())
    };
    passes(false)?;

    // Asked for: refused with the cause, and not in the store either.
    let add = ["subscriber", "add", "203.0.113.9", "--exempt", "--for", "3s"];
    let refused = process::wait_until(LIMIT, || {
        // For the connection.
        limit(&node, 1)?;
        let ended = node.opb(&add)?;
        // Something else may just have closed a descriptor.
        if ended.status.success() {
            limit(&node, ENOUGH)?;
            node.ask(&["subscriber", "remove", "203.0.113.9"])?;
        }
        Ok((!ended.status.success()).then_some(ended))
    })?;
    let Output { status, stderr, .. } = refused.context("it is never refused")?;
    assert_eq!(status.code(), Some(1), "{stderr}");
    for text in ["the kernel refused a map for the image", "Too many open files"] {
        assert!(stderr.contains(text), "{stderr}");
    }
    passes(false)?;
    limit(&node, ENOUGH)?;
    assert_eq!(node.ask(&["subscriber", "list"])?, "no run-time entries\n");

    // What nobody waits for: it is said, and tried again.
    node.ask(&add)?;
    passes(true)?;
    limit(&node, 0)?;
    let said = process::wait_until(LIMIT, || {
        let text = "what has changed at run time is not in force: the kernel refused a map";
        Ok(node.said().contains(text).then_some(()))
    })?;
    said.with_context(|| node.said())?;
    passes(true)?;
    limit(&node, ENOUGH)?;
    node.wait_status("it is repaired", |status| status["state"] == "enforcing")?;
    passes(false)?;
    assert_eq!(node.verdict("203.0.113.9", MX)?, "drop policy");
    node.stop()
}

/// Descriptors for the connection and for a map, and none to see that the map is in its slot: the end of the update tells.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_change_is_answered_although_nobody_can_look_for_it() -> Result<()> {
    let mut node = Node::start("watch: off\n")?;
    let (receiver, sender) = ends(&node)?;
    limit(&node, 2)?;
    node.ask(&["subscriber", "add", "203.0.113.9", "--exempt"])?;
    limit(&node, ENOUGH)?;
    let (sent, seen) = probe(&receiver, &sender)?;
    assert_eq!((seen.denied, seen.allowed), (sent, sent));
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn interfaces_are_followed_although_the_kernels_messages_were_lost() -> Result<()> {
    const COUNT: usize = 400;
    let sessions =
        "{name: sub0, role: subscriber}, {name: \"ses*\", role: subscriber, filter: [upstream]}";
    let mut node = Node::with_interfaces(sessions, "")?;
    node.run()?;
    let pid = node.pid()?;
    let lost = || -> Result<u64> {
        let table = process::check(node.gateway.command("cat").arg("/proc/net/netlink"))?;
        // Family 0 is NETLINK_ROUTE. sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut ours = rows.filter(|row| row.get(1..3) == Some(&["0", &pid.to_string()]));
        Ok(ours.next().context("the daemon's socket")?.get(8).context("drops")?.parse()?)
    };
    node.signal(Signal::SIGSTOP)?;
    let lines = |verb: &str, numbers: std::ops::Range<usize>| -> String {
        numbers.map(|number| format!("tuntap {verb} dev ses{number} mode tun\n")).collect()
    };
    batch(&node, &lines("add", 0..COUNT))?;
    batch(&node, &lines("del", 0..COUNT / 2))?;
    let drops = lost()?;
    node.signal(Signal::SIGCONT)?;
    assert!(drops > 0, "no message was lost, so nothing is proved");
    node.wait_status("those that are left are covered", |status| {
        covered(status, "ses") == COUNT / 2 && status["state"] == "enforcing"
    })?;
    let names: Vec<_> = (COUNT / 2..COUNT).map(|number| format!("ses{number}")).collect();
    assert_eq!(hooked(&node, &names)?, COUNT / 2, "with a program on a hook");
    assert!(node.said().contains("messages about interfaces were lost"), "{}", node.said());
    node.stop()
}
