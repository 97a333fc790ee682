//! Policies that replace each other while packets fly.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use opb_common::{image::BLOCK_NODES, outcome::Direction};
use opb_lab::{
    frames::{Ethernet, Ipv4, Ipv6, Tcp, flags},
    line::Way,
    programs::compile,
    release,
    wire::Wire,
};
use opb_userspace::{
    image::{GroupIds, Image},
    kernel::Hook as Effective,
    node::{Hook, Role},
};

use crate::gate::{Gate, INGRESS};

/// The two policies share nothing but their addresses. Who takes the subscribers of one and the relays of the other
/// denies what both allow, and allows what both deny; and each filters a port that the other does not.
const A: &str = "\
version: 1
relays:
  one: {addresses: [198.51.100.1, 2001:db8:25::1]}
  two: {addresses: [198.51.100.2, 2001:db8:25::2]}
groups:
  left: {prefixes: [203.0.113.0/24, 2001:db8:1000::/36], relays: [one], ports: [25, 2525]}
  right: {prefixes: [198.18.0.0/16, 2001:db8:2000::/36], relays: [two], ports: [25, 2525]}
exemptions:
  - {prefix: 203.0.113.77/32, reason: in both}
  - {prefix: 203.0.113.78/32, reason: tells that B is not in force}
";
const B: &str = "\
version: 1
relays:
  one: {addresses: [198.51.100.2, 2001:db8:25::2]}
  two: {addresses: [198.51.100.1, 2001:db8:25::1]}
groups:
  left: {prefixes: [198.18.0.0/16, 2001:db8:2000::/36], relays: [one], ports: [25, 5025]}
  right: {prefixes: [203.0.113.0/24, 2001:db8:1000::/36], relays: [two], ports: [25, 5025]}
exemptions:
  - {prefix: 203.0.113.77/32, reason: in both}
  - {prefix: 203.0.113.79/32, reason: tells that A is not in force}
";
/// The port that A filters and B does not, and the other way round.
const PORTS: [u16; 2] = [2525, 5025];

/// Subscribers that make an image one of several blocks. They lie below those of the packets, whose nodes so come behind
/// the first block.
const CROWD: u32 = 100_000;

/// `policy`, with a crowd in its groups that nothing can be merged of.
fn crowded(policy: &str) -> String {
    let mut groups = [String::new(), String::new()];
    for number in 0..CROWD {
        let address = Ipv4Addr::from_bits(u32::from_be_bytes([100, 64, 0, 0]) + 37 * number);
        groups[number as usize % 2] += &format!("{address}/32, ");
    }
    let [left, right] = groups;
    let policy = policy.replace("left: {prefixes: [", &format!("left: {{prefixes: [{left}"));
    policy.replace("right: {prefixes: [", &format!("right: {{prefixes: [{right}"))
}

/// A and B, of one block and of several.
struct Images {
    small: [Image; 2],
    large: [Image; 2],
}

impl Images {
    fn new() -> Result<Self> {
        let slots = GroupIds::default();
        let small = [compile(A, &slots, 1)?, compile(B, &slots, 2)?];
        let large = [compile(&crowded(A), &slots, 3)?, compile(&crowded(B), &slots, 4)?];
        ensure!(small.iter().all(|image| image.nodes().len() < BLOCK_NODES));
        ensure!(large.iter().all(|image| image.nodes().len() > 2 * BLOCK_NODES));
        Ok(Self { small, large })
    }
}

/// A machine that is emulated is ten times slower.
fn swaps() -> Result<u64> {
    Ok(if release::is_emulated()? { 400 } else { 10_000 })
}
/// Lines that are swapped at the same time. Each swap waits until every CPU has left the image of before, and those
/// who wait together wait no longer than one.
const LINES: u64 = 8;

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn no_packet_sees_two_policies() -> Result<()> {
    let start = Instant::now();
    let hooks = [INGRESS[0], INGRESS[2]];
    let images = &Images::new()?;
    let sent: Vec<Sent> = thread::scope(|scope| {
        let lines: Vec<_> = (0..LINES as usize)
            .map(|line| scope.spawn(move || swap_under_traffic(images, hooks[line % hooks.len()])))
            .collect();
        let ended = lines.into_iter().map(|line| line.join().expect("no panic"));
        ended.collect::<Result<_>>()
    })?;
    let total = |count: fn(&Sent) -> u64| sent.iter().map(count).sum::<u64>();
    println!(
        "{} swaps in {:.1?}; {} packets that both deny, {} that both allow, {} of a port that only the policy in force filters",
        LINES * (swaps()? / LINES),
        start.elapsed(),
        total(|sent| sent.denied),
        total(|sent| sent.allowed),
        total(|sent| sent.probes),
    );
    Ok(())
}

#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    denied: u64,
    allowed: u64,
    /// Of a port that only one of the policies filters, while that policy was in force.
    probes: u64,
}

/// What a frame is, in the first of the last eight bytes of its data; the others are its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Kind {
    Allowed = 1,
    Denied,
    /// From an address that is exempt unless B is in force; then a port that B filters, and the first once more.
    BeforeB,
    OnlyB,
    AfterB,
    /// The same for A.
    BeforeA,
    OnlyA,
    AfterA,
    Last,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Allowed,
        Self::Denied,
        Self::BeforeB,
        Self::OnlyB,
        Self::AfterB,
        Self::BeforeA,
        Self::OnlyA,
        Self::AfterA,
        Self::Last,
    ];

    fn tag(self, number: u64) -> [u8; 8] {
        ((self as u64) << 56 | number).to_be_bytes()
    }

    /// Kind and number of a frame of ours.
    fn of(frame: &[u8]) -> Option<(Self, u64)> {
        let [kind, number @ ..] = frame.last_chunk::<8>()?;
        let kind = Self::ALL.into_iter().find(|known| *known as u8 == *kind)?;
        let number = number.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        (frame[0] == 2).then_some((kind, number))
    }
}

/// What has gone into the line and come out of it, in allowed frames.
#[derive(Default)]
struct Progress {
    is_over: AtomicBool,
    sent: AtomicU64,
    arrived: AtomicU64,
}

/// How often each frame has arrived.
type Heard = BTreeMap<(Kind, u64), u32>;

fn swap_under_traffic(images: &Images, hook: (Hook, Effective)) -> Result<Sent> {
    let mut gate = Gate::with(A)?;
    gate.attach(Role::Subscriber, Direction::Upstream, hook)?;
    let (sender, receiver) = (gate.line.open()?.subscriber, gate.line.open()?.core);
    let progress = Progress::default();
    let (swapped, sent, heard) = thread::scope(|scope| {
        let sending = scope.spawn(|| send(&sender, &progress));
        let hearing = scope.spawn(|| hear(&receiver, &progress));
        let swapped = swap(&mut gate, images, &progress);
        progress.is_over.store(true, SeqCst);
        (swapped, sending.join().expect("no panic"), hearing.join().expect("no panic"))
    });
    swapped?;
    let (mut sent, heard) = (sent?, heard?);
    let has = |kind, number| heard.contains_key(&(kind, number));
    for number in 1..=sent.allowed {
        ensure!(has(Kind::Allowed, number), "{hook:?}: {number} of {sent:?} is lost");
        ensure!(!has(Kind::Denied, number), "{hook:?}: {number} of {sent:?} is let through");
        for [before, probe, after] in
            [[Kind::BeforeA, Kind::OnlyA, Kind::AfterA], [Kind::BeforeB, Kind::OnlyB, Kind::AfterB]]
        {
            // At most one swap happens while a round is under way, so nothing else was in force in between.
            if !has(before, number) && !has(after, number) {
                ensure!(!has(probe, number), "{hook:?}: {probe:?} {number} is let through");
                sent.probes += 1;
            }
        }
    }
    let twice: Vec<_> = heard.iter().filter(|(_, times)| **times != 1).collect();
    ensure!(twice.is_empty(), "{hook:?}: more than once: {twice:?}");
    ensure!(sent.probes > swaps()? / LINES, "{sent:?}");
    Ok(sent)
}

/// Publishes B and A by turns, most of them from images of one block and some from images of several. After each swap, what
/// only the new policy filters does not pass, and what only the old one filtered does.
fn swap(gate: &mut Gate, images: &Images, progress: &Progress) -> Result<()> {
    for number in 1..=swaps()? / LINES {
        let now = (number % 2) as usize;
        // Large behind large, and behind small, and the other way round.
        let is_large = number % 32 < 4;
        let images = if is_large { &images.large } else { &images.small };
        gate.programs.kernel()?.publish(&images[now])?;
        ensure!(
            gate.programs.tail_blocks()? == usize::from(is_large),
            "swap {number} leaves blocks behind"
        );
        for (policy, port) in PORTS.into_iter().enumerate() {
            let probe = syn4(DYNAMIC, OUTSIDE, port, b"");
            let arrived = gate.ends.arriving(Way::Up, &probe)?;
            let passed = arrived.contains(&probe);
            ensure!(passed == (policy != now), "swap {number}, port {port}: passed: {passed}");
        }
        // Every round that saw this swap is over before the next one.
        let rounds = progress.sent.load(SeqCst) + 1;
        wait(|| progress.arrived.load(SeqCst) > rounds)?;
    }
    Ok(())
}

/// Rounds that may be under way: fewer frames than any queue on the line has room for.
const WINDOW: u64 = 16;

const DYNAMIC: [u8; 4] = [203, 0, 113, 9];
const OUTSIDE: [u8; 4] = [192, 0, 2, 25];

/// Sends for as long as the policies change, and then, behind all others, the last frame.
fn send(wire: &Wire, progress: &Progress) -> Result<Sent> {
    let sent = rounds(wire, progress);
    wire.send(&syn4([192, 0, 2, 9], OUTSIDE, 25, &Kind::Last.tag(0)))?;
    sent
}

/// What both deny, what one denies, and what both allow, again and again.
fn rounds(wire: &Wire, progress: &Progress) -> Result<Sent> {
    let mut sent = Sent::default();
    while !progress.is_over.load(SeqCst) {
        let number = sent.allowed + 1;
        let denied = &Kind::Denied.tag(number);
        wire.send(&match number % 5 {
            0 => syn4(DYNAMIC, [198, 51, 100, 2], 25, denied),
            1 => syn4([198, 18, 7, 9], [198, 51, 100, 1], 25, denied),
            2 => syn4(DYNAMIC, OUTSIDE, 25, denied),
            3 => syn6(0x1000, 2, 25, denied),
            _ => syn6(0x2000, 1, 25, denied),
        })?;
        sent.denied += 1;
        let exempt = |last| [203, 0, 113, last];
        for (kind, source, port) in [
            (Kind::BeforeA, exempt(79), 25),
            (Kind::OnlyA, DYNAMIC, PORTS[0]),
            (Kind::AfterA, exempt(79), 25),
            (Kind::BeforeB, exempt(78), 25),
            (Kind::OnlyB, DYNAMIC, PORTS[1]),
            (Kind::AfterB, exempt(78), 25),
        ] {
            wire.send(&syn4(source, OUTSIDE, port, &kind.tag(number)))?;
        }
        let allowed = &Kind::Allowed.tag(number);
        wire.send(&match number % 7 {
            0 => syn4(DYNAMIC, [198, 51, 100, 1], 25, allowed),
            1 => syn4([198, 18, 7, 9], [198, 51, 100, 2], 25, allowed),
            2 => syn4(exempt(77), OUTSIDE, 25, allowed),
            3 => syn4(DYNAMIC, OUTSIDE, 80, allowed),
            4 => syn6(0x1000, 1, 25, allowed),
            5 => syn6(0x2000, 2, 25, allowed),
            _ => syn4([192, 0, 2, 9], OUTSIDE, 25, allowed),
        })?;
        sent.allowed = number;
        progress.sent.store(number, SeqCst);
        wait(|| number - progress.arrived.load(SeqCst) < WINDOW)?;
    }
    Ok(sent)
}

/// A frame that is lost ends the waiting, and is then found by its number.
fn wait(mut until: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !until() {
        ensure!(start.elapsed() < Duration::from_secs(20), "nothing arrives any more");
        thread::yield_now();
    }
    Ok(())
}

/// Takes in what arrives until the last frame.
fn hear(wire: &Wire, progress: &Progress) -> Result<Heard> {
    let mut heard = Heard::new();
    let last = wire.receive(Duration::from_secs(600), |frame| {
        let Some((kind, number)) = Kind::of(frame) else { return false };
        *heard.entry((kind, number)).or_default() += 1;
        if kind == Kind::Allowed {
            progress.arrived.fetch_add(1, SeqCst);
        }
        kind == Kind::Last
    })?;
    last.context("the last frame has not arrived")?;
    Ok(heard)
}

fn syn4(source: [u8; 4], destination: [u8; 4], port: u16, data: &[u8]) -> Vec<u8> {
    let tcp = Tcp::new(49152, port, flags::SYN).data(data);
    Ethernet::new().carrying(&Ipv4::new(source, destination).carrying(tcp))
}

fn syn6(block: u16, relay: u16, port: u16, data: &[u8]) -> Vec<u8> {
    let source = [0x2001, 0xdb8, block, 9, 0, 0, 0, 9];
    let destination = [0x2001, 0xdb8, 0x25, 0, 0, 0, 0, relay];
    let tcp = Tcp::new(49152, port, flags::SYN).data(data);
    Ethernet::new().carrying(&Ipv6::new(source, destination).carrying(tcp))
}
