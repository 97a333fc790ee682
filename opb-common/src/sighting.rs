//! What is written down of a denied packet beside the counters: an event, and who is being denied how often.
//!
//! A talker is a subscriber with the direction in which its packets are denied. Memory is bounded whatever is sent. Each CPU
//! has [`BUCKETS`] buckets of [`WAYS`] entries; a subscriber belongs to one bucket, and where a bucket is full a newcomer costs every entry one credit, and takes the first place
//! whose credit is used up (the algorithm of Misra and Gries, a bucket at a time). What that guarantees: a subscriber
//! that sends more than a fifth of the denied packets of its bucket on a CPU keeps its place, however many
//! invented addresses there are. What it does not: the counts of one that lost its place start again.

use crate::{found::Found, frame::Frame, outcome::Direction};

/// Entries of a bucket.
pub const WAYS: usize = 4;
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

/// One subscriber whose packets are denied in one direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Talker {
    pub subscriber: Address,
    pub packets: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub first: u64,
    pub last: u64,
    /// Other ends, each hashed to one bit.
    pub peers: u64,
    /// When the next event may be sent.
    pub next: u64,
    /// Outcome of the last packet, packed, and [`Talker::DOWNSTREAM`].
    pub kind: u32,
    /// What it has above those that want its place.
    pub credit: u32,
}

impl Talker {
    /// No packed outcome has this bit.
    const DOWNSTREAM: u32 = 1 << 7;

    #[inline(always)]
    const fn kind_of(event: &Event) -> u32 {
        if event.downstream == 0 { event.outcome } else { event.outcome | Self::DOWNSTREAM }
    }

    /// Outcome of the last packet, packed.
    #[must_use]
    pub const fn outcome(&self) -> u32 {
        self.kind & !Self::DOWNSTREAM
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
            credit: 1,
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

/// One CPU's books.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Ledger {
    /// Random, set by user space: nobody outside can tell who shares a bucket.
    pub seed: u64,
    /// Rate limits of the two standings.
    next: [u64; 2],
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
}

impl Ledger {
    /// Denied packets for which there is no event.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.limited_source + self.limited_cpu + self.ring_full
    }

    /// Which of this CPU's buckets is the subscriber's.
    #[inline(always)]
    #[must_use]
    pub const fn bucket(&self, subscriber: Address) -> u32 {
        mix(subscriber[0].rotate_left(32) ^ subscriber[1] ^ self.seed) as u32 & (BUCKETS - 1)
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

/// The talkers that share a bucket.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Bucket(pub [Talker; WAYS]);

impl Bucket {
    /// Writes one denied packet down.
    #[inline(always)]
    pub fn note(&mut self, event: &Event) -> Standing {
        let kind = Talker::kind_of(event);
        let mut free = WAYS;
        let mut way = 0;
        while way < WAYS {
            let talker = &mut self.0[way];
            if talker.subscriber[0] == event.subscriber[0]
                && talker.subscriber[1] == event.subscriber[1]
                && (talker.kind ^ kind) & Talker::DOWNSTREAM == 0
            {
                talker.packets += 1;
                talker.last = event.time;
                talker.peers |= peer_bit(event);
                talker.kind = kind;
                talker.credit = talker.credit.saturating_add(1);
                let next = next_arrival(talker.next, event.time, SOURCE_BURST, SOURCE_INTERVAL);
                let Some(next) = next else { return Standing::Limited };
                talker.next = next;
                return Standing::Known;
            }
            if talker.credit == 0 {
                free = way;
            }
            way += 1;
        }
        if free < WAYS {
            let place = &mut self.0[free];
            let was_taken = place.packets != 0;
            *place = Talker::new(event);
            return if was_taken { Standing::Replaces } else { Standing::New };
        }
        way = 0;
        while way < WAYS {
            self.0[way].credit = self.0[way].credit.saturating_sub(1);
            way += 1;
        }
        Standing::Unlisted
    }
}

/// Writes a denied packet into the books of its CPU, and says whether there is an event for it. `bucket` is the
/// subscriber's; there is none for a packet without an address.
#[inline(always)]
pub fn note(ledger: &mut Ledger, bucket: Option<&mut Bucket>, event: &Event) -> bool {
    let standing = bucket.map_or(Standing::Unlisted, |bucket| bucket.note(event));
    match standing {
        Standing::Limited => {
            ledger.limited_source += 1;
            return false;
        }
        Standing::Replaces | Standing::Unlisted => ledger.evicted += 1,
        Standing::Known | Standing::New => {}
    }
    ledger.admits(standing, event.time)
}

/// The addresses of what the walk found: the subscriber's, and that of the other end.
#[inline(always)]
pub fn addresses<F: Frame + ?Sized>(
    frame: &F,
    found: Found,
    downstream: bool,
) -> Option<(Address, Address)> {
    if found.is_unreadable() {
        return None;
    }
    let ip = found.ip(frame);
    let (source, destination) = if found.is_ipv6() {
        let bytes = frame.header::<32>(ip + 8)?;
        ([be64(bytes, 0), be64(bytes, 8)], [be64(bytes, 16), be64(bytes, 24)])
    } else {
        let bytes = frame.header::<8>(ip + 12)?;
        let both = u64::from_be_bytes(*bytes);
        ([0, MAPPED | both >> 32], [0, MAPPED | both & 0xffff_ffff])
    };
    Some(if downstream { (destination, source) } else { (source, destination) })
}

/// `::ffff:0:0/96`
const MAPPED: u64 = 0xffff << 32;

#[inline(always)]
const fn be64(bytes: &[u8; 32], at: usize) -> u64 {
    let mut value = 0;
    let mut byte = 0;
    while byte < 8 {
        value = value << 8 | bytes[at + byte] as u64;
        byte += 1;
    }
    value
}

/// The generic cell rate algorithm of ITU-T I.371: `previous` is what this returned last, 0 if never.
#[inline(always)]
const fn next_arrival(previous: u64, now: u64, burst: u64, interval: u64) -> Option<u64> {
    let expected = if previous > now { previous } else { now };
    if expected - now > (burst - 1) * interval { None } else { Some(expected + interval) }
}

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

    #[test]
    fn a_source_gets_a_burst_and_then_one_a_second() {
        let (mut ledger, mut bucket) = (Ledger::default(), Bucket::default());
        let mut sent = 0;
        for millisecond in 0..10_000 {
            let event = event(7, millisecond, 1 + millisecond * 1_000_000);
            sent += u64::from(note(&mut ledger, Some(&mut bucket), &event));
        }
        assert_eq!(sent, SOURCE_BURST + 9);
        assert_eq!(sent + ledger.lost(), 10_000, "each packet has its event or is counted as lost");
        assert_eq!(bucket.0.iter().map(|talker| talker.packets).sum::<u64>(), 10_000);
    }

    #[test]
    fn invented_addresses_do_not_displace_who_sends_a_fifth() {
        let (mut ledger, mut bucket) = (Ledger::default(), Bucket::default());
        let mut random = 1u64;
        for packet in 0..1_000_000 {
            random = mix(random + packet);
            let subscriber = if packet % 4 == 0 { 7 } else { random };
            note(&mut ledger, Some(&mut bucket), &event(subscriber, 1, packet));
        }
        let bot = bucket.0.iter().find(|talker| talker.subscriber == [0, 7]).expect("is held");
        assert_eq!(bot.packets, 250_000);
        assert!(ledger.evicted > 400_000, "{ledger:?}");
    }

    #[test]
    fn newcomers_leave_events_to_those_that_are_known() {
        let (mut ledger, mut bucket) = (Ledger::default(), Bucket::default());
        note(&mut ledger, Some(&mut bucket), &event(7, 1, 1));
        for invented in 0..10_000 {
            note(&mut ledger, None, &event(100 + invented, 1, 2));
        }
        assert!(!note(&mut ledger, None, &event(99, 1, 3)), "the newcomers' share is used up");
        assert!(note(&mut ledger, Some(&mut bucket), &event(7, 1, 3)));
    }

    #[test]
    fn directions_are_talkers_of_their_own() {
        let (mut ledger, mut bucket) = (Ledger::default(), Bucket::default());
        for packet in 0..3 {
            let downstream = u16::from(packet == 2);
            note(&mut ledger, Some(&mut bucket), &Event { downstream, ..event(7, 1, packet) });
        }
        let of = |direction| {
            let talkers =
                bucket.0.iter().filter(|it| it.packets > 0 && it.direction() == direction);
            talkers.fold((0, 0), |(count, packets), talker| (count + 1, packets + talker.packets))
        };
        assert_eq!((of(Direction::Upstream), of(Direction::Downstream)), ((1, 2), (1, 1)));
    }

    #[test]
    fn peers_are_estimated() {
        let (mut ledger, mut bucket) = (Ledger::default(), Bucket::default());
        for packet in 0..1000 {
            note(&mut ledger, Some(&mut bucket), &event(7, packet % 30, packet));
        }
        let estimate = Talker::distinct_peers(bucket.0[3].peers);
        assert!((24..=37).contains(&estimate), "{estimate}");
        assert_eq!(Talker::distinct_peers(0), 0);
        assert_eq!(Talker::distinct_peers(u64::MAX), 266);
    }
}
