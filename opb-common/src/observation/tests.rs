//! The talkers, limits and statistics together, as [`observe`] uses them.

use super::{hash::mix, talkers::SOURCE_BURST, *};
use crate::outcome::Direction;

fn event(subscriber: u64, peer: u64, time: u64) -> Event {
    Event { subscriber: [0, subscriber], peer: [0, peer], time, ..Event::default() }
}

/// The statistics of a CPU, with one bucket that all subscribers share.
#[derive(Default)]
struct Recorder {
    statistics: CpuStatistics,
    slots: TalkerSlots,
    bucket: Bucket,
}

impl Recorder {
    fn observe(&mut self, event: &Event) -> bool {
        let key = self.statistics.key(event.subscriber);
        observe(&mut self.statistics, Some((key, &mut self.slots, &mut self.bucket)), event)
    }

    /// Records the event under a tag of the test's choice.
    fn tagged(&mut self, tag: u64, event: &Event) -> TalkerUpdate {
        self.slots.observe(&mut self.bucket, tag, event)
    }

    fn talkers(&self) -> impl Iterator<Item = &Talker> {
        self.bucket.iter().filter(|talker| talker.packets != 0)
    }

    fn packets(&self, subscriber: u64) -> u64 {
        let of = |talker: &&Talker| talker.subscriber == [0, subscriber];
        self.talkers().filter(of).map(|talker| talker.packets).sum()
    }
}

#[test]
fn a_source_gets_a_burst_and_then_one_a_second() {
    let mut recorder = Recorder::default();
    let mut sent = 0;
    for millisecond in 0..10_000 {
        let event = event(7, millisecond, 1 + millisecond * 1_000_000);
        sent += u64::from(recorder.observe(&event));
    }
    assert_eq!(sent, SOURCE_BURST + 9);
    assert_eq!(
        sent + recorder.statistics.lost(),
        10_000,
        "each packet has its event or is counted as lost"
    );
    assert_eq!(recorder.packets(7), 10_000);
}

#[test]
fn invented_addresses_do_not_displace_a_subscriber_that_sends_a_fifth() {
    let mut recorder = Recorder::default();
    let mut random = 1u64;
    for packet in 0..1_000_000 {
        random = mix(random + packet);
        let subscriber = if packet % 4 == 0 { 7 } else { random };
        recorder.observe(&event(subscriber, 1, packet));
    }
    assert_eq!(recorder.packets(7), 250_000);
    assert!(recorder.statistics.evicted > 400_000, "{:?}", recorder.statistics);
}

#[test]
fn newcomers_leave_events_to_known_talkers() {
    let mut recorder = Recorder::default();
    recorder.observe(&event(7, 1, 1));
    for invented in 0..10_000 {
        observe(&mut recorder.statistics, None, &event(100 + invented, 1, 2));
    }
    assert!(
        !observe(&mut recorder.statistics, None, &event(99, 1, 3)),
        "the newcomers' share is used up"
    );
    assert!(recorder.observe(&event(7, 1, 3)));
}

#[test]
fn each_direction_is_a_talker_of_its_own() {
    let mut recorder = Recorder::default();
    for packet in 0..3 {
        let downstream = u16::from(packet == 2);
        recorder.observe(&Event { downstream, ..event(7, 1, packet) });
    }
    let of = |direction| {
        let talkers = recorder.talkers().filter(|it| it.direction() == direction);
        talkers.fold((0, 0), |(count, packets), talker| (count + 1, packets + talker.packets))
    };
    assert_eq!((of(Direction::Upstream), of(Direction::Downstream)), ((1, 2), (1, 1)));
}

#[test]
fn peers_are_estimated() {
    let mut recorder = Recorder::default();
    for packet in 0..1000 {
        recorder.observe(&event(7, packet % 30, packet));
    }
    let estimate = Talker::distinct_peers(recorder.talkers().next().expect("a talker").peers);
    assert!((24..=37).contains(&estimate), "{estimate}");
    assert_eq!(Talker::distinct_peers(0), 0);
    assert_eq!(Talker::distinct_peers(u64::MAX), 266);
}

#[test]
fn addresses_distinguish_equal_tags() {
    let mut recorder = Recorder::default();
    for packet in 0..4000 {
        // Subscribers 0 to 2 share a tag, subscriber 3 has its own.
        let tag = if packet % 4 == 3 { 5 } else { 3 };
        recorder.tagged(tag, &event(packet % 4, 1, packet));
    }
    for subscriber in 0..4 {
        assert_eq!(recorder.packets(subscriber), 1000, "{:?}", recorder.slots);
    }
    assert_eq!(recorder.tagged(3, &event(9, 1, 9)), TalkerUpdate::NoSlot);
}

#[test]
fn a_talker_at_the_maximum_is_not_starved_by_three_others_at_the_maximum() {
    let mut recorder = Recorder::default();
    for packet in 0..4 * 70_000 {
        recorder.tagged(2 * (packet % 4) + 1, &event(packet % 4, 1, packet));
    }
    assert_eq!(recorder.slots.counters, u64::MAX, "all counters are at the maximum");
    for packet in 0..4_000_000 {
        let invented = packet % 9 >= 2;
        let (tag, subscriber) = if invented { (99, 100 + packet) } else { (1, 0) };
        recorder.tagged(tag, &event(subscriber, 1, packet));
    }
    assert_eq!(recorder.packets(0), 70_000 + 888_890, "two packets of nine");
    assert_eq!(recorder.packets(1), 0, "loud long ago");
}

#[test]
fn a_forgotten_talker_leaves_an_empty_slot() {
    let mut recorder = Recorder::default();
    for subscriber in 0..4 {
        recorder.tagged(2 * subscriber + 1, &event(subscriber, 1, 10 + subscriber));
    }
    assert!(!recorder.slots.forget(&mut recorder.bucket, 10));
    assert!(recorder.slots.forget(&mut recorder.bucket, 12));
    assert!(recorder.talkers().map(|talker| talker.subscriber[1]).eq([2, 3]));
    assert_eq!(recorder.tagged(9, &event(9, 1, 20)), TalkerUpdate::Added);
    assert_eq!(recorder.tagged(11, &event(10, 1, 20)), TalkerUpdate::Added);
    assert_eq!(recorder.tagged(13, &event(11, 1, 20)), TalkerUpdate::NoSlot);
}

#[test]
fn the_clock_is_read_once_a_tick() {
    let mut statistics = CpuStatistics::default();
    assert_eq!(statistics.clock(1, || 100), 100);
    assert_eq!(statistics.clock(1, || unreachable!("read twice in one tick")), 100);
    assert_eq!(statistics.clock(2, || 200), 200);
}
