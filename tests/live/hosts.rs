//! Relay hosts, resolved by a real name server whose answers change, and by one that lies.

use std::{
    net::UdpSocket,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

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

/// Hosts of the server that lies.
const LIES: usize = 20;

/// Answers each question for an address with one that it has never named before, to be asked for again at once (RFC 1035, section 4).
fn lie(socket: &UdpSocket, stop: &AtomicBool) -> Result<u32> {
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let (mut packet, mut answers) = ([0; 512], 0_u32);
    while !stop.load(Ordering::SeqCst) {
        let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
        // Header, labels, an empty one; then type and class.
        let labels = packet[12..length].iter().position(|byte| *byte == 0).context("a name")?;
        let end = 12 + labels + 5;
        let is_ipv4 = packet[end - 3] == 1;
        let mut answer = packet[..end].to_vec();
        (answer[2], answer[3]) = (0x85, 0x80);
        answer[4..12].copy_from_slice(&[0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0]);
        if is_ipv4 {
            answers += 1;
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
            answer.extend((0x6440_0000 + answers).to_be_bytes());
        }
        socket.send_to(&answer, from)?;
    }
    Ok(answers)
}

/// A name server of somebody else names other addresses each time. What that costs does not grow with the number of hosts, and
/// changes of entries go on.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_name_server_that_lies_does_not_keep_the_daemon_busy() -> Result<()> {
    let mut node = Node::prepare("dns: {servers: [\"127.0.0.1:5353\"], hold: 1h}\nwatch: off\n")?;
    let hosts: Vec<_> = (0..LIES).map(|number| format!("mx{number}.isp.example")).collect();
    let prefixes = (0..20_000_u32)
        .map(|number| format!("{}\n", std::net::Ipv4Addr::from(0x0a00_0000 + 2 * number)));
    node.write("large.txt", &prefixes.collect::<String>())?;
    let text = format!(
        "version: 1\nrelays:\n  isp: {{hosts: [{}]}}\ngroups:\n  \
         dyn: {{prefixes: [203.0.113.0/24], relays: [isp]}}\n  large: {{prefixes-file: large.txt}}\n",
        hosts.join(", ")
    );
    node.write("policy.yaml", &text)?;
    let socket = node.gateway.enter(|| Ok(UdpSocket::bind("127.0.0.1:5353")?))?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let lying = scope.spawn(|| lie(&socket, &stop));
        let result = (|| -> Result<u64> {
            node.run()?;
            node.wait_status("all have an answer", |status| {
                let hosts = status["hosts"].as_array().map_or(&[][..], Vec::as_slice);
                hosts.iter().filter(|host| host["answered"].is_string()).count() == LIES
            })?;
            let generation = |node: &Node| -> Result<u64> {
                node.status()?["policy"]["generation"].as_u64().context("a generation")
            };
            let (before, start) = (generation(&node)?, Instant::now());
            for number in 0.. {
                let asked = Instant::now();
                let prefix = format!("203.0.113.{}", number % 250);
                node.ask(&[
                    "subscriber",
                    "add",
                    &prefix,
                    "--exempt",
                    "--reason",
                    &asked.elapsed().as_nanos().to_string(),
                ])?;
                anyhow::ensure!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
                if start.elapsed() > Duration::from_secs(22) {
                    break;
                }
                thread::sleep(Duration::from_millis(200));
            }
            Ok(generation(&node)? - before)
        })();
        stop.store(true, Ordering::SeqCst);
        let answers = lying.join().expect("no panic")?;
        let generations = result?;
        eprintln!("{answers} lies made {generations} images");
        assert!(answers as usize >= 4 * LIES, "{answers} answers: the attack is none");
        assert!(generations < u64::from(answers) / 4, "{answers} answers, {generations} images");
        anyhow::Ok(())
    })?;
    for host in node.status()?["hosts"].as_array().context("hosts")? {
        assert!(host["addresses"].as_array().is_some_and(|it| it.len() <= 64), "{host}");
    }
    node.stop()
}
