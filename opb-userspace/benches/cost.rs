//! The cost of the filter per packet, compared with an empty program, with and without events. Also
//! the instructions that the verifier processed, and the time to read the counters: `cargo xtask
//! cost`.
//!
//! Each case alternates between the programs for several rounds, and compares the medians. A busy
//! machine affects all programs alike.

use std::{process::ExitCode, time::Instant};

use anyhow::{Context, Result};
use opb_common::settings::Settings;
use opb_lab::{
    frames::{Ethernet, Ipv4, Ipv6, Tcp, Udp, flags::ACK},
    packets::{
        Host,
        hosts::{DYNAMIC, ISP, OUTSIDE},
    },
    trivial,
};
use opb_userspace::{
    image::{GroupIds, Image},
    kernel::{Replay, ReplayHook},
    policy::Policy,
};

const ROUNDS: usize = 9;
const REPEAT: u32 = 300_000;
/// Stays as it is, so that commits can be compared. Packets in no tunnel are its subject.
const POLICY: &str = "\
version: 1
relays:
  isp:
    addresses: [198.51.100.25, 198.51.100.128/28, 2001:db8:25::/64]
  partner:
    addresses: [198.51.100.30, 198.51.100.136, 2001:db8:26::/64, 2001:db8:25::beef]
groups:
  any:
    prefixes: [198.19.1.0/24, 2001:db8:3000::/36]
    relays: [isp]
    match: any
  dynamic:
    prefixes: [203.0.113.0/24, 203.0.113.144/28, 2001:db8:1000::/36, 2001:db8:1800:8000::/49]
    relays: [isp]
    downstream: drop
  monitored:
    prefixes: [198.18.0.0/16, 2001:db8:2000::/36]
    relays: [isp]
    action: monitor
    downstream: monitor
  multi:
    prefixes: [198.19.3.0/24, 203.0.113.32/28, 2001:db8:5000::/36, 2001:db8:1f00::/48]
    relays: [isp]
    ports: [25, 2525]
  rejecting:
    prefixes: [198.19.2.0/24, 2001:db8:4000::/36]
    action: reject
    downstream: drop
  wholesale:
    prefixes: [198.19.4.0/24, 2001:db8:6000::/36]
    relays: [partner]
    downstream: drop
exemptions:
  - prefix: 203.0.113.77/32
    reason: one address inside a group
  - prefix: 2001:db8:1000:77::1/128
    reason: the same in IPv6
  - prefix: 203.0.113.128/26
    reason: around a longer prefix of the group
  - prefix: 2001:db8:1800::/40
    reason: the same in IPv6
  - prefix: 192.0.2.200/32
    reason: in no group
  - prefix: 2001:db8:9000::/48
    reason: the same in IPv6
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cost: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the table is what this is for")]
fn run() -> Result<()> {
    let image = image()?;
    for (hook, kind) in [(ReplayHook::Xdp, trivial::Kind::Xdp), (ReplayHook::Tc, trivial::Kind::Tc)]
    {
        let empty = trivial::load(kind)?;
        // As on a subscriber interface, except that a replay writes one word per packet.
        let mut off = Replay::new(&image, Settings::SUBSCRIBER, hook)?;
        let mut on = Replay::new(&image, Settings::SUBSCRIBER.with(Settings::OBSERVE), hook)?;
        let verified = |replay: &mut Replay| {
            replay
                .verified_instructions()?
                .context("the kernel does not report verified instructions")
        };
        println!(
            "{hook:?}: {} instructions verified with `events: off`, {} with events \
             (a kernel allows 1,000,000)",
            verified(&mut off)?,
            verified(&mut on)?
        );
        println!(
            "  {:<44} {:>9} {:>16} {:>16}",
            "ns a packet", "empty", "events: off", "with events"
        );
        for (what, frame) in cases() {
            let mut times = [const { Vec::new() }; 3];
            for _ in 0..ROUNDS {
                times[0].push(trivial::test_run(&empty, &frame, REPEAT)?.as_nanos() as f64);
                times[1].push(off.test_run(&frame, REPEAT)?.1);
                times[2].push(on.test_run(&frame, REPEAT)?.1);
            }
            let [empty, off, on] = times.map(median);
            let over = |ours: f64| format!("{ours:.0} (+{:.0})", ours - empty);
            println!("  {what:<44} {empty:>9.0} {:>16} {:>16}", over(off), over(on));
        }
    }
    reading(&image)
}

/// Measures with the most groups.
#[expect(clippy::print_stdout, reason = "as above")]
fn reading(image: &Image) -> Result<()> {
    let names: Vec<_> = (0..Policy::MAX_GROUPS).map(|number| format!("group{number}")).collect();
    let mut group_ids = GroupIds::default();
    group_ids.assign(names.iter().map(String::as_str), jiff::Timestamp::now())?;
    let replay = Replay::new(image, Settings::SUBSCRIBER, ReplayHook::Xdp)?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        std::hint::black_box(replay.counters(&group_ids));
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    println!("reading all counters of {} groups: {:.2} ms", names.len(), median(times));
    Ok(())
}

fn cases() -> [(&'static str, Vec<u8>); 9] {
    let v4 = |to: Host, payload: Tcp| Ipv4::new(DYNAMIC.v4, to.v4).carrying(payload);
    let v6 = |to: Host, payload: Tcp| Ipv6::new(DYNAMIC.v6, to.v6).carrying(payload);
    let web = || Tcp::new(40000, 443, ACK).data(b"not mail");
    let plain = Ethernet::new;
    let access = || Ethernet::new().tag(0x88a8, 100).tag(0x8100, 200).pppoe();
    let udp = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(Udp::new(53, 53, b"not mail either"));
    [
        ("TCP to port 443, IPv4", plain().carrying(&v4(OUTSIDE, web()))),
        ("TCP to port 443, IPv6", plain().carrying(&v6(OUTSIDE, web()))),
        ("UDP, IPv4", plain().carrying(&udp)),
        ("TCP to port 443, IPv4 in QinQ and PPPoE", access().carrying(&v4(OUTSIDE, web()))),
        ("TCP to port 443, IPv6 in QinQ and PPPoE", access().carrying(&v6(OUTSIDE, web()))),
        ("SYN to port 25, denied, IPv4", plain().carrying(&v4(OUTSIDE, Tcp::syn_to(25)))),
        ("SYN to port 25, denied, IPv6", plain().carrying(&v6(OUTSIDE, Tcp::syn_to(25)))),
        ("SYN to port 25 of a relay, IPv4", plain().carrying(&v4(ISP, Tcp::syn_to(25)))),
        ("SYN to port 25 of a relay, IPv6", plain().carrying(&v6(ISP, Tcp::syn_to(25)))),
    ]
}

fn image() -> Result<Image> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("policy.yaml");
    std::fs::write(&file, POLICY)?;
    let policy = Policy::load(&[file])?;
    Ok(Image::compile(&policy, &GroupIds::default(), 1, jiff::Timestamp::now())?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
