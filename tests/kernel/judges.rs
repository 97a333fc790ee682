//! Everything that can judge a frame, over one image.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use opb_common::{judge::decide, outcome::Outcome, settings::Settings};
use opb_lab::{
    naive::Sample,
    packets::{BYPASSED, POLICY},
    programs::compile,
};
use opb_userspace::{
    image::{GroupIds, Image, Tables},
    kernel::{Replay, ReplayHook},
};

pub(crate) const HOOKS: [ReplayHook; 2] = [ReplayHook::Xdp, ReplayHook::Tc];

/// The packet table's policy, compiled as the daemon does it.
pub(crate) fn image() -> Image {
    compile(POLICY, &GroupIds::default(), 1).expect("an image")
}

/// The id of the group that has a bypass.
pub(crate) fn bypassed(image: &Image) -> u16 {
    image.group_ids().get(BYPASSED).expect("a group of the table's policy")
}

/// Longer than a test.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

pub(crate) fn on_the_host(tables: &Tables<'_>, sample: &Sample) -> Outcome {
    decide(sample, sample.settings, tables)
}

/// The programs of one hook, each loaded when the first frame wants its settings.
pub(crate) struct Programs<'a> {
    image: &'a Image,
    hook: ReplayHook,
    loaded: HashMap<u32, Replay>,
}

impl<'a> Programs<'a> {
    pub(crate) fn new(image: &'a Image, hook: ReplayHook) -> Self {
        Self { image, hook, loaded: HashMap::new() }
    }

    pub(crate) fn with(&mut self, settings: Settings) -> &mut Replay {
        match self.loaded.entry(settings.0) {
            Entry::Occupied(replay) => replay.into_mut(),
            Entry::Vacant(place) => {
                let replay = Replay::new(self.image, settings, self.hook)
                    .unwrap_or_else(|error| panic!("{:?} {settings:?}: {error:?}", self.hook));
                replay.bypass(bypassed(self.image), LONG);
                place.insert(replay)
            }
        }
    }

    pub(crate) fn judge(&mut self, settings: Settings, frame: &[u8]) -> Outcome {
        let hook = self.hook;
        let result = self.with(settings).run(frame);
        result.unwrap_or_else(|error| panic!("{hook:?} {settings:?} {frame:02x?}: {error:?}"))
    }
}

/// Whether a test run takes the frame. For TC the kernel wants more than an Ethernet header, and all of the header of
/// what it calls IP; the tests on real cables have no such limit.
pub(crate) fn takes(hook: ReplayHook, frame: &[u8]) -> bool {
    const LONGEST: usize = 3000;
    let shortest = match (hook, frame.get(12..14)) {
        (ReplayHook::Tc, Some([0x08, 0x00])) => 14 + 20,
        (ReplayHook::Tc, Some([0x86, 0xdd])) => 14 + 40,
        _ => 15,
    };
    (shortest..LONGEST).contains(&frame.len())
}

/// An outcome in words, with the group by name.
pub(crate) fn words(outcome: Outcome, image: &Image) -> String {
    let Outcome { verdict, reason, group, .. } = outcome;
    named(verdict.name(), reason.name(), image.group_ids().name(group))
}

pub(crate) fn named(verdict: &str, reason: &str, group: Option<&str>) -> String {
    format!("{verdict} {reason} {}", group.unwrap_or("-"))
}
