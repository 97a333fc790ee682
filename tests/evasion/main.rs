//! Tries to open a working TCP connection to a mail server behind the filter, in every way that we know.
//!
//! Each row of `evasion/rows.rs` runs without the filter first. If that works, the trick is real and must not work with
//! the filter; if Linux as the receiver refuses it, the test asserts that too. Tricks that need kernel modules which few
//! machines have (PPPoE, PPP) are in the vm lane and in the packet table.

mod calls;
mod lab;
mod reply;
mod scans;
mod rows;
mod tunnel;

use std::time::Duration;

use anyhow::{Result, ensure};
use opb_common::outcome::Direction;
use opb_lab::filter::{Filter, Place};
use opb_userspace::node::{Hook, Role};

use lab::{Lab, PATIENCE};
use rows::{Bare, Row, Topic, controls, rows};

const UPSTREAM: Place = ("sub0", Role::Subscriber, Direction::Upstream);

opb_lab::cases! { kernel, nothing_gets_past:
    nothing_gets_past_native_xdp(Hook::Xdp)
    nothing_gets_past_generic_xdp(Hook::XdpGeneric)
    nothing_gets_past_tcx(Hook::Tc)
    nothing_gets_past_clsact(Hook::Clsact)
}

/// Upstream and downstream on the core's side: the last interface before the internet.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn nothing_gets_past_on_the_core_interface() -> Result<()> {
    let lab = Lab::build()?;
    let policy = policy("any", "off");
    let place = ("core0", Role::Core, Direction::Upstream);
    let filter = Filter::on(&lab.gateway, &[place], Hook::Tc, &policy, true)?;
    let mut wrong = Vec::new();
    // Without foreign sources: `unknown-source` is for subscriber interfaces, and the gateway removes tags.
    let rows = rows().into_iter().filter(|row| row.topic != Topic::Source);
    refused(&lab, rows, "core egress", &mut wrong)?;
    report(wrong)?;
    filter.remove()
}

/// With the downstream rule alone, no answer of a mail server reaches the subscriber, whatever trick the outbound
/// packets used.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn no_answer_comes_down() -> Result<()> {
    for (place, hook) in [
        (("core0", Role::Core, Direction::Downstream), Hook::Xdp),
        (("core0", Role::Core, Direction::Downstream), Hook::XdpGeneric),
        (("sub0", Role::Subscriber, Direction::Downstream), Hook::Tc),
        (("sub0", Role::Subscriber, Direction::Downstream), Hook::Clsact),
    ] {
        let lab = Lab::build()?;
        let filter = Filter::on(&lab.gateway, &[place], hook, &policy("syn", "drop"), true)?;
        let mut wrong = Vec::new();
        // Fast Open needs no answer, a relay may answer, and a foreign source is in no group.
        let needs_answer =
            |row: &Row| ![Topic::Data, Topic::Options, Topic::Source].contains(&row.topic);
        refused(&lab, rows().into_iter().filter(needs_answer), "downstream", &mut wrong)?;
        ensure!(!calls::by_another_line(&lab, Duration::ZERO)?, "triangular, {place:?}");
        ensure!(!calls::split_handshake(&lab, Duration::ZERO)?, "split handshake, {place:?}");
        report(wrong)?;
        filter.remove()?;
    }
    Ok(())
}

fn nothing_gets_past(hook: Hook) -> Result<()> {
    let lab = Lab::build()?;
    let mut wrong = Vec::new();
    for Row { topic, name, opening, bare } in rows() {
        let works = bare == Bare::Works;
        let patience = if works { PATIENCE } else { Duration::ZERO };
        if lab.connects(&opening, patience)? != works {
            wrong.push(format!("without filter: {topic:?}: {name}: is not so: {bare:?}"));
        }
    }
    ensure!(calls::by_another_line(&lab, PATIENCE)?, "without filter: by another line");
    ensure!(calls::split_handshake(&lab, PATIENCE)?, "without filter: split handshake");
    ensure!(calls::simultaneous_open(&lab, PATIENCE)?, "without filter: simultaneous open");
    report(wrong)?;

    let before = calls::Established::open(&lab)?;
    let filter = Filter::on(&lab.gateway, &[UPSTREAM], hook, &policy("syn", "off"), true)?;
    let mut wrong = Vec::new();
    refused(&lab, rows(), "match: syn", &mut wrong)?;
    // `syn` does not stop these; `any` does.
    ensure!(before.carries(&lab, PATIENCE)?, "match: syn leaves open what was open");
    ensure!(calls::by_another_line(&lab, PATIENCE)?, "match: syn judges no more than SYNs");
    ensure!(calls::split_handshake(&lab, PATIENCE)?, "match: syn passes a SYN with an ACK");
    ensure!(!calls::simultaneous_open(&lab, Duration::ZERO)?, "match: syn, simultaneous open");

    filter.apply(&policy("any", "off"))?;
    refused(&lab, rows(), "match: any", &mut wrong)?;
    ensure!(!before.carries(&lab, Duration::ZERO)?, "match: any cuts what was open");
    ensure!(!calls::by_another_line(&lab, Duration::ZERO)?, "match: any, by another line");
    ensure!(!calls::split_handshake(&lab, Duration::ZERO)?, "match: any, split handshake");
    ensure!(!calls::simultaneous_open(&lab, Duration::ZERO)?, "match: any, simultaneous open");
    report(wrong)?;
    filter.remove()
}

/// No row connects, and the controls do.
fn refused(
    lab: &Lab,
    rows: impl IntoIterator<Item = Row>,
    under: &str,
    wrong: &mut Vec<String>,
) -> Result<()> {
    let first = lab::next_port();
    for Row { topic, name, opening, .. } in rows {
        if lab.connects(&opening, Duration::ZERO)? {
            wrong.push(format!("{under}: {topic:?}: {name}: got through"));
        }
    }
    let last = lab::next_port();
    for (name, opening) in controls() {
        if !lab.connects(&opening, PATIENCE)? {
            wrong.push(format!("{under}: {name}: must work, and does not"));
        }
    }
    // No row waits for an answer that must not come: late ones show here.
    let late = lab.served(first..last)?;
    if !late.is_empty() {
        wrong.push(format!("{under}: served late, from ports {late:?}"));
    }
    Ok(())
}

fn report(wrong: Vec<String>) -> Result<()> {
    ensure!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

fn policy(matching: &str, downstream: &str) -> String {
    format!(
        "\
version: 1
relays:
  isp:
    addresses: [198.51.100.25, 2001:db8:25::1]
groups:
  dynamic:
    prefixes: [203.0.113.0/24, 2001:db8:1000::/36]
    relays: [isp]
    match: {matching}
    downstream: {downstream}
"
    )
}
