//! The kernel lane: the real programs in the real kernel.

use opb_common::settings::Settings;
use opb_userspace::{
    image::{Image, Slots},
    kernel::{Replay, ReplayHook},
    policy::Policy,
};

fn image(policy: &str) -> Image {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("policy.yaml");
    std::fs::write(&file, policy).expect("a file");
    let policy = Policy::load(&[file]).expect("a valid policy");
    Image::compile(&policy, &Slots::default(), 1, jiff::Timestamp::now()).expect("an image")
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn loads_and_runs() {
    let image = image(
        "version: 1\nrelays: {isp: {addresses: [198.51.100.25]}}\ngroups: {dyn: {prefixes: [203.0.113.0/24], relays: [isp]}}\n",
    );
    for hook in [ReplayHook::Xdp, ReplayHook::Tc] {
        let mut replay = Replay::new(&image, Settings::SUBSCRIBER, hook)
            .unwrap_or_else(|error| panic!("{error:?}"));
        let mut frame = vec![0u8; 14];
        frame[12] = 8;
        frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 203, 0, 113, 5, 192, 0, 2, 1]);
        frame.extend([4, 0, 0, 25, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
        println!("{:?}", replay.run(&frame));
        frame[33] = 25;
        frame[30..33].copy_from_slice(&[198, 51, 100]);
        println!("{:?}", replay.run(&frame));
        println!("{:?}", replay.test_run(&frame, 1000000));
        frame[37] = 80;
        println!("{:?}", replay.run(&frame));
        println!("{:?}", replay.test_run(&frame, 1000000));
    }
}
