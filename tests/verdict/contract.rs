//! What must hold of every frame, whatever it is.

use opb_common::{
    judge::decide,
    outcome::{Outcome, Reason},
};
use opb_lab::generate::Generator;

use crate::policy;

const FRAMES: u32 = 2_000_000;
/// Damaged copies of one generated frame, which cost less than frames of their own.
const COPIES: u32 = 7;

/// Fast path and parser agree, a packet is counted exactly if it is judged, and no frame makes the
/// verdict panic.
#[test]
fn fast_path_and_parser_agree() {
    let policy = policy();
    let mut generator = Generator::new(0x25);
    let (mut cheap, mut plain, mut reached, mut judged) = (0, 0, 0, 0);
    let mut frames = 0;
    while frames < FRAMES {
        let mut sample = generator.hostile();
        let original = sample.frame.clone();
        for _ in 0..=COPIES {
            frames += 1;
            let outcome = policy.decide(&sample);
            let parsed = policy.parse(&sample);
            let is_other = parsed.is_other();
            if let Some(fast_path) = policy.classify(&sample) {
                assert_eq!(fast_path, parsed, "{sample:02x?}");
                cheap += u32::from(is_other);
                plain += u32::from(!is_other);
            }
            assert_eq!(is_other, outcome == Outcome::OTHER, "{sample:02x?}");
            assert_eq!(is_other, policy.take_record().is_none(), "{sample:02x?}");
            reached += u32::from(!is_other);
            judged += u32::from(outcome.group != 0);
            sample.frame.clone_from(&original);
            generator.damage(&mut sample.frame);
        }
    }
    // Were it not so, the generator would have lost its bias and this test its worth.
    assert!(cheap > frames / 10, "{cheap} of {frames} passed on the fast path");
    assert!(plain > frames / 50, "{plain} of {frames} were parsed on the fast path");
    assert!(reached > frames / 3, "{reached} of {frames} reached a verdict");
    assert!(judged > frames / 10, "{judged} of {frames} belong to a group");
}

/// A packed outcome unpacks to itself.
#[test]
fn outcomes_survive_packing() {
    let policy = policy();
    let mut generator = Generator::new(0x2525);
    for _ in 0..10_000 {
        let outcome = policy.decide(&generator.hostile());
        assert_eq!(Outcome::unpack(outcome.pack()), Some(outcome));
        assert_eq!(Outcome::packed_forwards(outcome.pack()), outcome.verdict.forwards());
    }
}

/// Without a policy everything passes, and what would have been judged is counted.
#[test]
fn no_policy_passes_everything() {
    use std::cell::Cell;

    use opb_common::{
        image::ImageNode,
        judge::Tables,
        outcome::{Direction, Verdict},
        settings::{PortSet, Settings},
    };

    struct Empty<'a>(&'a PortSet, Cell<u32>);

    impl Tables for Empty<'_> {
        type Image<'a>
            = &'a [ImageNode]
        where
            Self: 'a;

        fn ports(&self, _settings: Settings) -> &PortSet {
            self.0
        }

        fn image(&self) -> Option<&[ImageNode]> {
            None
        }

        fn record(&self, _direction: Direction, outcome: Outcome, _bytes: usize) {
            assert_eq!((outcome.verdict, outcome.reason), (Verdict::Pass, Reason::NoPolicy));
            self.1.set(self.1.get() + 1);
        }
    }

    let policy = policy();
    let empty = Empty(policy.ports(Settings(0)), Cell::new(0));
    let mut generator = Generator::new(0x25);
    for _ in 0..10_000 {
        let sample = generator.hostile();
        assert_eq!(decide(&sample, sample.settings, &empty).verdict, Verdict::Pass);
    }
    assert!(empty.1.get() > 1_000);
}
