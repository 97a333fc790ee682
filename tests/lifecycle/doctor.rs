//! `opb doctor`: each thing that it is for, made and unmade, with a daemon and without.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use opb_lab::{
    line::{ACCESS, LINE, UPLINK},
    process::{self, Output},
    release, trivial,
};
use serde_json::Value;

use crate::node::{Node, POLICY};

fn access(hook: &str) -> String {
    format!("[{{name: access, role: subscriber, hook: {hook}, filter: [upstream]}}]")
}

/// The problems, as `check place`, and the whole of what was found. Fails unless the exit status fits.
fn problems(node: &Node, arguments: &[&str]) -> Result<(Vec<String>, Value)> {
    let arguments = [&["doctor", "--json"], arguments].concat();
    let Output { status, stdout, stderr } = node.opb(&arguments)?;
    let report: Value =
        serde_json::from_str(&stdout).with_context(|| format!("{status} {stderr}"))?;
    ensure!(stderr.is_empty(), "{stderr}");
    let healthy = report["healthy"] == true;
    ensure!(status.code() == Some(if healthy { 0 } else { 1 }), "{status}: {report}");
    let findings = report["findings"].as_array().context("a list")?;
    let mut problems = Vec::new();
    for finding in findings {
        for key in ["seen", "consequence", "action"] {
            ensure!(finding[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {finding}");
        }
        if finding["level"] == "problem" {
            let places = finding["places"].as_array().context("a list")?;
            for place in places {
                let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
                problems.push(format!("{} {}", word(&finding["check"]), word(place)));
            }
        }
    }
    Ok((problems, report))
}

/// Fails unless these checks find problems at these places, and no others do.
fn finds(node: &Node, when: &str, expected: &[&str]) -> Result<Value> {
    let (found, report) = problems(node, &[]).context(when.to_owned())?;
    ensure!(found == expected, "{when}: {found:?} instead of {expected:?}: {report:#}");
    Ok(report)
}

fn place(node: &Node, path: &str) -> String {
    format!("daemon {}", node.path(path).display())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_node_from_its_first_day_to_its_last() -> Result<()> {
    let mut node = Node::new(&access("xdp"))?;
    let no_daemon = place(&node, "opb.sock");
    let report = finds(&node, "before the first start", &[&no_daemon, "interface access"])?;
    ensure!(report.to_string().contains("nothing is filtered"), "{report:#}");

    node.run()?;
    finds(&node, "with a daemon", &[])?;
    let Output { stdout, .. } = node.opb(&["doctor"])?;
    // That tags are taken out, that it is a veth, and where it is so, that there is no TCX.
    let notes = if release::has_tcx()? { 2 } else { 3 };
    let summary = format!("12 checks: problems: 0, accepted: 0, notes: {notes}\n");
    ensure!(stdout.ends_with(&summary), "{stdout}");
    ensure!(stdout.contains("note (rx-vlan): access: rx-vlan-offload is on"), "{stdout}");

    node.stop()?;
    let report = finds(&node, "with the daemon stopped", &[&no_daemon])?;
    ensure!(report.to_string().contains("continues to enforce"), "{report:#}");
    node.run()?;

    // Somebody takes the program off, which the daemon does not notice.
    let (link, _) = node.links()?.into_iter().next().context("a link")?;
    let pin = node.pins().join("v1/links").join(link);
    process::check(Command::new("bpftool").args(["link", "detach", "pinned"]).arg(pin))?;
    node.enforces_nothing("with the link taken off")?;
    let report = finds(&node, "with the link taken off", &["interface access"])?;
    ensure!(report.to_string().contains("the upstream program of opb was detached"), "{report:#}");
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn files_and_places() -> Result<()> {
    let node = Node::new("[{name: absent, role: subscriber}, {name: 'ppp*', role: subscriber}]")?;
    let no_daemon = place(&node, "opb.sock");
    let report = finds(&node, "without an interface", &[&no_daemon, "interface absent"])?;
    let notes = report["findings"].to_string();
    ensure!(notes.contains(r#""places":["ppp*"]"#), "{report:#}");
    for direction in ["upstream", "downstream"] {
        let open = format!("no core interface filters {direction}");
        ensure!(notes.contains(&open), "{report:#}");
    }

    node.configure(
        "[{name: absent, role: subscriber}, {name: 'ppp*', role: subscriber}, {name: lo, role: core}]",
    )?;
    let (_, report) = problems(&node, &[])?;
    ensure!(!report.to_string().contains("no core interface filters"), "{report:#}");
    node.configure("[{name: absent, role: subscriber}, {name: 'ppp*', role: subscriber}]")?;

    node.write("policy.yaml", "version: 1\ngarbage: 1\n")?;
    let policy = format!("files {}", node.path("policy.yaml").display());
    finds(&node, "with a bad policy", &[&policy, &no_daemon, "interface absent"])?;
    node.write("policy.yaml", POLICY)?;

    let pins = node.path("no-bpffs");
    let config = std::fs::read_to_string(node.path("opb.yaml"))?;
    let config = config.replace(&node.pins().display().to_string(), &pins.display().to_string());
    node.write("opb.yaml", &config)?;
    let pins = format!("pins {}", pins.display());
    finds(&node, "without a bpffs", &[&pins, &no_daemon, "interface absent"])?;

    node.write("opb.yaml", "version: 2\n")?;
    let Output { status, stderr, .. } = node.opb(&["doctor"])?;
    ensure!(status.code() == Some(2), "{status} {stderr}");
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn tags_that_do_not_come_back() -> Result<()> {
    let mut node = Node::new(&access("xdp"))?;
    node.write("policy.yaml", &POLICY.replace("relays: [isp]}", "relays: [isp], action: reject}"))?;
    node.run()?;
    finds(&node, "with resets on XDP", &["rx-vlan access"])?;
    let mut command = node.line.gateway.command("ethtool");
    process::check(command.args(["-K", ACCESS, "rxvlan", "off"]))?;
    finds(&node, "with rxvlan off", &[])?;
    let mut command = node.line.gateway.command("ethtool");
    process::check(command.args(["-K", ACCESS, "rxvlan", "on"]))?;
    node.configure(&access("tc"))?;
    node.hang_up()?;
    let tc = release::tc()?;
    node.status_when(|status| status["interfaces"][0]["hook"] == tc)?;
    finds(&node, "with resets on TC", &[])?;
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn programs_of_others() -> Result<()> {
    let mut node = Node::new(&access("xdp"))?;
    let foreign = trivial::pass_in_xdp(&node.line.gateway, ACCESS)?;
    node.run_until("degraded")?;
    let named = format!("program `{}`", trivial::NAME);
    let report = finds(
        &node,
        "with XDP taken",
        &[&daemon_of(&node)?, "interface access", "foreign access"],
    )?;
    ensure!(report.to_string().contains(&named), "{report:#}");

    node.configure(&access("tc"))?;
    node.hang_up()?;
    node.status_when(|status| status["state"] == "enforcing")?;
    finds(&node, "behind foreign XDP", &["foreign access"])?;
    let (_, report) = problems(&node, &["--accept", "foreign"])?;
    ensure!(report["healthy"] == true, "{report:#}");
    ensure!(report["accepted"] == serde_json::json!(["foreign"]), "{report:#}");
    drop(foreign);
    finds(&node, "with XDP free", &[])?;

    if release::has_tcx()? {
        let foreign = trivial::pass_in_tcx(&node.line.gateway, ACCESS)?;
        let report = finds(&node, "behind foreign TCX", &["foreign access"])?;
        ensure!(report.to_string().contains(&named), "{report:#}");
        drop(foreign);
        finds(&node, "with TCX free", &[])?;
    }

    node.configure(&access("clsact"))?;
    node.hang_up()?;
    node.status_when(|status| status["interfaces"][0]["hook"] == "clsact")?;
    finds(&node, "on clsact", &[])?;
    let tc = |arguments: &str| -> Result<()> {
        let mut command = node.line.gateway.command("tc");
        process::check(command.args(arguments.split(' '))).map(drop)
    };
    tc("filter add dev access ingress prio 7 protocol all u32 match u32 0 0 flowid 1:1")?;
    let report = finds(&node, "behind a foreign filter", &["foreign access"])?;
    ensure!(report.to_string().contains("`u32` filter of priority 7"), "{report:#}");
    tc("filter del dev access ingress prio 7")?;
    tc("filter del dev access ingress prio 25")?;
    finds(&node, "with the filter taken off", &["interface access"])?;
    Ok(())
}

/// Whose a program is, only its pin tells: the filter itself must not be called foreign.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn pins_that_cannot_be_seen() -> Result<()> {
    let mut node = Node::new(&access("auto"))?;
    node.run()?;
    finds(&node, "with pins", &[])?;
    let config = std::fs::read_to_string(node.path("opb.yaml"))?;
    let pins = format!("pins: {}", node.pins().display());
    ensure!(config.contains(&pins), "{config}");
    node.write("elsewhere.yaml", &config.replace(&pins, "pins: /dev/shm/opb"))?;
    let elsewhere = node.path("elsewhere.yaml").display().to_string();
    let (found, report) = problems(&node, &["--config", &elsewhere])?;
    ensure!(found == ["pins /dev/shm/opb"], "{found:?}: {report:#}");
    ensure!(report.to_string().contains("this check is left out"), "{report:#}");
    Ok(())
}

/// What XDP redirects leaves past the egress hook: shown with a frame, and named.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn redirects_past_the_egress_hook() -> Result<()> {
    let mut node = Node::new("[{name: uplink, role: core, hook: tc, filter: [upstream]}]")?;
    node.run()?;
    node.enforces("on the way out")?;
    finds(&node, "without others", &[])?;

    // It redirects nothing, and nothing tells.
    let passing = trivial::pass_in_xdp(&node.line.gateway, ACCESS)?;
    let report = finds(&node, "with XDP elsewhere", &[])?;
    ensure!(report.to_string().contains("if it redirects packets into an interface"), "{report:#}");
    drop(passing);

    // A veth takes in what is redirected if there is XDP at its other end.
    let _taking_in = trivial::pass_in_xdp(&node.line.core, LINE)?;
    let redirecting = trivial::redirect_in_xdp(&node.line.gateway, ACCESS, UPLINK)?;
    node.enforces_nothing("past the hook")?;
    let report = finds(&node, "with a redirect", &["foreign uplink"])?;
    let named = format!("program `{}`", trivial::NAME);
    ensure!(report.to_string().contains(&named), "{report:#}");
    ensure!(report.to_string().contains("belong to opb, contains this interface"), "{report:#}");
    drop(redirecting);
    node.enforces("without the redirect")
}

fn daemon_of(node: &Node) -> Result<String> {
    Ok(format!("daemon process {}", node.status()?["pid"]))
}
