//! Interfaces that come and go.

use std::collections::BTreeSet;

use super::*;
use crate::{
    node::{LIMIT, Node},
    prober::{ends, probe},
};

pub(crate) fn covered(status: &Value, prefix: &str) -> usize {
    let interfaces = status["interfaces"].as_array();
    let name = |it: &&Value| it["name"].as_str().is_some_and(|name| name.starts_with(prefix));
    interfaces.map_or(0, |interfaces| interfaces.iter().filter(name).count())
}

/// Of `names`, those that have a program on a hook, as the kernel says it. Nobody else attaches anything there.
pub(crate) fn hooked(node: &Node, names: &[String]) -> Result<usize> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = opb_lab::attached::attached(&node.gateway, &names)?;
    let hooked: BTreeSet<_> = found.iter().map(|attachment| &attachment.interface).collect();
    Ok(hooked.len())
}

/// Runs `ip` on many lines at once.
pub(crate) fn batch(node: &Node, lines: &str) -> Result<()> {
    fs::write(node.path("batch"), lines)?;
    let mut command = node.gateway.command(std::path::Path::new("ip"));
    command.arg("-batch").arg(node.path("batch"));
    // A thousand devices are gone after a thousand grace periods of the kernel.
    let ended = opb_lab::process::run(&mut command, 10 * LIMIT)?;
    anyhow::ensure!(ended.status.success(), "{}", ended.stderr);
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_thousand_sessions_are_covered_and_let_go() -> Result<()> {
    const COUNT: usize = 1000;
    let sessions =
        "{name: sub0, role: subscriber}, {name: \"ses*\", role: subscriber, filter: [upstream]}";
    let mut node = Node::with_interfaces(sessions, "")?;
    node.run()?;
    let lines = |verb: &str| -> String {
        (0..COUNT).map(|number| format!("tuntap {verb} dev ses{number} mode tun\n")).collect()
    };
    batch(&node, &lines("add"))?;
    node.wait_status("all are covered", |status| covered(status, "ses") == COUNT)?;
    assert_eq!(node.status()?["state"], "enforcing");
    let names: Vec<_> = (0..COUNT).map(|number| format!("ses{number}")).collect();
    assert_eq!(hooked(&node, &names)?, COUNT, "with a program on a hook");

    // A restart finds them covered, and covers them again without a detour.
    node.kill()?;
    node.run()?;
    assert_eq!(covered(&node.status()?, "ses"), COUNT);
    assert_eq!(hooked(&node, &names)?, COUNT, "with a program on a hook, after a restart");

    batch(&node, &lines("del"))?;
    node.wait_status("all are let go", |status| covered(status, "ses") == 0)?;
    assert_eq!(covered(&node.status()?, "sub0"), 2);
    let left = fs::read_dir(node.mount().join("opb/v1/links"))?.count();
    assert_eq!(left, 2, "pins of interfaces that are gone");
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_interface_is_covered_through_a_new_mtu_and_a_new_life() -> Result<()> {
    let mut node = Node::start("")?;
    node.gateway.ip("link set dev sub0 mtu 9000")?;
    thread::sleep(Duration::from_millis(200));
    assert_eq!(covered(&node.status()?, "sub0"), 2);
    // Into another namespace it is gone, and back it is another interface under the old name.
    let away = node.subscriber.path();
    node.gateway.ip(&format!("link set dev sub0 netns {}", away.display()))?;
    node.wait_status("it is missed", |status| status["state"] == "degraded")?;
    let gateway = node.gateway.path();
    node.subscriber.ip(&format!("link set dev sub0 netns {}", gateway.display()))?;
    node.wait_status("it is covered", |status| covered(status, "sub0") == 2)?;
    node.wait_status("it enforces", |status| status["state"] == "enforcing")?;
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn pins_that_somebody_removes_are_made_again() -> Result<()> {
    let mut node = Node::start("")?;
    let before = opb_lab::attached::attached(&node.gateway, &["sub0"])?;
    node.unmount()?;
    node.wait_status("it is said", |status| {
        status["state"] == "degraded"
            && status["problems"].to_string().contains("the pins are gone")
    })?;
    assert_eq!(opb_lab::attached::attached(&node.gateway, &["sub0"])?, before, "still filtered");
    node.remount()?;
    node.wait_status("it is repaired", |status| status["state"] == "enforcing")?;
    for map in
        ["policy", "tail", "counters", "bypass", "events", "talker-slots", "talkers", "statistics"]
    {
        assert!(node.mount().join("opb/v1").join(map).exists(), "{map} is not pinned again");
    }

    // And single pins, while the file system stays.
    fs::remove_dir_all(node.mount().join("opb/v1/links"))?;
    node.wait_status("the links are pinned", |_| {
        fs::read_dir(node.mount().join("opb/v1/links")).is_ok_and(|links| links.count() == 2)
    })?;
    node.kill()?;
    assert_eq!(opb_lab::attached::attached(&node.gateway, &["sub0"])?, before, "without a daemon");
    node.run()?;
    assert_eq!(node.verdict("203.0.113.9", "198.18.0.25")?, "drop policy");

    // And one of the two that hold the policy, while nobody runs.
    let (receiver, sender) = ends(&node)?;
    for map in ["tail", "policy"] {
        node.kill()?;
        fs::remove_file(node.mount().join("opb/v1").join(map))?;
        node.run()?;
        let (sent, seen) = probe(&receiver, &sender)?;
        assert_eq!((seen.denied, seen.allowed), (0, sent), "without {map}");
    }
    node.stop()
}
