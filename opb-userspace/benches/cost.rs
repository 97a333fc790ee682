//! What the filter costs a packet, over an empty program, and what the verifier walked: `cargo xtask cost`.
//!
//! Every case alternates with the empty program for a number of rounds in one run; the medians are compared. A machine
//! that is busy moves both.

use std::process::ExitCode;

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
    image::{Image, Slots},
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
        // As on a subscriber interface, but for the word that a replay leaves of a judged packet.
        let mut replay = Replay::new(&image, Settings::SUBSCRIBER, hook)?;
        let walked = replay.verified_instructions()?.context("the kernel does not say")?;
        println!("{hook:?}: {walked} instructions verified (of 1,000,000 that a kernel allows)");
        for (what, frame) in cases() {
            let mut ours = Vec::new();
            let mut theirs = Vec::new();
            for _ in 0..ROUNDS {
                ours.push(replay.test_run(&frame, REPEAT)?.1);
                theirs.push(trivial::test_run(&empty, &frame, REPEAT)?.as_nanos() as f64);
            }
            let (ours, theirs) = (median(ours), median(theirs));
            println!(
                "  {what:<44} {ours:>5.0} ns, empty {theirs:>4.0} ns, over empty {:>5.0} ns",
                ours - theirs
            );
        }
    }
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
    Ok(Image::compile(&policy, &Slots::default(), 1, jiff::Timestamp::now())?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
