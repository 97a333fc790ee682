//! Host against kernel, on frames that nobody thought of.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use opb_common::outcome::Outcome;
use opb_lab::generate::Generator;
use opb_userspace::{image::Tables, kernel::ReplayHook};

use crate::judges::{Programs, image, on_the_host, takes, words};

/// Half of the test's time each.
const TIME: Duration = Duration::from_secs(10);
/// What a slow machine must do in that time all the same.
const FEWEST: u32 = 20_000;
/// Damaged copies of one generated frame, which cost less than frames of their own.
const COPIES: u32 = 7;

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn host_and_xdp_agree() {
    host_and(ReplayHook::Xdp);
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn host_and_tc_agree() {
    host_and(ReplayHook::Tc);
}

/// With another seed each time; one that failed comes back with `OPB_SEED`.
fn host_and(hook: ReplayHook) {
    let seed = match std::env::var("OPB_SEED") {
        Ok(seed) => seed.parse().expect("OPB_SEED is a number"),
        Err(_) => {
            SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64
        }
    };
    let image = image();
    let tables = Tables::new(&image);
    let mut programs = Programs::new(&image, hook);
    let mut generator = Generator::new(seed);
    let (mut frames, mut judged) = (0, 0);
    let start = Instant::now();
    while frames < FEWEST || start.elapsed() < TIME {
        let mut sample = generator.hostile();
        // A test run has no tag beside the frame; the line tests have.
        sample.tags_out_of_band = 0;
        let original = sample.frame.clone();
        for _ in 0..=COPIES {
            if takes(hook, &sample.frame) {
                let host = on_the_host(&tables, &sample);
                let kernel = programs.judge(sample.settings, &sample.frame);
                assert_eq!(
                    words(kernel, &image),
                    words(host, &image),
                    "OPB_SEED={seed}: {hook:?} against the host, frame {frames}: {sample:02x?}"
                );
                frames += 1;
                judged += u32::from(host != Outcome::OTHER);
            }
            sample.frame.clone_from(&original);
            generator.damage(&mut sample.frame);
        }
    }
    eprintln!("{frames} frames, {judged} judged, seed {seed}");
    assert!(judged > frames / 3, "OPB_SEED={seed}: {judged} of {frames} reached a verdict");
}
