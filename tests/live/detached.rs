//! Programs that somebody takes off their hooks while the daemon runs.

use nix::sys::signal::Signal;
use opb_lab::{attached::attached, process, trivial};

use super::*;
use crate::{
    node::Node,
    prober::{ends, probe},
};

/// The kernel's hooks and the packets say it, not the daemon.
fn is_filtered(node: &Node, before: usize) -> Result<()> {
    assert_eq!(attached(&node.gateway, &["sub0"])?.len(), before);
    let (receiver, sender) = ends(node)?;
    let dropped = dropped(node)?;
    let (sent, seen) = probe(&receiver, &sender)?;
    assert!(sent > 0, "nothing was sent");
    assert_eq!(seen.allowed, sent);
    let is_xdp = node.said().contains("hook=\"xdp");
    if is_xdp {
        assert_eq!(seen.denied, 0);
    } else {
        // The receiver on the interface stands before TC, and sees what TC drops.
        assert_eq!(self::dropped(node)? - dropped, u64::from(sent));
    }
    Ok(())
}

/// The programs' own counters.
fn dropped(node: &Node) -> Result<u64> {
    let lines = node.ask(&["counters", "--json"])?;
    let rows = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let rows = rows.iter().filter(|row| row["verdict"] == "drop" && row["group"] == "dyn");
    Ok(rows.filter_map(|row| row["packets"].as_u64()).sum())
}

fn bpftool(node: &Node, arguments: &[&str]) -> Result<()> {
    process::check(node.gateway.command("bpftool").args(arguments)).map(drop)
}

fn tc(node: &Node, arguments: &str) -> Result<()> {
    process::check(node.gateway.command("tc").args(arguments.split_whitespace())).map(drop)
}

/// Takes all links of the node off their hooks, as `bpftool link detach` does.
fn detach_links(node: &Node) -> Result<usize> {
    let links = node.mount().join("opb/v1/links");
    let links: Vec<_> = fs::read_dir(links)?.collect::<Result<_, _>>()?;
    for link in &links {
        let path = link.path().display().to_string();
        bpftool(node, &["link", "detach", "pinned", &path])?;
    }
    Ok(links.len())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_link_that_somebody_detaches_is_attached_again() -> Result<()> {
    for hook in ["xdp", "xdp-generic", "tc"] {
        let interfaces = format!("{{name: sub0, role: subscriber, hook: {hook}}}");
        let mut node = Node::with_interfaces(&interfaces, "")?;
        node.run()?;
        let before = attached(&node.gateway, &["sub0"])?.len();
        assert!(before > 0, "{hook}: nothing is attached");
        is_filtered(&node, before)?;
        let count = detach_links(&node)?;
        assert_eq!(count, 2, "{hook}");

        node.wait_status(hook, |status| {
            status["detachments"] == count && status["state"] == "enforcing"
        })?;
        is_filtered(&node, before)?;
        let said = node.said();
        assert!(said.contains("sub0") && said.contains("off its hook"), "{hook}: {said}");
        assert!(said.contains("degraded"), "{hook}: {said}");
        let pins = fs::read_dir(node.mount().join("opb/v1/links"))?.count();
        assert_eq!(pins, count, "{hook}: links without pins");

        // What is attached again outlives the daemon like what was there before.
        node.kill()?;
        assert_eq!(attached(&node.gateway, &["sub0"])?.len(), before, "{hook}");
        node.run()?;
        is_filtered(&node, before)?;
        assert_eq!(node.status()?["detachments"], 0, "{hook}");
        node.stop()?;
    }
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_filter_on_clsact_that_somebody_removes_is_put_back() -> Result<()> {
    let mut node = Node::with_interfaces("{name: sub0, role: subscriber, hook: clsact}", "")?;
    node.run()?;
    let before = attached(&node.gateway, &["sub0"])?.len();
    is_filtered(&node, before)?;
    let away = ["filter del dev sub0 ingress", "qdisc del dev sub0 clsact"];
    for (round, away) in away.into_iter().enumerate() {
        tc(&node, away)?;
        node.wait_status(away, |status| {
            status["detachments"].as_u64() > Some(round as u64) && status["state"] == "enforcing"
        })?;
        is_filtered(&node, before)?;
    }
    node.stop()
}

/// Another program in the place of ours is not ours.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_filter_on_clsact_that_somebody_replaces_is_put_back() -> Result<()> {
    let mut node = Node::with_interfaces("{name: sub0, role: subscriber, hook: clsact}", "")?;
    node.run()?;
    let before = attached(&node.gateway, &["sub0"])?.len();
    let pin = node.mount().join("other");
    trivial::pin(&trivial::load(trivial::Kind::Tc)?, &pin)?;
    let replace = format!(
        "filter replace dev sub0 ingress protocol all pref 25 handle 0x25 bpf da object-pinned {}",
        pin.display()
    );
    tc(&node, &replace)?;
    node.wait_status("it is noticed", |status| {
        status["detachments"] == 1 && status["state"] == "enforcing"
    })?;
    is_filtered(&node, before)?;

    // Without a daemon, the doctor does not take it for ours either.
    node.stop()?;
    tc(&node, &replace)?;
    let report = node.opb(&["doctor"])?.stdout;
    assert!(report.contains("was detached from its clsact hook"), "{report}");
    fs::remove_file(pin)?;
    Ok(())
}

/// As long as the program cannot go back, the state says so, and so do the listeners.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_hook_that_is_taken_meanwhile_degrades_the_state() -> Result<()> {
    let mut node = Node::with_interfaces("{name: sub0, role: subscriber, hook: xdp}", "")?;
    node.run()?;
    let before = attached(&node.gateway, &["sub0"])?.len();
    node.signal(Signal::SIGSTOP)?;
    detach_links(&node)?;
    let other = trivial::pass_in_xdp(&node.gateway, "sub0")?;
    node.signal(Signal::SIGCONT)?;
    node.wait_status("it is missed", |status| {
        let problems = status["problems"].to_string();
        status["state"] == "degraded" && problems.contains("sub0") && problems.contains("trivial")
    })?;
    drop(other);
    node.wait_status("it is back", |status| status["state"] == "enforcing")?;
    is_filtered(&node, before)?;
    node.stop()
}

/// Sessions come and go all day: that is not an alarm.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_interface_that_goes_is_no_detachment() -> Result<()> {
    let interfaces = "{name: sub0, role: subscriber}, {name: \"ses*\", role: subscriber}";
    let mut node = Node::with_interfaces(interfaces, "")?;
    node.run()?;
    for _ in 0..20 {
        node.gateway.ip("tuntap add dev ses0 mode tun")?;
        thread::sleep(Duration::from_millis(150));
        node.gateway.ip("tuntap del dev ses0 mode tun")?;
    }
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(node.status()?["detachments"], 0, "{}", node.said());
    node.stop()
}
