//! What it costs to write denied packets down. A bound on the verifier's work; times are for `docs/`, by hand.

use anyhow::{Context, Result, ensure};
use opb_common::settings::Settings;
use opb_lab::programs::compile;
use opb_userspace::{
    image::GroupIds,
    kernel::{Replay, ReplayHook},
};

use crate::node::{OUTSIDE, syn};

/// Instructions that the verifier may process: a tenth of its limit.
const VERIFIED: u32 = 100_000;

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn observation_stays_verifiable_and_changes_no_verdict() -> Result<()> {
    let policy = "version: 1\nrelays: {isp: {addresses: [198.51.100.25]}}\ngroups: {dyn: {prefixes: [203.0.113.0/24], relays: [isp]}}\n";
    let image = compile(policy, &GroupIds::default(), 1)?;
    let denied = syn([203, 0, 113, 9].into(), OUTSIDE);
    let relayed = syn([203, 0, 113, 9].into(), [198, 51, 100, 25].into());
    let mut plain = denied.clone();
    plain[36..38].copy_from_slice(&443u16.to_be_bytes());
    for hook in [ReplayHook::Xdp, ReplayHook::Tc] {
        let mut off = Replay::new(&image, Settings::SUBSCRIBER, hook)?;
        let mut on = Replay::new(&image, Settings::SUBSCRIBER.with(Settings::OBSERVE), hook)?;
        let verified = on.verified_instructions()?.context("a count")?;
        println!(
            "{hook:?}: verified {:?}, with observations {verified}",
            off.verified_instructions()?
        );
        ensure!(verified <= VERIFIED, "{hook:?}: {verified}");
        for (name, frame) in [("denied", &denied), ("relay", &relayed), ("port 443", &plain)] {
            ensure!(on.run(frame)? == off.run(frame)?, "{hook:?}, {name}");
            let repeat = if std::env::var_os("OPB_MEASURE").is_some() { 2_000_000 } else { 100 };
            let median = |replay: &mut Replay| -> Result<f64> {
                let mut times = (0..7)
                    .map(|_| Ok(replay.test_run(frame, repeat)?.1))
                    .collect::<Result<Vec<_>>>()?;
                times.sort_by(f64::total_cmp);
                Ok(times[3])
            };
            let (off, on) = (median(&mut off)?, median(&mut on)?);
            println!("{hook:?}, {name}: {off} ns, with observations {on} ns");
        }
    }
    Ok(())
}
