//! The no-gap test: whatever happens to a running node, no SYN that the policy denies gets through, and none that it allows is
//! lost to us.
//!
//! A prober sends 10,000 SYNs a second that are denied through the filter, and as many that are allowed. Meanwhile everything
//! that can happen to the node does, in random order. `cargo xtask soak --minutes N` runs the same for longer, and until
//! everything has happened a hundred times.

use std::{
    env,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::{
    hosts::NameServer,
    node::{Node, POLICY},
    prober::{EACH_A_SECOND, Receiver, Seen, Sender},
};

/// How long the short version goes on.
const SHORT: Duration = Duration::from_secs(30);

/// What can happen to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Reload,
    Signal,
    Unconfirmed,
    Import,
    Storm,
    Expiry,
    Clock,
    Dns,
    Kill,
    Upgrade,
    Flap,
}

/// A node, and what beside it has a state.
struct World {
    node: Node,
    names: NameServer,
    random: fastrand::Rng,
    /// How far the clock is ahead.
    ahead: Duration,
    /// What the name server answers.
    relay: String,
}

impl Event {
    const ALL: [Self; 11] = [
        Self::Reload,
        Self::Signal,
        Self::Unconfirmed,
        Self::Import,
        Self::Storm,
        Self::Expiry,
        Self::Clock,
        Self::Dns,
        Self::Kill,
        Self::Upgrade,
        Self::Flap,
    ];

    fn happen(self, world: &mut World) -> Result<()> {
        let World { node, names, random, ahead, relay } = world;
        match self {
            Self::Reload => {
                write_policy(node, random)?;
                node.ask(&["reload"]).map(drop)
            }
            Self::Signal => {
                write_policy(node, random)?;
                node.signal(nix::sys::signal::Signal::SIGHUP)
            }
            Self::Unconfirmed => {
                write_policy(node, random)?;
                node.ask(&["reload", "--confirm", "1h"])?;
                // If nothing has changed, nothing is unconfirmed.
                node.opb(&["confirm"]).map(drop)
            }
            Self::Import => {
                let start = random.u32(..) & 0x3f_0000;
                // On a processor of software the entries would have run out before they are all written.
                let count = if opb_lab::release::is_emulated()? { 1_000 } else { 10_000 };
                let lines: String = (start..start + count)
                    .map(|number| std::net::Ipv4Addr::from(0x6440_0000 | number))
                    .map(|address| format!("{address}\n"))
                    .collect();
                node.write("import.txt", &lines)?;
                let target =
                    *random.choice(&["--group=dyn", "--group=open", "--exempt"]).context("one")?;
                node.ask(&["subscriber", "import", "import.txt", target, "--for", "10s"]).map(drop)
            }
            Self::Storm => storm(node),
            Self::Expiry => {
                let address = format!("100.127.1.{}", random.u8(..));
                node.ask(&["subscriber", "add", &address, "--exempt", "--for", "3s"]).map(drop)
            }
            // What holds for an hour has run out, or the hour is not over yet any more.
            Self::Clock => {
                let address = format!("100.127.2.{}", random.u8(..));
                node.ask(&["subscriber", "add", &address, "--exempt", "--for", "1h"])?;
                *ahead = Duration::from_secs(if ahead.is_zero() { 2 * 3600 } else { 0 });
                node.set_clock(*ahead)
            }
            Self::Dns => {
                *relay = format!("198.51.100.{}", random.u8(64..));
                names.answer(&[relay])
            }
            Self::Kill => {
                node.kill()?;
                node.run()
            }
            // The next daemon puts its own programs in the place of those that are there, by link update. They are others:
            // with or without what writes events.
            Self::Upgrade => {
                node.stop()?;
                let text = std::fs::read_to_string(node.path("opb.yaml"))?;
                let other = match text.strip_suffix("events: off\n") {
                    Some(without) => without.to_owned(),
                    None => text + "events: off\n",
                };
                node.write("opb.yaml", &other)?;
                node.run()
            }
            Self::Flap => {
                node.gateway.ip("link set dev sub1 down")?;
                node.gateway.ip("link set dev sub1 up")
            }
        }
    }
}

/// Sessions that come and go at once, enough of them for a new image. The prober's own address is among them, always with the
/// same verdict.
fn storm(node: &Node) -> Result<()> {
    const CLIENTS: usize = 16;
    const REQUESTS: usize = 10;
    let change = |path: &str, body: &serde_json::Value| -> Result<()> {
        let (code, answer) = node.call("POST", path, Some(body))?;
        if code == 200 { Ok(()) } else { bail!("{path}: {code} {answer}") }
    };
    thread::scope(|scope| {
        let clients = (0..CLIENTS).map(|client| {
            scope.spawn(move || -> Result<()> {
                for request in 0..REQUESTS {
                    let address = |number| format!("100.126.{client}.{}", request * 16 + number);
                    let mut prefixes: Vec<_> = (0..16).map(address).collect();
                    if client == 0 {
                        prefixes.push("203.0.113.9/32".to_owned());
                    }
                    let entry = |prefix| json!({"prefix": prefix, "group": "dyn"});
                    let entries: Vec<_> = prefixes.iter().map(entry).collect();
                    change("/v1/subscribers", &json!({"entries": entries}))?;
                    change("/v1/subscribers/remove", &json!({"prefixes": prefixes}))?;
                }
                Ok(())
            })
        });
        let clients: Vec<_> = clients.collect();
        clients.into_iter().try_for_each(|client| client.join().expect("no panic"))
    })
}

/// One of many policies that all agree about the probes, ports included.
fn write_policy(node: &Node, random: &mut fastrand::Rng) -> Result<()> {
    let mut text = POLICY.replace("192.0.2.0/24", &format!("192.0.{}.0/24", random.u8(2..200)));
    if random.bool() {
        text = text.replace("relays: [isp]}", "relays: [isp], downstream: drop, ports: [25, 587]}");
    }
    if random.bool() {
        // The longest prefix over the probe's source comes and goes, with the same verdict.
        text += "  inner: {prefixes: [203.0.113.8/30], relays: [isp]}\n";
    }
    text = text.replace(
        "addresses: [198.51.100.25]",
        "addresses: [198.51.100.25], hosts: [mail.isp.example]",
    );
    node.write("policy.yaml", &text)
}

/// Two prober's series: on the interface that stays, and on the one that flaps.
struct Probes {
    receivers: [Receiver; 2],
    senders: [Sender; 2],
}

impl Probes {
    fn new(node: &Node) -> Result<Self> {
        let receivers =
            node.gateway.enter(|| Ok([Receiver::on("sub0")?, Receiver::on("sub1")?]))?;
        let senders = node.subscriber.enter(|| Ok([Sender::on("eth0")?, Sender::on("eth1")?]))?;
        Ok(Self { receivers, senders })
    }

    /// What is sent and what is seen while `work` is being done.
    fn during<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, [(u32, Seen); 2])> {
        let stop = AtomicBool::new(false);
        let sent = [AtomicU32::new(0), AtomicU32::new(0)];
        let rates = [EACH_A_SECOND, EACH_A_SECOND / 20];
        thread::scope(|scope| {
            let (stop, sent) = (&stop, &sent);
            let pairs = self.receivers.iter().zip(&self.senders).zip(sent.iter().zip(rates));
            let running: Vec<_> = pairs
                .map(|((receiver, sender), (sent, rate))| {
                    let receiving = scope.spawn(move || receiver.count(stop, sent));
                    let sending = scope.spawn(move || sender.send(rate, stop, sent));
                    (receiving, sending)
                })
                .collect();
            let worked = work();
            stop.store(true, Ordering::SeqCst);
            let mut seen = Vec::new();
            for (receiving, sending) in running {
                sending.join().expect("no panic")?;
                seen.push(receiving.join().expect("no panic")?);
            }
            let seen: [Seen; 2] = seen.try_into().ok().context("two series")?;
            let [first, second] = seen;
            let [all, some] = [0, 1].map(|at: usize| sent[at].load(Ordering::SeqCst));
            Ok((worked?, [(all, first), (some, second)]))
        })
    }
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn nothing_slips_through_and_nothing_is_lost() -> Result<()> {
    let (length, each) = match env::var("OPB_SOAK_MINUTES") {
        Ok(minutes) => {
            let minutes: u64 = minutes.parse().context("OPB_SOAK_MINUTES")?;
            (Duration::from_secs(60 * minutes), 100)
        }
        Err(_) => (SHORT, 1),
    };
    // In generic XDP: the driver of a veth lets packets by native XDP while its interface goes down (`flaps.rs`).
    let interfaces =
        "{name: sub0, role: subscriber}, {name: sub1, role: subscriber, hook: xdp-generic}";
    let dns = "dns: {servers: [\"127.0.0.1:5353\"], hold: 4s}\n";
    let node = Node::with_interfaces(interfaces, dns)?;
    opb_lab::netns::veth((&node.gateway, "sub1"), (&node.subscriber, "eth1"))?;
    let relay = "198.51.100.64".to_owned();
    let names = NameServer::start(&node, &[&relay])?;
    let seed = fastrand::u64(..);
    let random = fastrand::Rng::with_seed(seed);
    let mut world = World { node, names, random, ahead: Duration::ZERO, relay };
    world.node.set_clock(world.ahead)?;
    write_policy(&world.node, &mut world.random)?;
    world.node.run()?;

    let probes = Probes::new(&world.node)?;
    let start = Instant::now();
    let (counts, seen) = probes.during(|| {
        let mut counts = [0; Event::ALL.len()];
        while start.elapsed() < length || counts.iter().any(|count| *count < each) {
            // Every event before any a second time.
            let mut round: [usize; Event::ALL.len()] = std::array::from_fn(|place| place);
            world.random.shuffle(&mut round);
            for place in round {
                let event = Event::ALL[place];
                event.happen(&mut world).with_context(|| format!("{event:?}, seed {seed}"))?;
                counts[place] += 1;
            }
        }
        Ok(counts)
    })?;
    let World { mut node, relay, .. } = world;
    let described: Vec<_> = (Event::ALL.iter().zip(counts))
        .map(|(event, count)| format!("{event:?} {count}"))
        .collect();
    println!("seed {seed}, {:.0?}; {}", start.elapsed(), described.join(", "));
    for (interface, (sent, seen)) in ["sub0", "sub1"].iter().zip(&seen) {
        println!("{interface}: {sent} SYNs of either kind sent; {seen:?}");
        if seen.overrun > 0 {
            bail!("the test itself lost {} frames: nothing is proved", seen.overrun);
        }
        assert_eq!(seen.denied, 0, "{interface}, seed {seed}");
    }
    let [(sent, seen), _] = seen;
    assert_eq!(seen.allowed, sent, "seed {seed}");

    // Everything has taken place, and the last word counts.
    node.set_clock(Duration::from_secs(24 * 3600))?;
    node.wait_status("the relay host has its last address", |status| {
        status["hosts"][0]["addresses"] == json!([relay])
    })?;
    node.wait_status("what was for a time is gone", |status| status["entries"]["count"] == 0)?;
    without_a_filter(&mut node, &probes)
}

/// That the probers see what gets through: with nothing attached, denied SYNs do.
fn without_a_filter(node: &mut Node, probes: &Probes) -> Result<()> {
    node.stop()?;
    node.ask(&["detach", "--config", "opb.yaml"])?;
    let ((), seen) = probes.during(|| {
        thread::sleep(Duration::from_millis(300));
        Ok(())
    })?;
    assert!(seen.iter().all(|(_, seen)| seen.denied > 0), "the probers see nothing: {seen:?}");
    Ok(())
}
