//! What the kernel makes of the programs.

use anyhow::{Context, Result, ensure};
use opb_common::settings::Settings;
use opb_userspace::kernel::{Replay, ReplayHook};

use super::net::{POLICY, image};

/// The verifier gives up at a million. The next compiler, or the next line in the walk, must have room.
const MOST: u32 = 100_000;

#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn the_verifier_has_room() -> Result<()> {
    let image = image(POLICY, 1)?;
    for hook in [ReplayHook::Xdp, ReplayHook::Tc] {
        let mut replay =
            Replay::new(&image, Settings::SUBSCRIBER, hook).with_context(|| format!("{hook:?}"))?;
        let count = replay.verified_instructions()?.context("the kernel does not say")?;
        println!("fact: verified instructions, {hook:?} | {count}");
        ensure!(count <= MOST, "{hook:?}: {count} instructions verified");
    }
    Ok(())
}
