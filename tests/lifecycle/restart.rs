//! Crashes, restarts and upgrades: nothing that the policy denies gets through meanwhile, and nothing else is lost.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use opb_lab::{
    line::{Line, Way},
    process::Output,
    release,
};

use crate::node::{Node, POLICY, mail_to, syn};

const HOOKS: [&str; 4] = ["xdp", "xdp-generic", "tc", "clsact"];

fn subscriber(hook: &str) -> String {
    format!("[{{name: access, role: subscriber, hook: {hook}, filter: [upstream]}}]")
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_killed_daemon_leaves_the_filter_and_the_next_one_adopts_it() -> Result<()> {
    for hook in HOOKS {
        let mut node = Node::new(&subscriber(hook))?;
        node.run()?;
        node.enforces("opb run")?;
        let (first, counted) = (node.links()?, node.counter("drop", "policy")?);
        ensure!(counted == 1, "{hook}: {counted}");

        node.kill()?;
        node.enforces("after SIGKILL")?;

        let traffic = node.line.open()?;
        under_traffic(&traffic, || node.run())?;
        node.enforces("adopted")?;
        let second = node.links()?;
        ensure!(first.keys().eq(second.keys()), "{first:?} became {second:?}");
        for (old, new) in first.values().zip(second.values()) {
            ensure!(old.0 == new.0, "{hook}: another link: {first:?} became {second:?}");
            ensure!(old.1 != new.1, "{hook}: the old program: {first:?} became {second:?}");
        }
        let after = node.counter("drop", "policy")?;
        ensure!(after > counted + 1, "{hook}: counters did not survive: {counted}, {after}");

        node.stop()?;
        node.enforces("after SIGTERM")?;
        node.detach()?;
    }
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_program_moves_to_another_hook_without_a_gap() -> Result<()> {
    let mut node = Node::new(&subscriber("xdp"))?;
    node.run()?;
    for (hook, effective) in [
        ("tc", release::tc()?),
        ("clsact", "clsact"),
        ("xdp-generic", "xdp-generic"),
        ("xdp", "xdp"),
    ] {
        let traffic = node.line.open()?;
        under_traffic(&traffic, || {
            node.configure(&subscriber(hook))?;
            node.hang_up()?;
            node.status_when(|status| status["interfaces"][0]["hook"] == effective).map(drop)
        })
        .with_context(|| format!("to {hook}"))?;
        node.enforces(hook)?;
        ensure!(node.links()?.len() == 1, "{:?}", node.links()?);
    }
    node.stop()?;
    node.detach()
}

/// The pins are gone, the daemon is dead, and something else keeps the links alive: the next daemon finds them.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn links_that_lost_their_pins_are_found_and_adopted() -> Result<()> {
    // A filter on clsact is not a link, and needs no pin to stay.
    let hooks: &[&str] =
        if release::has_tcx()? { &["xdp", "xdp-generic", "tc"] } else { &["xdp", "xdp-generic"] };
    for hook in hooks {
        let mut node = Node::new(&subscriber(hook))?;
        node.run()?;
        let first = node.links()?;
        let held = node.hold_links()?;

        // A daemon with other pins leaves them to the one that is alive.
        let config = std::fs::read_to_string(node.path("opb.yaml"))?;
        let config = config.replace("opb.sock", "second.sock").replace("/state\n", "/second\n");
        node.write("second.yaml", &config.replace("/opb\n", "/second\n"))?;
        let second = node.run_beside("second.yaml", "second.sock")?;
        ensure!(node.links()? == first, "{hook}: {first:?} became {:?}", node.links()?);
        drop(second);
        node.opb(&["detach", "--config", "second.yaml"])?;
        ensure!(node.links()? == first, "{hook}: {first:?} became {:?}", node.links()?);

        node.kill()?;
        std::fs::remove_dir_all(node.pins())?;
        node.enforces("without pins")?;
        // Another policy, so that it is seen whose is enforced.
        node.write("policy.yaml", &POLICY.replace("198.51.100.25", "192.0.2.25"))?;
        node.run()?;
        ensure!(node.said().contains("a program of ours without a pin; adopted"));
        node.opb(&["reload"])?;
        let relay = |address| node.ends.passes(Way::Up, &mail_to(address));
        ensure!(relay([192, 0, 2, 25])?, "{hook}: the old policy is still enforced");
        ensure!(!relay([198, 51, 100, 25])?, "{hook}: the new policy is not enforced");
        let second = node.links()?;
        ensure!(first.keys().eq(second.keys()), "{hook}: {first:?} became {second:?}");
        for (old, new) in first.values().zip(second.values()) {
            ensure!(old.0 == new.0, "{hook}: another link: {first:?} became {second:?}");
            ensure!(old.1 != new.1, "{hook}: the old program: {first:?} became {second:?}");
        }

        // And without a daemon `opb detach` does.
        node.kill()?;
        std::fs::remove_dir_all(node.pins())?;
        let Output { status, stdout, stderr } = node.opb(&["detach"])?;
        ensure!(status.success() && stdout.contains("without a pin, access"), "{stdout}{stderr}");
        node.enforces_nothing("after opb detach")?;
        drop(held);
    }
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_second_daemon_is_refused() -> Result<()> {
    let mut node = Node::new(&subscriber("auto"))?;
    node.run()?;
    // All its own but the pins.
    let config = std::fs::read_to_string(node.path("opb.yaml"))?
        .replace("opb.sock", "second.sock")
        .replace("/state\n", "/second\n");
    node.write("second.yaml", &config)?;
    for command in ["run", "detach"] {
        let Output { status, stderr, .. } = node.opb(&[command, "--config", "second.yaml"])?;
        ensure!(status.code() == Some(1), "{command}: {status} {stderr}");
        let expected =
            format!("opb: error: another opb holds {}", node.pins().join("v1").display());
        ensure!(stderr.lines().any(|line| line == expected), "{command}: {stderr}");
        ensure!(stderr.contains("hint: stop the running daemon first"), "{command}: {stderr}");
    }
    ensure!(!node.path("second").exists(), "the store of a daemon that never ran");
    // Beside it: all its own, down to the pins. The doctor says whose the programs are.
    let output = node.opb(&["run"])?;
    ensure!(output.stderr.contains("hint: `opb reload`"), "{}", output.stderr);
    node.enforces("with one daemon")?;
    node.stop()?;
    node.detach()
}

/// Sends denied and allowed packets while `work` runs, and for a moment before and after.
fn under_traffic(ends: &opb_lab::line::Ends, work: impl FnOnce() -> Result<()>) -> Result<()> {
    const AROUND: Duration = Duration::from_millis(50);
    let over = AtomicBool::new(false);
    let (worked, sent) = thread::scope(|scope| {
        let sending = scope.spawn(|| -> Result<u64> {
            let mut sent = 0;
            while !over.load(SeqCst) {
                sent += 1;
                ends.subscriber.send(&mail_to([192, 0, 2, 25]))?;
                ends.subscriber.send(&allowed(sent))?;
                // Slow enough for any queue on the way.
                thread::sleep(Duration::from_micros(200));
            }
            ends.subscriber.send(&allowed(0))?;
            Ok(sent)
        });
        thread::sleep(AROUND);
        let worked = work();
        thread::sleep(AROUND);
        over.store(true, SeqCst);
        (worked, sending.join().expect("no panic"))
    });
    let ((), sent) = (worked?, sent?);
    let (mut arrived, mut denied) = (0, 0);
    let last = ends.core.receive(Duration::from_secs(10), |frame| {
        denied += u64::from(frame == mail_to([192, 0, 2, 25]));
        arrived += u64::from(frame == allowed(arrived + 1));
        frame == allowed(0)
    })?;
    last.context("the last frame is lost")?;
    ensure!(denied == 0, "{denied} of {sent} denied packets got through");
    ensure!(arrived == sent, "of {sent} allowed packets only {arrived} arrived in order");
    Ok(())
}

fn allowed(number: u64) -> Vec<u8> {
    syn([203, 0, 113, 9], [198, 51, 100, 25], 25, &number.to_be_bytes())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_interface_that_comes_back_is_covered_again() -> Result<()> {
    for hook in HOOKS {
        let mut node = Node::new(&subscriber(hook))?;
        node.run()?;
        node.enforces("before")?;
        node.line.cut()?;
        let status = node.status_when(|status| status["state"] == "degraded")?;
        let problems = status["problems"].to_string();
        ensure!(problems.contains("interface access does not exist"), "{hook}: {problems}");
        node.line.mend()?;
        node.status_when(|status| status["state"] == "enforcing")?;
        reopen(&mut node)?;
        node.enforces("after")?;
        ensure!(node.links()?.len() == 1, "{hook}: what was left is still there");
        node.stop()?;
        node.detach()?;
    }
    Ok(())
}

/// The old sockets went with the old cable.
fn reopen(node: &mut Node) -> Result<()> {
    let line: &Line = &node.line;
    node.ends = line.open()?;
    Ok(())
}
