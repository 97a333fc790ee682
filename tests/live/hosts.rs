//! Relay hosts, resolved by a real name server whose answers change.

use std::path::PathBuf;

use opb_lab::process::Process;

use super::*;
use crate::{
    api::Contract,
    node::{LIMIT, Node},
};

const POLICY: &str = "\
version: 1
relays:
  isp: {hosts: [mail.isp.example]}
groups:
  dyn: {prefixes: [203.0.113.0/24, \"2001:db8:1000::/36\"], relays: [isp]}
";

/// dnsmasq in the gateway's namespace, answering for one name.
pub(crate) struct NameServer {
    process: Process,
    hosts: PathBuf,
}

impl NameServer {
    pub(crate) fn start(node: &Node, addresses: &[&str]) -> Result<Self> {
        let hosts = node.path("hosts");
        let mut command = node.gateway.command("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-hosts",
            "--no-resolv",
        ]);
        command.args(["--port=5353", "--listen-address=127.0.0.1", "--bind-interfaces"]);
        command.args(["--pid-file=", "--user=root", "--local-ttl=1", "--local=/isp.example/"]);
        command.arg(format!("--addn-hosts={}", hosts.display()));
        fs::write(&hosts, Self::text(addresses))?;
        let mut process = Process::spawn("dnsmasq", &mut command, &node.path("dnsmasq.log"))?;
        // Bound to an interface, it answers over TCP, too.
        process.wait_ready(LIMIT, || {
            let connect = || Ok(std::net::TcpStream::connect("127.0.0.1:5353").is_ok());
            node.gateway.enter(connect)
        })?;
        Ok(Self { process, hosts })
    }

    /// Another answer from now on.
    pub(crate) fn answer(&self, addresses: &[&str]) -> Result<()> {
        fs::write(&self.hosts, Self::text(addresses))?;
        self.process.signal(nix::sys::signal::Signal::SIGHUP)
    }

    fn text(addresses: &[&str]) -> String {
        addresses.iter().map(|address| format!("{address} mail.isp.example\n")).collect()
    }
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn answers_are_followed_and_kept_over_failures() -> Result<()> {
    let mut node = Node::prepare("dns: {servers: [\"127.0.0.1:5353\"], hold: 4s}\n")?;
    node.write("policy.yaml", POLICY)?;
    let server = NameServer::start(&node, &["198.51.100.25", "2001:db8:25::25"])?;
    node.run()?;
    let subscriber = "203.0.113.9";
    node.wait_verdict(subscriber, "198.51.100.25", "pass relay")?;
    assert_eq!(node.verdict("2001:db8:1000::9", "2001:db8:25::25")?, "pass relay");
    assert_eq!(node.verdict(subscriber, "198.51.100.26")?, "drop policy");

    // Another answer: the new address at once, the old one for as long as the hold says.
    server.answer(&["198.51.100.26", "2001:db8:25::25"])?;
    node.wait_verdict(subscriber, "198.51.100.26", "pass relay")?;
    assert_eq!(node.verdict(subscriber, "198.51.100.25")?, "pass relay", "held");
    node.wait_verdict(subscriber, "198.51.100.25", "drop policy")?;
    assert_eq!(
        node.status()?["hosts"][0]["addresses"],
        json!(["198.51.100.26", "2001:db8:25::25"])
    );
    // Each change is an event: found, another one beside, the old one gone.
    let addresses = |texts: &[&str]| json!(texts);
    let expected = [
        addresses(&["198.51.100.25", "2001:db8:25::25"]),
        addresses(&["198.51.100.25", "198.51.100.26", "2001:db8:25::25"]),
        addresses(&["198.51.100.26", "2001:db8:25::25"]),
    ];
    let seen = opb_lab::process::wait_until(LIMIT, || {
        let page = Contract::read()?.check(&node, ("GET", "/v1/events"), None, 200)?;
        let events = page["events"].as_array().context("events")?.clone();
        let last = events.last().map(|event| event["addresses"].clone());
        Ok((last.as_ref() == expected.last()).then_some(events))
    })?;
    let seen = seen.context("an event of the last change")?;
    for event in &seen {
        assert_eq!((&event["kind"], &event["host"]), (&json!("relay"), &json!("mail.isp.example")));
    }
    let has = |addresses: &Value| seen.iter().any(|event| event["addresses"] == *addresses);
    assert!(expected.iter().all(has), "{seen:?}");
    assert!(node.ask(&["events"])?.contains("relay host mail.isp.example: 198.51.100.26, 2001"));

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
