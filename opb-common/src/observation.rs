//! What is written down of a denied packet beside the counters: an event, and who is being denied how often.
//!
//! A talker is a subscriber with the direction in which its packets are denied. Memory is bounded whatever is sent. Each CPU
//! has [`BUCKETS`] buckets of [`SLOTS`] places; a subscriber belongs to one bucket, and where a bucket is full a newcomer costs
//! every place one counter, and takes the first place whose counter is used up (the algorithm of Misra and Gries, a bucket at a
//! time). What that guarantees: a subscriber that goes on sending more than a fifth of the denied packets of its bucket on
//! a CPU keeps its place, however many invented addresses there are. A counter ends at [`MAX_COUNTER`], for the others as well:
//! who has it can never be brought to nothing while it sends its fifth, and who was loud long ago makes room. What it does
//! not guarantee: the counts of one that lost its place start again.
//!
//! A flood costs what it touches, so it touches little: tags and counters of all buckets are in a table of their own, which stays in
//! the cache, and a talker fills one cache line, which a packet that finds no place never sees, and one that takes a place only writes.

use crate::{
    frame::Frame,
    line::{is_ipv6, named_by},
    outcome::{Direction, Line},
    parsed::ParsedPacket,
    rate::next_arrival,
};

/// Places of a bucket: each has 16 bits of the tags and of the counters.
pub const SLOTS: usize = 4;
/// What a talker can have above those that want its place.
pub const MAX_COUNTER: u64 = 0xffff;
/// Buckets of one CPU; a power of two.
pub const BUCKETS: u32 = 4096;
/// Bytes of the event ring that all programs share.
pub const RING_BYTES: u32 = 1 << 20;

/// Events of one subscriber: this many in a row, then one every [`SOURCE_INTERVAL`].
const SOURCE_BURST: u64 = 5;
const SOURCE_INTERVAL: u64 = 1_000_000_000;
/// Events of one CPU and one [`Standing`]: this many in a row, then one every [`CPU_INTERVAL`].
const CPU_BURST: u64 = 500;
const CPU_INTERVAL: u64 = 1_000_000;

/// An IPv6 address, or an IPv4 address mapped into one, as two numbers; all zero for none.
pub type Address = [u64; 2];

/// One denied packet, as it travels through the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Event {
    pub subscriber: Address,
    /// The other end.
    pub peer: Address,
    /// The subscriber's address inside a tunnel, where another one names the line.
    pub inner: Address,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// [`crate::outcome::Outcome::pack`].
    pub outcome: u32,
    pub interface: u32,
    /// The filtered port, 0 if it is hidden.
    pub port: u16,
    /// 1 downstream, 0 upstream.
    pub downstream: u16,
    pub bytes: u32,
}

/// One subscriber whose packets are denied in one direction. A cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Talker {
    pub subscriber: Address,
    pub packets: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`, as [`CpuStatistics::clock`] tells them.
    pub first: u64,
    pub last: u64,
    /// Other ends, each hashed to one bit.
    pub peers: u64,
    /// When the next event may be sent.
    pub next: u64,
    /// Outcome of the last packet, packed, and [`Talker::DOWNSTREAM`].
    pub kind: u64,
}

/// Sizes of what is in maps and in the ring: user space reads them by these types.
const _: () = {
    assert!(size_of::<Event>() == 72);
    assert!(size_of::<Talker>() == 64);
    assert!(size_of::<CpuStatistics>() == 128);
    assert!(size_of::<TalkerSlots>() == 16);
};

impl Talker {
    /// No packed outcome has this bit.
    const DOWNSTREAM: u64 = 1 << 7;

    #[inline(always)]
    const fn kind_of(event: &Event) -> u64 {
        let outcome = event.outcome as u64;
        if event.downstream == 0 { outcome } else { outcome | Self::DOWNSTREAM }
    }

    /// Outcome of the last packet, packed.
    #[must_use]
    pub const fn outcome(&self) -> u32 {
        (self.kind & !Self::DOWNSTREAM) as u32
    }

    #[must_use]
    pub const fn direction(&self) -> Direction {
        if self.kind & Self::DOWNSTREAM == 0 { Direction::Upstream } else { Direction::Downstream }
    }

    /// The talker that such an event makes.
    #[inline(always)]
    #[must_use]
    pub const fn new(event: &Event) -> Self {
        Self {
            subscriber: event.subscriber,
            packets: 1,
            first: event.time,
            last: event.time,
            peers: peer_bit(event),
            next: event.time + SOURCE_INTERVAL,
            kind: Self::kind_of(event),
        }
    }

    /// How many different peers there were, by the share of bits that is still clear (linear counting). Rises up to 266;
    /// a full set says "at least that many".
    #[must_use]
    pub fn distinct_peers(peers: u64) -> u32 {
        /// `64 ln(64 / clear)`, rounded, for 64 to 0 clear bits.
        const ESTIMATES: [u16; 65] = [
            0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 15, 16, 17, 18, 20, 21, 23, 24, 25, 27, 29,
            30, 32, 33, 35, 37, 39, 41, 42, 44, 46, 48, 51, 53, 55, 58, 60, 63, 66, 68, 71, 74, 78,
            81, 85, 89, 93, 97, 102, 107, 113, 119, 125, 133, 141, 151, 163, 177, 196, 222, 266,
            266,
        ];
        u32::from(ESTIMATES[peers.count_ones() as usize])
    }
}

/// One CPU's statistics.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct CpuStatistics {
    /// Random, set by user space: nobody outside can tell who shares a bucket.
    pub seed: u64,
    /// Rate limits of the two standings.
    next: [u64; 2],
    /// The tick of the kernel in which `now` was read.
    tick: u64,
    now: u64,
    /// Events that went into the ring.
    pub events: u64,
    /// Denied packets without an event: the subscriber had its share.
    pub limited_source: u64,
    /// The CPU had its share.
    pub limited_cpu: u64,
    /// The ring was full.
    pub ring_full: u64,
    /// Talkers that lost their place, or found none.
    pub evicted: u64,
    unused: [u64; 6],
}

impl CpuStatistics {
    /// Denied packets for which there is no event.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.limited_source + self.limited_cpu + self.ring_full
    }

    /// The time by which the statistics are kept: it is read once in a `tick` (1 to 10 ms, as the kernel was configured), because
    /// reading it costs as much as the rest of the statistics. Rate limits hold on the average all the same.
    #[inline(always)]
    pub fn clock(&mut self, tick: u64, read: impl FnOnce() -> u64) -> u64 {
        if self.tick != tick {
            (self.tick, self.now) = (tick, read());
        }
        self.now
    }

    /// Where this CPU keeps the subscriber.
    #[inline(always)]
    #[must_use]
    pub const fn key(&self, subscriber: Address) -> TalkerKey {
        let hash = mix(subscriber[0].rotate_left(32) ^ subscriber[1] ^ self.seed);
        TalkerKey { bucket: hash as u32 & (BUCKETS - 1), tag: hash >> 48 | 1 }
    }

    /// Whether there is an event for the packet at `now`, as far as the limit of the CPU goes. Those that are known
    /// and those that are new have a share each, so that invented addresses leave events to the others.
    #[inline(always)]
    fn admits(&mut self, standing: Standing, now: u64) -> bool {
        let previous =
            if matches!(standing, Standing::Known) { self.next[0] } else { self.next[1] };
        let Some(next) = next_arrival(previous, now, CPU_BURST, CPU_INTERVAL) else {
            self.limited_cpu += 1;
            return false;
        };
        if matches!(standing, Standing::Known) {
            self.next[0] = next;
        } else {
            self.next[1] = next;
        }
        true
    }
}

/// What is known of a subscriber whose packet is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has a place, and may have an event.
    Known,
    /// It has a place, and no event now.
    Limited,
    /// It has just got a place.
    New,
    /// It has just got the place of another.
    Replaces,
    /// There was no place for it, or it has no address.
    Unlisted,
}

/// Where a subscriber is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TalkerKey {
    /// The bucket of this CPU.
    pub bucket: u32,
    /// 16 bits that tell it from most others there, the lowest of them set: an empty way has none.
    tag: u64,
}

/// Of each way of a bucket, what decides who has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct TalkerSlots {
    /// 0 where it is empty.
    tags: u64,
    /// What the talker has above those that want its place.
    counters: u64,
}

/// The talkers that share a bucket.
pub type Bucket = [Talker; SLOTS];

impl TalkerSlots {
    /// Empties the places of those that were last seen before `cutoff`. Whether there were any.
    pub fn forget(&mut self, bucket: &mut Bucket, cutoff: u64) -> bool {
        let mut forgets = false;
        for (slot, talker) in bucket.iter_mut().enumerate() {
            if talker.packets != 0 && talker.last < cutoff {
                *talker = Talker::default();
                self.tags &= !lanes::of(slot, lanes::MOST);
                self.counters &= !lanes::of(slot, lanes::MOST);
                forgets = true;
            }
        }
        forgets
    }

    /// Writes one denied packet down.
    #[inline(always)]
    pub fn observe(&mut self, bucket: &mut Bucket, tag: u64, event: &Event) -> Standing {
        let kind = Talker::kind_of(event);
        let mut same = lanes::zeros(self.tags ^ (tag * lanes::ONES));
        // More than one has the tag once in thousands of packets, but then the address decides.
        for _ in 0..SLOTS {
            if same == 0 {
                break;
            }
            let slot = lanes::lowest(same);
            let talker = &mut bucket[slot];
            if talker.subscriber[0] == event.subscriber[0]
                && talker.subscriber[1] == event.subscriber[1]
                && (talker.kind ^ kind) & Talker::DOWNSTREAM == 0
            {
                if lanes::get(self.counters, slot) < MAX_COUNTER {
                    self.counters += lanes::of(slot, 1);
                }
                talker.packets += 1;
                talker.last = event.time;
                talker.peers |= peer_bit(event);
                talker.kind = kind;
                let next = next_arrival(talker.next, event.time, SOURCE_BURST, SOURCE_INTERVAL);
                let Some(next) = next else { return Standing::Limited };
                talker.next = next;
                return Standing::Known;
            }
            same &= same - 1;
        }
        let free = lanes::zeros(self.counters);
        if free == 0 {
            // No lane borrows from the next: none is zero.
            self.counters -= lanes::ONES;
            return Standing::Unlisted;
        }
        let slot = lanes::lowest(free);
        let was_taken = lanes::get(self.tags, slot) != 0;
        self.tags = (self.tags & !lanes::of(slot, lanes::MOST)) | lanes::of(slot, tag);
        self.counters |= lanes::of(slot, 1);
        bucket[slot] = Talker::new(event);
        if was_taken { Standing::Replaces } else { Standing::New }
    }
}

/// Four numbers of 16 bits in one of 64, looked at together: which of them it was would be a guess for the branch predictor.
mod lanes {
    pub(super) const ONES: u64 = 0x0001_0001_0001_0001;
    pub(super) const MOST: u64 = 0xffff;
    const TOPS: u64 = ONES << 15;

    /// Top bits of the lanes that are zero. Above the lowest of them a lane that is one may seem to be zero as well.
    #[inline(always)]
    pub(super) const fn zeros(lanes: u64) -> u64 {
        lanes.wrapping_sub(ONES) & !lanes & TOPS
    }

    /// The lane of the lowest bit of `tops`, which has top bits alone. BPF cannot count zeros, but multiply: the
    /// factor has the number of each lane where its bit moves it to the top.
    #[inline(always)]
    pub(super) const fn lowest(tops: u64) -> usize {
        const NUMBERS: u64 = 1 << 46 | 2 << 30 | 3 << 14;
        (((tops & tops.wrapping_neg()) >> 15).wrapping_mul(NUMBERS) >> 62) as usize
    }

    #[inline(always)]
    pub(super) const fn get(lanes: u64, slot: usize) -> u64 {
        lanes >> (slot * 16) & MOST
    }

    /// `value` in the lane of `way`.
    #[inline(always)]
    pub(super) const fn of(slot: usize, value: u64) -> u64 {
        value << (slot * 16)
    }
}

/// Writes a denied packet into the statistics of its CPU, and says whether there is an event for it. The slots and the talkers are those of the
/// subscriber's bucket; there is none for a packet without an address.
#[inline(always)]
pub fn observe(
    statistics: &mut CpuStatistics,
    key: Option<(TalkerKey, &mut TalkerSlots, &mut Bucket)>,
    event: &Event,
) -> bool {
    let standing = key
        .map_or(Standing::Unlisted, |(key, slots, bucket)| slots.observe(bucket, key.tag, event));
    match standing {
        Standing::Limited => {
            statistics.limited_source += 1;
            return false;
        }
        Standing::Replaces | Standing::Unlisted => statistics.evicted += 1,
        Standing::Known | Standing::New => {}
    }
    statistics.admits(standing, event.time)
}

/// The addresses of one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// That names the line.
    pub subscriber: Address,
    /// The other end, of the inner header in a tunnel.
    pub peer: Address,
    /// The subscriber's in the inner header, where another one names the line.
    pub inner: Address,
}

/// The addresses of what the parser found, of which `line` names the subscriber.
#[inline(always)]
pub fn addresses<F: Frame + ?Sized>(
    frame: &F,
    parsed: ParsedPacket,
    line: Line,
    downstream: bool,
) -> Option<Addresses> {
    if parsed.is_unreadable() {
        return None;
    }
    let read = |line: Line, destination: bool| {
        let halves = named_by(frame, parsed, line, destination)?;
        Some(if is_ipv6(parsed, line) { halves } else { [0, MAPPED | halves[0] >> 32] })
    };
    let own = read(Line::Own, downstream)?;
    let peer = read(Line::Own, !downstream)?;
    Some(match line {
        Line::Own => Addresses { subscriber: own, peer, inner: [0; 2] },
        _ => Addresses { subscriber: read(line, downstream)?, peer, inner: own },
    })
}

/// `::ffff:0:0/96`
const MAPPED: u64 = 0xffff << 32;

/// The other end, hashed to one bit.
#[inline(always)]
const fn peer_bit(event: &Event) -> u64 {
    1 << (mix(event.peer[0].rotate_left(32) ^ event.peer[1]) & 63)
}

/// The finalizer of MurmurHash3.
#[inline(always)]
const fn mix(mut value: u64) -> u64 {
    value = (value ^ value >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    value = (value ^ value >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ value >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(subscriber: u64, peer: u64, time: u64) -> Event {
        Event { subscriber: [0, subscriber], peer: [0, peer], time, ..Event::default() }
    }

    /// All subscribers share the bucket.
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

        /// Under a tag of the test's choice.
        fn tagged(&mut self, tag: u64, event: &Event) -> Standing {
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
    fn invented_addresses_do_not_displace_who_sends_a_fifth() {
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
    fn newcomers_leave_events_to_those_that_are_known() {
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
    fn directions_are_talkers_of_their_own() {
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
        let estimate = Talker::distinct_peers(recorder.talkers().next().expect("is held").peers);
        assert!((24..=37).contains(&estimate), "{estimate}");
        assert_eq!(Talker::distinct_peers(0), 0);
        assert_eq!(Talker::distinct_peers(u64::MAX), 266);
    }

    #[test]
    fn equal_tags_are_told_apart_by_address() {
        let mut recorder = Recorder::default();
        for packet in 0..4000 {
            // All in one, none in one, and both.
            let tag = if packet % 4 == 3 { 5 } else { 3 };
            recorder.tagged(tag, &event(packet % 4, 1, packet));
        }
        for subscriber in 0..4 {
            assert_eq!(recorder.packets(subscriber), 1000, "{:?}", recorder.slots);
        }
        assert_eq!(recorder.tagged(3, &event(9, 1, 9)), Standing::Unlisted);
    }

    #[test]
    fn who_has_all_credit_is_not_starved_by_three_that_have_it_too() {
        let mut recorder = Recorder::default();
        for packet in 0..4 * 70_000 {
            recorder.tagged(2 * (packet % 4) + 1, &event(packet % 4, 1, packet));
        }
        assert_eq!(recorder.slots.counters, u64::MAX, "as much as there can be");
        for packet in 0..4_000_000 {
            let invented = packet % 9 >= 2;
            let (tag, subscriber) = if invented { (99, 100 + packet) } else { (1, 0) };
            recorder.tagged(tag, &event(subscriber, 1, packet));
        }
        assert_eq!(recorder.packets(0), 70_000 + 888_890, "two packets of nine");
        assert_eq!(recorder.packets(1), 0, "loud long ago");
    }

    #[test]
    fn what_is_forgotten_leaves_an_empty_place() {
        let mut recorder = Recorder::default();
        for subscriber in 0..4 {
            recorder.tagged(2 * subscriber + 1, &event(subscriber, 1, 10 + subscriber));
        }
        assert!(!recorder.slots.forget(&mut recorder.bucket, 10));
        assert!(recorder.slots.forget(&mut recorder.bucket, 12));
        assert!(recorder.talkers().map(|talker| talker.subscriber[1]).eq([2, 3]));
        assert_eq!(recorder.tagged(9, &event(9, 1, 20)), Standing::New);
        assert_eq!(recorder.tagged(11, &event(10, 1, 20)), Standing::New);
        assert_eq!(recorder.tagged(13, &event(11, 1, 20)), Standing::Unlisted);
    }

    #[test]
    fn the_clock_is_read_once_a_tick() {
        let mut statistics = CpuStatistics::default();
        assert_eq!(statistics.clock(1, || 100), 100);
        assert_eq!(statistics.clock(1, || unreachable!("it was read in this tick")), 100);
        assert_eq!(statistics.clock(2, || 200), 200);
    }

    #[test]
    fn lanes_are_what_a_loop_would_find() {
        let mut random = 1u64;
        for _ in 0..100_000 {
            random = mix(random);
            // Small numbers, so that zeros and ones are frequent.
            let all = [random & 3, random >> 2 & 3, random >> 4 & 3, random >> 6 & 0xffff];
            let packed = (0..SLOTS).fold(0, |sum, slot| sum | lanes::of(slot, all[slot]));
            let tops = lanes::zeros(packed);
            let first = all.iter().position(|&lane| lane == 0);
            assert_eq!((tops != 0).then(|| lanes::lowest(tops)), first, "{all:?}");
            for (slot, lane) in all.into_iter().enumerate() {
                assert_eq!(lanes::get(packed, slot), lane);
                assert!(lane != 0 || tops >> (slot * 16 + 15) & 1 == 1, "{all:?}");
            }
        }
    }
}
