//! The same frames through the verdict function on the host and through the programs in the kernel.
//!
//! Each judge has an image of its own making: the host's comes from the slow and obvious compiler of the lab, the
//! kernel's is the real one. So the comparison covers both compilers as well. `cargo xtask fuzz --differential` runs this
//! very test with more frames.

use std::{collections::HashMap, env, time::Duration};

use opb_common::settings::Settings;
use opb_lab::{
    generate::Generator,
    naive::{Naive, Sample},
    packets::{BYPASSED, POLICY},
    programs::compile,
};
use opb_userspace::{
    image::{GroupIds, Image},
    kernel::{Replay, ReplayHook},
};

/// In a run of the lane. `cargo xtask fuzz --differential` asks for more.
const FRAMES: u64 = 200_000;
/// Damaged copies of one generated frame, which cost less than frames of their own.
const COPIES: u64 = 7;

/// Whether `BPF_PROG_TEST_RUN` takes the frame: it wants an Ethernet header, and for TC something behind it and as
/// much of an IP header as the type announces, all in one page.
fn fits(frame: &[u8], hook: ReplayHook) -> bool {
    let shortest = match (hook, frame.get(12..14)) {
        (ReplayHook::Xdp, _) => 14,
        (ReplayHook::Tc, Some([0x08, 0x00])) => 14 + 20,
        (ReplayHook::Tc, Some([0x86, 0xdd])) => 14 + 40,
        (ReplayHook::Tc, _) => 15,
    };
    let longest = if hook == ReplayHook::Tc { 3500 } else { usize::MAX };
    (shortest..=longest).contains(&frame.len())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn host_and_kernel_agree() {
    let frames = env::var("OPB_FRAMES").map_or(FRAMES, |count| count.parse().expect("a number"));
    let seed = env::var("OPB_SEED").map_or(0x25, |seed| seed.parse().expect("a number"));
    let policy = Naive::from_yaml(POLICY).expect("the table's policy is one");
    let image = image();
    let bypassed = image.group_ids().get(BYPASSED).expect("a group of the policy");
    let mut programs: HashMap<(u32, &str), Replay> = HashMap::new();

    let mut generator = Generator::new(seed);
    let (mut both, mut xdp_alone, mut judged) = (0u64, 0u64, 0u64);
    while both < frames {
        let mut sample = generator.hostile();
        // Nobody can say to TEST_RUN that a tag stands beside the frame.
        sample.tags_out_of_band = 0;
        let original = sample.frame.clone();
        for _ in 0..=COPIES {
            let host = policy.decide(&sample);
            let expected = (host.verdict, host.reason, policy.group(host.group), host.line);
            let hooks = [(ReplayHook::Xdp, "xdp"), (ReplayHook::Tc, "tc")];
            let fitting = hooks.iter().filter(|(hook, _)| fits(&sample.frame, *hook));
            let mut at = 0;
            for &(hook, name) in fitting {
                let replay = programs.entry((sample.settings.0, name)).or_insert_with(|| {
                    let replay = Replay::new(&image, sample.settings, hook);
                    let replay = replay.expect("the program loads");
                    replay.bypass(bypassed, Duration::from_secs(24 * 3600));
                    replay
                });
                let kernel = replay
                    .run(&sample.frame)
                    .unwrap_or_else(|error| panic!("{hook:?} {error:?}: {}", shown(&sample)));
                let group = image.group_ids().name(kernel.group);
                let got = (kernel.verdict, kernel.reason, group, kernel.line);
                assert_eq!(got, expected, "{hook:?}, seed {seed}: {}", shown(&sample));
                at += 1;
            }
            match at {
                2 => both += 1,
                1 => xdp_alone += 1,
                _ => {}
            }
            judged += u64::from(at > 0 && host.group != 0);
            sample.frame.clone_from(&original);
            generator.damage(&mut sample.frame);
        }
    }
    println!(
        "{both} frames agree at both hooks and {xdp_alone} more at XDP, under {} settings; {judged} belong to a group",
        programs.len() / 2
    );
    assert!(judged > both / 10, "{judged} of {both} belong to a group");
    assert!(programs.keys().any(|(settings, _)| Settings(*settings).has(Settings::BARE_IP)));
}

/// Settings, and the frame in hexadecimal.
fn shown(sample: &Sample) -> String {
    let bytes: String = sample.frame.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{:?} {bytes}", sample.settings)
}

fn image() -> Image {
    compile(POLICY, &GroupIds::default(), 1).expect("an image")
}
