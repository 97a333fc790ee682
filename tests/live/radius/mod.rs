//! Sessions by RADIUS accounting: Debian's `radclient`, and a generator whose network loses, repeats
//! and reorders packets.

mod generator;

use std::os::unix::fs::PermissionsExt as _;

use opb_lab::process::{self, Output};

use super::*;
use crate::{
    node::{LIMIT, Node},
    prober::{ends, probe},
    store::Small,
};

const MX: &str = "198.18.0.25";
const SECRET: &str = "testing123";
/// Nothing in it names the subscriber of the prober.
const POLICY: &str = "\
version: 1
relays: {isp: {addresses: [198.51.100.25]}}
groups:
  dyn: {prefixes: [198.18.99.0/24], relays: [isp]}
  open: {prefixes: [198.18.98.0/24], action: monitor}
";

/// A node that listens for accounting from its own addresses; nothing runs yet. `more` are further
/// keys of `radius`.
fn prepare(more: &str) -> Result<Node> {
    let node = Node::prepare("watch: off\nhttp: 127.0.0.1:9625\n")?;
    node.write("policy.yaml", POLICY)?;
    set_secrets(&node, SECRET, 0o600)?;
    let secret = node.path("secret");
    let clients = format!("[{{address: 127.0.0.0/24, secret-file: {}}}]", secret.display());
    let radius = format!("{{listen: '127.0.0.1:1813', clients: {clients}{more}}}");
    node.edit(|text| format!("{text}sessions: {{radius: {radius}}}\n"))?;
    Ok(node)
}

fn set_secrets(node: &Node, text: &str, mode: u32) -> Result<()> {
    let draft = node.path(".secret");
    fs::write(&draft, text)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(mode))?;
    Ok(fs::rename(draft, node.path("secret"))?)
}

/// Sends one request by radclient, which tries for `seconds`.
fn radclient(node: &Node, secret: &str, seconds: u32, attributes: &str) -> Result<Output> {
    let mut command = node.gateway.command("sh");
    command.args(["-c", "echo \"$1\" | radclient -r \"$3\" -t 1 127.0.0.1:1813 acct \"$2\""]);
    command.args(["sh", attributes, secret, &seconds.to_string()]);
    process::run(&mut command, LIMIT)
}

/// Sends a request that must be answered.
fn account(node: &Node, kind: &str, id: &str, attributes: &str) -> Result<()> {
    let text = format!(
        "Acct-Status-Type = {kind}, Acct-Session-Id = \"{id}\", NAS-Identifier = bras1{attributes}"
    );
    let ended = radclient(node, SECRET, 5, &text)?;
    anyhow::ensure!(ended.status.success(), "{text}: {ended:?}\n{}", node.said());
    Ok(())
}

fn result(node: &Node, name: &str) -> Result<u64> {
    node.metric(&format!("opb_radius_requests_total{{result=\"{name}\"}}"))
}

fn sessions(node: &Node, more: &[&str]) -> Result<Vec<Value>> {
    node.rows(&[&["session", "list", "--json"], more].concat())
}

/// The session is in force for the first packet behind the answer, over a crash, and no longer than
/// it owns the address.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_session_is_blocked_from_its_start_to_its_stop() -> Result<()> {
    const ADDRESS: &str = "203.0.113.9";
    const FRAMED: &str = ", Framed-IP-Address = 203.0.113.9";
    let mut node = prepare("")?;
    node.run()?;
    let (receiver, sender) = ends(&node)?;
    let passes = |expected: bool| -> Result<()> {
        let (sent, seen) = probe(&receiver, &sender)?;
        assert_eq!(seen.denied, if expected { sent } else { 0 });
        Ok(())
    };
    passes(true)?;
    let group = format!("{FRAMED}, Filter-Id = \"10M/2M\", Filter-Id += \"opb:dyn\"");
    account(&node, "Start", "a", &format!("{group}, User-Name = \"alice@example\""))?;
    passes(false)?;
    assert_eq!(node.verdict(ADDRESS, MX)?, "drop policy");
    let found = sessions(&node, &["--user", "alice@example"])?;
    let [row] = &found[..] else { panic!("{found:?}") };
    assert_eq!((&row["group"], &row["addresses"]), (&json!("dyn"), &json!(["203.0.113.9/32"])));
    assert_eq!((&row["nas"], &row["state"]), (&json!("bras1"), &json!("live")));
    assert_eq!(sessions(&node, &["--address", ADDRESS])?, found);
    let shown = node.ask(&["session", "show", "bras1", "a"])?;
    assert!(shown.contains("user: alice@example") && shown.contains("rules: group dyn"), "{shown}");
    let chain = node.json(&["explain", "--src", ADDRESS, "--dst", MX])?["chain"].to_string();
    assert!(chain.contains("session a of bras1") && !chain.contains("alice"), "{chain}");

    // What `list` says of sessions is not imported as if an operator had said it.
    node.write("list", &node.ask(&["subscriber", "list", "--json"])?)?;
    assert_eq!(node.ask(&["subscriber", "import", "list"])?, "");

    // In force before the listener is there again, and unsure until the server mentions it.
    node.kill()?;
    passes(false)?;
    node.run()?;
    passes(false)?;
    assert_eq!(sessions(&node, &[])?[0]["state"], "unsure");
    assert_eq!(node.metric("opb_sessions{state=\"unsure\"}")?, 1);
    account(&node, "Interim-Update", "a", &group)?;
    assert_eq!(sessions(&node, &[])?[0]["state"], "live");

    // The next owner comes before the Stop of the one before.
    account(&node, "Start", "b", &format!("{FRAMED}, Filter-Id = \"opb:exempt\""))?;
    passes(true)?;
    assert_eq!(node.verdict(ADDRESS, MX)?, "pass exempt");
    account(&node, "Stop", "a", FRAMED)?;
    assert_eq!(node.verdict(ADDRESS, MX)?, "pass exempt");

    // An operator wins, and both are listed.
    node.ask(&["subscriber", "add", ADDRESS, "--group", "dyn"])?;
    passes(false)?;
    let rows = node.rows(&["subscriber", "list", "--json"])?;
    assert_eq!((rows.len(), &rows[0]["overrides"]), (2, &json!("session b of bras1")), "{rows:?}");
    node.ask(&["subscriber", "remove", ADDRESS])?;
    passes(true)?;
    account(&node, "Stop", "b", "")?;
    assert_eq!(node.verdict(ADDRESS, MX)?, "pass unknown");

    // Without Stops: the server restarts, or an operator removes the session.
    account(&node, "Start", "c", &group)?;
    assert_eq!(node.ask(&["session", "remove", "bras1", "c"])?, "removed: 1\n");
    passes(true)?;
    account(&node, "Interim-Update", "c", &group)?;
    passes(false)?;
    account(&node, "Accounting-On", "", "")?;
    passes(true)?;
    assert_eq!(sessions(&node, &[])?, Vec::<Value>::new());
    node.stop()
}

/// A default group, both families, and a session that is silent.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn all_addresses_of_a_session_live_and_end_together() -> Result<()> {
    let mut node = prepare(", default-group: dyn, timeout: 12s")?;
    node.run()?;
    let attributes = ", Framed-IP-Address = 203.0.113.9, Delegated-IPv6-Prefix = 2001:db8:7:100::/56\
                      , Framed-IPv6-Prefix = 2001:db8:7:9::/64, Framed-Route = \"198.18.7.0/24 203.0.113.9 1\"\
                      , Framed-Route += \"0.0.0.0/0 203.0.113.9 1\", Framed-IPv6-Route = \"::/0 :: 1\"";
    account(&node, "Start", "a", attributes)?;
    let sources = ["203.0.113.9", "198.18.7.77", "2001:db8:7:1ff::1", "2001:db8:7:9::1"];
    let target = |source: &str| if source.contains(':') { "2001:db8:ff::25" } else { MX };
    for source in sources {
        assert_eq!(node.verdict(source, target(source))?, "drop policy", "{source}");
    }
    // Nobody's route is the world.
    assert_eq!(node.verdict("192.0.2.1", MX)?, "pass unknown");
    assert_eq!(node.metric("opb_session_addresses_refused_total")?, 2);
    assert_eq!(node.metric("opb_session_addresses")?, 4);
    for source in sources {
        node.wait_verdict(source, target(source), "pass unknown")?;
    }
    assert!(node.said().contains("1 sessions have ended without a Stop"), "{}", node.said());
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn strangers_and_wrong_secrets_get_no_answer() -> Result<()> {
    const START: &str =
        "Acct-Status-Type = Start, Acct-Session-Id = a, Framed-IP-Address = 203.0.113.9";
    let mut node = prepare(", default-group: dyn")?;
    set_secrets(&node, SECRET, 0o644)?;
    // Others may read the secret.
    node.run_until("degraded")?;
    let status = node.status()?;
    assert!(status["problems"].to_string().contains("can be read by other users"), "{status}");
    let is_answered = |secret: &str, text: &str| -> Result<bool> {
        Ok(radclient(&node, secret, 2, text)?.status.success())
    };
    assert!(!is_answered(SECRET, START)?);
    assert!(result(&node, "no-secret")? > 0);
    // The daemon reads the file again. A secret that changes is two for a while.
    set_secrets(&node, &format!("{SECRET}\nnew-secret\n"), 0o600)?;
    node.wait_status("enforcing", |status| status["state"] == "enforcing")?;
    assert!(!is_answered("wrong", START)?);
    assert!(result(&node, "not-authentic")? > 0);
    assert_eq!(node.verdict("203.0.113.9", MX)?, "pass unknown");
    assert!(is_answered(SECRET, START)? && is_answered("new-secret", START)?);
    assert_eq!(node.verdict("203.0.113.9", MX)?, "drop policy");

    // Authentic, and not what RFC 2866 demands.
    assert!(!is_answered(SECRET, "Acct-Session-Id = a, User-Name = x")?);
    assert!(!is_answered(SECRET, "Acct-Status-Type = Start")?);
    assert!(result(&node, "malformed")? > 0);
    // Nothing of ours, but a good request.
    assert!(is_answered(SECRET, "Acct-Status-Type = Tunnel-Start, Acct-Session-Id = t")?);

    // From an address that is no client's, and from one that is.
    node.gateway.ip("addr add 127.0.1.1/32 dev lo")?;
    // A name cannot control a terminal.
    let name = (1, b"\x1b[2Jx\n".to_vec());
    let packet = generator::start("n", 1, &[name]);
    let is_answered = |from: &str| {
        node.gateway.enter(|| {
            let socket = std::net::UdpSocket::bind(from)?;
            socket.send_to(&packet, "127.0.0.1:1813")?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            Ok(socket.recv(&mut [0; 64]).is_ok())
        })
    };
    assert!(!is_answered("127.0.1.1:0")? && is_answered("127.0.0.1:0")?);
    assert_eq!(result(&node, "unknown-client")?, 1);
    let listed = node.ask(&["session", "list"])?;
    assert!(!listed.contains('\x1b') && listed.contains("[2Jx"), "{listed:?}");
    node.stop()
}

/// No answer while it cannot be recorded; the client's own repetition is the queue.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn nothing_is_answered_on_a_full_disk() -> Result<()> {
    let mut node = prepare(", default-group: dyn")?;
    let small = Small::mount(&node, "3m")?;
    node.run()?;
    account(&node, "Start", "first", ", Framed-IP-Address = 203.0.113.8")?;
    let filler = node.path("state").join("lost+found");
    let mut room = vec![0; 4 << 20];
    while !room.is_empty() && fs::write(&filler, &room).is_err() {
        room.truncate(room.len() / 2);
    }
    // The store has some room of its own.
    let client = node.gateway.enter(|| Ok(std::net::UdpSocket::bind("127.0.0.1:0")?))?;
    client.connect("127.0.0.1:1813")?;
    client.set_read_timeout(Some(Duration::from_secs(2)))?;
    let is_answered = |packet: &[u8]| -> Result<bool> {
        client.send(packet)?;
        Ok(client.recv(&mut [0; 64]).is_ok())
    };
    let mut number = 0;
    let packet = loop {
        let route = |host| format!("10.{}.{}.{host}/32", number / 250, number % 250).into_bytes();
        let routes: Vec<_> = (0..60).map(|host| (22, route(host))).collect();
        let packet = generator::start(&format!("s{number}"), number as u8, &routes);
        if !is_answered(&packet)? {
            break packet;
        }
        number += 1;
        anyhow::ensure!(number < 5000, "the disk is never full");
    };
    let address = format!("10.{}.{}.7", number / 250, number % 250);
    assert_eq!(node.verdict(&address, MX)?, "pass unknown", "not recorded, not in force");
    assert_eq!(node.verdict("203.0.113.8", MX)?, "drop policy");
    assert!(result(&node, "failed")? > 0);
    small.grow("64m")?;
    node.wait("the repetition is answered", || Ok(is_answered(&packet)?.then_some(())))?;
    assert_eq!(node.verdict(&address, MX)?, "drop policy");
    node.kill()?;
    node.run()?;
    assert_eq!(node.verdict(&address, MX)?, "drop policy");
    node.stop()
}
