//! Any frame under any settings: no panic, and the three steps of the verdict agree with each other.

#![no_main]

use std::cell::LazyCell;

use libfuzzer_sys::fuzz_target;
use opb_common::{outcome::Outcome, settings::Settings};
use opb_lab::{
    naive::{Naive, Sample},
    packets::POLICY,
};

thread_local! {
    static TABLE: LazyCell<Naive> =
        LazyCell::new(|| Naive::from_yaml(POLICY).expect("the table's policy is one"));
}

// One byte of settings, bit 7 of it for a tag beside the frame, then the frame: `cargo xtask fuzz` seeds it so.
fuzz_target!(|input: &[u8]| {
    let Some((&first, frame)) = input.split_first() else { return };
    let sample = Sample {
        frame: frame.to_vec(),
        tags_out_of_band: usize::from(first >> 7),
        settings: Settings(u32::from(first & 0x7f)),
    };
    TABLE.with(|policy| {
        let outcome = policy.decide(&sample);
        let parsed = policy.parse(&sample);
        let fast_path = policy.classify(&sample);
        assert!(fast_path.is_none_or(|fast| fast == parsed), "{fast_path:?}, but the parser says {parsed:?}");
        let is_other = parsed.is_other();
        assert_eq!(is_other, outcome == Outcome::OTHER);
        assert_eq!(is_other, policy.take_record().is_none());
        assert_eq!(Outcome::unpack(outcome.pack()), Some(outcome));
    });
});
