//! What frames of an interface start with: judged rightly, or refused by name.

use std::{fs::File, io::Write as _, time::Instant};

use opb_lab::{
    attached::{attached, loaded},
    frames::{Ipv4, Packet as _, Tcp},
    process::wait_until,
};

use super::*;
use crate::{
    interfaces::covered,
    node::{LIMIT, Node},
    tun,
};

/// A cable, and sessions that come and go.
pub(crate) const SESSIONS: &str =
    "{name: sub0, role: subscriber}, {name: \"w*\", role: subscriber, filter: [upstream]}";

/// A SYN of a subscriber to a stranger's mail server.
fn denied() -> Vec<u8> {
    Ipv4::new([203, 0, 113, 9], [198, 18, 0, 25]).carrying(Tcp::syn_to(25)).bytes()
}

/// Packets that an interface's program has dropped upstream.
fn dropped(node: &Node, interface: &str) -> Result<u64> {
    let lines = node.ask(&["counters", "--by-interface", "--json"])?;
    let rows = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let ours = rows.iter().filter(|row| row["interface"] == interface && row["verdict"] == "drop");
    Ok(ours.filter_map(|row| row["packets"].as_u64()).sum())
}

/// A tun device of that link type, up.
fn device(node: &Node, number: u16) -> Result<(String, File)> {
    let name = format!("w{number}");
    let file = tun::open(&node.gateway, &name, tun::Kind::Tun)?;
    // As a tun device its packets are bare IP: the daemon covers it, and then it becomes another.
    node.wait_status("it is covered", |status| covered(status, &name) == 1)?;
    tun::set_link_type(&file, number)?;
    node.gateway.ip(&format!("link set {name} up"))?;
    Ok((name, file))
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn bare_ip_by_another_name_is_judged() -> Result<()> {
    const SYNS: u64 = 20;
    let mut node = Node::with_interfaces(SESSIONS, "")?;
    node.run()?;
    // PPP, HDLC in its mode `raw`, raw IP, GRE in IPv6.
    for number in [512, 518, 519, 823] {
        let (name, mut file) = device(&node, number)?;
        node.wait_status("it enforces", |status| {
            status["state"] == "enforcing" && covered(status, &name) == 1
        })?;
        for _ in 0..SYNS {
            file.write_all(&denied())?;
        }
        let all = wait_until(LIMIT, || Ok((dropped(&node, &name)? >= SYNS).then_some(())))?;
        all.with_context(|| format!("{name}: {:?} of {SYNS}", dropped(&node, &name)))?;
    }
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_unknown_link_type_is_refused_by_name() -> Result<()> {
    let mut node = Node::with_interfaces(SESSIONS, "")?;
    node.run()?;
    // InfiniBand, Cisco HDLC, 6LoWPAN.
    for number in [32, 513, 825] {
        let (name, file) = device(&node, number)?;
        let refused = format!(
            "interface {name} is not covered upstream: interface {name}: link type {number} is not supported"
        );
        node.wait_status("it is refused", |status| {
            status["state"] == "degraded" && status["problems"].to_string().contains(&refused)
        })?;
        let doctor = node.opb(&["doctor", "--config", "opb.yaml"])?;
        anyhow::ensure!(doctor.status.code() == Some(1), "{}", doctor.stderr);
        let seen = format!("problem (interface): {name}: link type {number} is not supported");
        anyhow::ensure!(doctor.stdout.contains(&seen), "{}", doctor.stdout);
        drop(file);
        node.wait_status("it is forgotten", |status| status["state"] == "enforcing")?;
    }
    node.stop()
}

/// A kind of interface that the node had none of: nothing is loaded for it, so that it waits for an attachment alone. How
/// many SYNs pass before is printed, and asserted nowhere.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn no_program_is_loaded_when_an_interface_appears() -> Result<()> {
    const SYNS: u64 = 1000;
    let mut node = Node::with_interfaces(SESSIONS, "")?;
    node.run()?;
    let own = |name: &str| -> Result<Vec<u64>> {
        Ok(attached(&node.gateway, &[name])?.iter().map(|found| found.id).collect())
    };
    let before = loaded("prog")?;
    let mut passed = Vec::new();
    for name in ["w0", "w1", "w2", "w3"] {
        let mut file = tun::open(&node.gateway, name, tun::Kind::Tun)?;
        tun::up(&node.gateway, name)?;
        let start = Instant::now();
        for number in 0..SYNS {
            let due = Duration::from_micros(300 * number);
            thread::sleep(due.saturating_sub(start.elapsed()));
            file.write_all(&denied())?;
        }
        node.wait_status("it is covered", |status| covered(status, name) == 1)?;
        passed.push(SYNS - dropped(&node, name)?);
        let on_it = own(name)?;
        anyhow::ensure!(on_it.len() == 1, "{name}: {on_it:?}");
        anyhow::ensure!(before.contains(&on_it[0]), "{name}: {on_it:?} was loaded for it");
    }
    eprintln!("of {SYNS} SYNs, one each 0.3 ms, passed on the first four interfaces: {passed:?}");

    // A reload that wants another kind has loaded it before anything of that kind comes.
    let text = fs::read_to_string(node.path("opb.yaml"))?;
    node.write("opb.yaml", &text.replace("{name: \"w*\",", "{name: \"v*\", hook: tc,"))?;
    node.ask(&["reload"])?;
    let before = loaded("prog")?;
    let _file = tun::open(&node.gateway, "v0", tun::Kind::Tun)?;
    node.wait_status("it is covered", |status| covered(status, "v0") == 1)?;
    let on_it = own("v0")?;
    anyhow::ensure!(on_it.len() == 1 && before.contains(&on_it[0]), "{on_it:?} was loaded for it");
    node.stop()
}
