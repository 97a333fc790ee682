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
        self, Host,
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
    std::fs::write(&file, packets::POLICY)?;
    let policy = Policy::load(&[file])?;
    Ok(Image::compile(&policy, &GroupIds::default(), 1, jiff::Timestamp::now())?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
