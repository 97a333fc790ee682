//! The no-gap test: whatever happens to a running node, no SYN that the policy denies gets through, and none that it allows is
//! lost to us.
//!
//! A prober sends 10,000 SYNs a second through the filter, half of them denied. Meanwhile everything that can happen to the
//! node does, in random order. `cargo xtask soak --minutes N` runs the same for longer.

use std::{
    env,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    node::{Node, POLICY},
    prober::{Receiver, Sender},
};

/// How long the short version goes on.
const SHORT: Duration = Duration::from_secs(30);

/// What can happen to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Reload,
    Signal,
    Import,
    Storm,
    Expiry,
    Kill,
    Upgrade,
    Flap,
    Trial,
}

impl Event {
    const ALL: [Self; 9] = [
        Self::Reload,
        Self::Signal,
        Self::Import,
        Self::Storm,
        Self::Expiry,
        Self::Kill,
        Self::Upgrade,
        Self::Flap,
        Self::Trial,
    ];

    fn happen(self, node: &mut Node, random: &mut fastrand::Rng) -> Result<()> {
        match self {
            Self::Reload => {
                write_policy(node, random)?;
                node.ask(&["reload"]).map(drop)
            }
            Self::Signal => {
                write_policy(node, random)?;
                node.signal(nix::sys::signal::Signal::SIGHUP)
            }
            Self::Import => {
                let start = random.u32(..) & 0x3f_0000;
                let lines: String = (start..start + 10_000)
                    .map(|number| std::net::Ipv4Addr::from(0x6440_0000 | number))
                    .map(|address| format!("{address}\n"))
                    .collect();
                node.write("import.txt", &lines)?;
                let target =
                    *random.choice(&["--group=dyn", "--group=open", "--exempt"]).context("one")?;
                node.ask(&["subscriber", "import", "import.txt", target, "--for", "5s"]).map(drop)
            }
            Self::Storm => thread::scope(|scope| {
                let node = &*node;
                let sessions: Vec<_> = (0..8)
                    .map(|number| {
                        let address = format!("100.127.0.{number}");
                        scope.spawn(move || {
                            node.ask(&["subscriber", "add", &address, "--group", "dyn"])?;
                            node.ask(&["subscriber", "remove", &address])
                        })
                    })
                    .collect();
                sessions.into_iter().try_for_each(|it| it.join().expect("no panic").map(drop))
            }),
            Self::Expiry => {
                let address = format!("100.127.1.{}", random.u8(..));
                node.ask(&["subscriber", "add", &address, "--exempt", "--for", "1s"]).map(drop)
            }
            Self::Kill => {
                node.kill()?;
                node.run()
            }
            // The next daemon puts its own programs in the place of those that are there, by link update.
            Self::Upgrade => {
                node.stop()?;
                node.run()
            }
            // Of a cable that the prober does not use: one that is down loses frames without our help.
            Self::Flap => {
                node.gateway.ip("link set dev sub1 down")?;
                node.gateway.ip("link set dev sub1 up")
            }
            Self::Trial => {
                write_policy(node, random)?;
                node.ask(&["reload", "--confirm", "1h"])?;
                // Nothing is on trial where nothing has changed.
                node.opb(&["confirm"]).map(drop)
            }
        }
    }
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
    node.write("policy.yaml", &text)
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn nothing_slips_through_and_nothing_is_lost() -> Result<()> {
    let length = match env::var("OPB_SOAK_MINUTES") {
        Ok(minutes) => {
            Duration::from_secs(60 * minutes.parse::<u64>().context("OPB_SOAK_MINUTES")?)
        }
        Err(_) => SHORT,
    };
    let interfaces = "{name: sub0, role: subscriber}, {name: sub1, role: subscriber}";
    let mut node = Node::with_interfaces(interfaces, "")?;
    opb_lab::netns::veth((&node.gateway, "sub1"), (&node.subscriber, "eth1"))?;
    node.run()?;

    let receiver = node.gateway.enter(|| Receiver::on("sub0"))?;
    let sender = node.subscriber.enter(|| Sender::on("eth0"))?;
    let (stop, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let (seen, happened) = thread::scope(|scope| {
        let receiving = scope.spawn(|| receiver.count(&stop, &sent));
        let sending = scope.spawn(|| sender.send(&stop, &sent));
        let mut happened = Vec::new();
        let start = Instant::now();
        let result = loop {
            if start.elapsed() >= length {
                break Ok(());
            }
            // Every event before any a second time.
            let mut round = Event::ALL;
            random.shuffle(&mut round);
            let failed = round.into_iter().find_map(|event| {
                if start.elapsed() >= length {
                    return None;
                }
                happened.push(event);
                let result = event.happen(&mut node, &mut random);
                result.with_context(|| format!("{event:?}")).err()
            });
            if let Some(error) = failed {
                break Err(error);
            }
        };
        stop.store(true, Ordering::SeqCst);
        sending.join().expect("no panic")?;
        let seen = receiving.join().expect("no panic")?;
        result.map(|()| (seen, happened))
    })?;

    let sent = sent.load(Ordering::SeqCst);
    let counts = Event::ALL
        .map(|event| format!("{event:?} {}", happened.iter().filter(|it| **it == event).count()));
    println!("seed {seed}, {sent} pairs of SYNs in {length:?}; {}", counts.join(", "));
    println!("denied and seen: {}, allowed and seen: {}", seen.denied, seen.allowed);
    if seen.overrun > 0 {
        bail!("the test itself lost {} frames: nothing is proved", seen.overrun);
    }
    assert_eq!((seen.denied, seen.allowed), (0, sent), "seed {seed}; {happened:?}");
    without_a_filter(&mut node, &receiver, &sender)
}

/// That the prober sees what gets through: with nothing attached, denied SYNs do.
fn without_a_filter(node: &mut Node, receiver: &Receiver, sender: &Sender) -> Result<()> {
    node.stop()?;
    node.ask(&["detach", "--config", "opb.yaml"])?;
    let (stop, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    let seen = thread::scope(|scope| {
        let receiving = scope.spawn(|| receiver.count(&stop, &sent));
        let sending = scope.spawn(|| sender.send(&stop, &sent));
        thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::SeqCst);
        sending.join().expect("no panic")?;
        receiving.join().expect("no panic")
    })?;
    assert!(seen.denied > 0, "the prober sees nothing: {seen:?}");
    Ok(())
}
