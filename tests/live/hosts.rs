//! Relay hosts, resolved by a real name server whose answers change.

use std::path::Path;

use opb_lab::process::Process;

use super::*;
use crate::node::{LIMIT, Node};

const POLICY: &str = "\
version: 1
relays:
  isp: {hosts: [mail.isp.example]}
groups:
  dyn: {prefixes: [203.0.113.0/24, \"2001:db8:1000::/36\"], relays: [isp]}
";

/// dnsmasq in the gateway's namespace, answering for one name.
fn name_server(node: &Node, addresses: &[&str]) -> Result<Process> {
    let mut command = node.gateway.command(Path::new("dnsmasq"));
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv"]);
    command.args(["--port=5353", "--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file="]);
    command.args(["--user=root", "--local-ttl=1", "--local=/isp.example/"]);
    for address in addresses {
        command.arg(format!("--host-record=mail.isp.example,{address}"));
    }
    let mut server = Process::spawn("dnsmasq", &mut command, &node.path("dnsmasq.log"))?;
    // Bound to an interface, it answers over TCP, too.
    server.wait_ready(LIMIT, || {
        let connect = || Ok(std::net::TcpStream::connect("127.0.0.1:5353").is_ok());
        node.gateway.enter(connect)
    })?;
    Ok(server)
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn answers_are_followed_and_kept_over_failures() -> Result<()> {
    let mut node = Node::prepare("dns: {servers: [\"127.0.0.1:5353\"], hold: 4s}\n")?;
    node.write("policy.yaml", POLICY)?;
    let server = name_server(&node, &["198.51.100.25", "2001:db8:25::25"])?;
    node.run()?;
    let subscriber = "203.0.113.9";
    node.wait_verdict(subscriber, "198.51.100.25", "pass relay")?;
    assert_eq!(node.verdict("2001:db8:1000::9", "2001:db8:25::25")?, "pass relay");
    assert_eq!(node.verdict(subscriber, "198.51.100.26")?, "drop policy");

    // Another answer: the new address at once, the old one for as long as the hold says.
    drop(server);
    let server = name_server(&node, &["198.51.100.26", "2001:db8:25::25"])?;
    node.wait_verdict(subscriber, "198.51.100.26", "pass relay")?;
    assert_eq!(node.verdict(subscriber, "198.51.100.25")?, "pass relay", "held");
    node.wait_verdict(subscriber, "198.51.100.25", "drop policy")?;
    assert_eq!(
        node.status()?["hosts"][0]["addresses"],
        json!(["198.51.100.26", "2001:db8:25::25"])
    );

    // No answer at all: a warning, and what was known stays, over a restart as well.
    drop(server);
    node.wait_status("a warning", |status| {
        status["warnings"].to_string().contains("keeps its last good answer")
    })?;
    node.kill()?;
    node.run()?;
    assert_eq!(node.verdict(subscriber, "198.51.100.26")?, "pass relay");
    assert_eq!(node.verdict("2001:db8:1000::9", "2001:db8:25::25")?, "pass relay");
    node.stop()
}
