//! Top talkers: denied subscribers and their packets. Those above a limit become suspects.

use std::{collections::HashMap, time::Duration};

use opb_common::{
    observation::{Address, Talker},
    outcome::{Direction, Outcome},
};

use super::{clock::Clock, names::Names, privacy::Privacy, reported::Reported};
use crate::api::events::TalkerLine;

const MINUTE: u64 = 60_000_000_000;
/// The time until a suspect is reported again.
const AGAIN: u64 = 60 * MINUTE;
/// The most talkers in memory, for any number of CPUs. More would double the table.
const HELD: usize = 57_344;

/// A subscriber, or all with the same truncated address, and the direction of the denied packets.
type Key = (Address, Direction);

/// One talker, summed over all CPUs.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    packets: u64,
    first: u64,
    last: u64,
    peers: u64,
    outcome: u32,
    rate: f64,
    /// When the current minute began, and the packets until then.
    minute: u64,
    base: u64,
    /// When it was last reported, 0 if never.
    reported: u64,
}

/// The talkers as of the last sample, at most [`HELD`].
#[derive(Debug)]
pub struct Talkers {
    sums: HashMap<Key, Sum>,
    /// The table of the sample before, kept for its memory.
    spare: HashMap<Key, Sum>,
    sampled: u64,
    /// Suspects reported since the daemon started.
    pub suspects: u64,
}

/// A subscriber with more denied packets in a minute than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspicion {
    pub subscriber: Address,
    pub packets: u64,
    pub outcome: u32,
}

impl Default for Talkers {
    /// Reserves room for all talkers: a growing table exists twice for a moment and fragments the
    /// heap. Unused room takes no memory.
    fn default() -> Self {
        let table = || HashMap::with_capacity(HELD);
        Self { sums: table(), spare: table(), sampled: 0, suspects: 0 }
    }
}

impl Talkers {
    /// Reads the kernel's table at the time `now`, and returns new suspects: subscribers with more
    /// than `limit` denied packets upstream in a minute. `read` visits every entry, and is called
    /// twice.
    pub fn take_sample(
        &mut self,
        now: u64,
        limit: Option<u64>,
        privacy: &Privacy,
        reported: &mut Reported,
        read: impl Fn(&mut dyn FnMut(&Talker)),
    ) -> Vec<Suspicion> {
        let least = least(&read);
        let mut sums = std::mem::take(&mut self.spare);
        sums.clear();
        read(&mut |talker| {
            let key = (privacy.keep(talker.subscriber), talker.direction());
            // The kernel's table may have changed since the first reading.
            let has_room = sums.len() < HELD || sums.contains_key(&key);
            if talker.packets >= least && has_room {
                let new = Sum { first: u64::MAX, ..Sum::default() };
                sums.entry(key).or_insert(new).add(talker);
            }
        });
        reported.forget_before(now.saturating_sub(AGAIN));
        let seconds = now.saturating_sub(self.sampled) as f64 / 1e9;
        let mut suspicions = Vec::new();
        for (key, sum) in &mut sums {
            let count = sum.settle(self.sums.get(key), now, seconds);
            let due = sum.reported == 0 || now.saturating_sub(sum.reported) > AGAIN;
            let &(subscriber, direction) = key;
            // Downstream packets were sent by somebody else.
            let is_suspect = direction == Direction::Upstream && limit.is_some_and(|it| count > it);
            if due && is_suspect {
                let name = privacy.show(subscriber);
                // An earlier daemon may have reported it.
                sum.reported = reported.time(&name).unwrap_or(now).max(1);
                if reported.time(&name).is_some() || !reported.add(name, now) {
                    continue;
                }
                suspicions.push(Suspicion { subscriber, packets: count, outcome: sum.outcome });
            }
        }
        self.sampled = now;
        self.spare = std::mem::replace(&mut self.sums, sums);
        self.suspects += suspicions.len() as u64;
        suspicions
    }

    /// The `count` talkers with the most denied packets.
    #[must_use]
    pub fn top(
        &self,
        count: usize,
        group: Option<&str>,
        names: &Names,
        privacy: &Privacy,
        clock: Clock,
    ) -> Vec<TalkerLine> {
        let id = group.map(|name| names.id(name).unwrap_or(u16::MAX));
        let mut sums: Vec<_> = (self.sums.iter())
            .filter(|(_, sum)| id.is_none_or(|id| (sum.outcome >> 16) as u16 == id))
            .collect();
        sums.sort_unstable_by_key(|&(&(address, direction), sum)| {
            (std::cmp::Reverse(sum.packets), address, direction as u8)
        });
        sums.truncate(count);
        let line = |(&(address, direction), sum): (&Key, &Sum)| {
            let outcome = Outcome::unpack(sum.outcome).unwrap_or(Outcome::OTHER);
            TalkerLine {
                subscriber: privacy.show(address),
                direction,
                group: names.name(outcome.group, sum.last).to_owned(),
                verdict: outcome.verdict,
                reason: outcome.reason,
                packets: sum.packets,
                rate: (sum.rate * 10.0).round() / 10.0,
                first: clock.wall(sum.first),
                last: clock.wall(sum.last),
                peers: Talker::distinct_peers(sum.peers),
            }
        };
        sums.into_iter().map(line).collect()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.sums.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }
}

impl Sum {
    /// Adds the entry of one CPU.
    fn add(&mut self, talker: &Talker) {
        self.packets += talker.packets;
        self.peers |= talker.peers;
        self.first = self.first.min(talker.first);
        if talker.last >= self.last {
            self.last = talker.last;
            self.outcome = talker.outcome();
        }
    }

    /// What it was before the first sample that has it. The kernel may have counted for days: what
    /// was denied before this minute does not count.
    fn found(&self, now: u64) -> Self {
        if now.saturating_sub(self.first) > MINUTE {
            Self { packets: self.packets, minute: now, base: self.packets, ..Self::default() }
        } else {
            Self { minute: self.first, ..Self::default() }
        }
    }

    /// Continues rate and minute from the sample `seconds` ago. Returns the denied packets of this
    /// minute.
    fn settle(&mut self, known: Option<&Self>, now: u64, seconds: f64) -> u64 {
        let before = known.copied().unwrap_or_else(|| self.found(now));
        // It may have been evicted since and counted from zero.
        let (packets, base) =
            if before.packets > self.packets { (0, 0) } else { (before.packets, before.base) };
        let fresh = (self.packets - packets) as f64 / seconds.max(0.001);
        // Averages over about five samples.
        self.rate = before.rate + (fresh - before.rate) * 0.2;
        (self.minute, self.base, self.reported) = (before.minute, base, before.reported);
        if now.saturating_sub(self.minute) > MINUTE {
            (self.minute, self.base) = (now, packets);
        }
        self.packets - self.base
    }
}

/// The fewest packets, a power of two, such that all entries with as many have room.
fn least(read: &impl Fn(&mut dyn FnMut(&Talker))) -> u64 {
    let mut counts = [0; 64];
    read(&mut |talker| counts[talker.packets.max(1).ilog2() as usize] += 1);
    let mut sum = 0;
    let fits = |count: &&usize| {
        sum += **count;
        sum <= HELD
    };
    let levels = counts.iter().rev().take_while(fits).count();
    // No talker reaches 2^63 packets.
    1 << (64 - levels).min(63)
}

/// The time before which talkers are forgotten.
#[must_use]
pub fn cutoff(now: u64, retain: Duration) -> u64 {
    now.saturating_sub(u64::try_from(retain.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use opb_common::observation::Event;

    use super::*;
    use crate::image::GroupIds;

    const BOT: Address = [0, 0xffff_cb00_7109];

    fn talker(packets: u64, last: u64) -> Talker {
        let event =
            Event { subscriber: BOT, time: 1, outcome: 1 << 16 | 7 << 8 | 1, ..Event::default() };
        Talker { packets, last, ..Talker::new(&event) }
    }

    fn take_sample(talkers: &mut Talkers, seconds: u64, packets: u64) -> usize {
        let now = seconds * 1_000_000_000;
        let entry = talker(packets, now);
        let reported = &mut Reported::default();
        talkers.take_sample(now, Some(60), &Privacy::Full, reported, |each| each(&entry)).len()
    }

    #[test]
    fn a_suspect_is_reported_once_an_hour() {
        let mut talkers = Talkers::default();
        assert_eq!(take_sample(&mut talkers, 1, 10), 0);
        assert_eq!(take_sample(&mut talkers, 50, 60), 0);
        assert_eq!(take_sample(&mut talkers, 55, 61), 1);
        assert_eq!(take_sample(&mut talkers, 56, 900), 0);
        assert_eq!(take_sample(&mut talkers, 7200, 901), 0, "slow by now");
        assert_eq!(take_sample(&mut talkers, 7230, 1000), 1);
        assert_eq!(talkers.suspects, 2);
    }

    /// What a daemon finds that starts anew.
    #[test]
    fn what_was_denied_before_this_minute_does_not_count() {
        let mut talkers = Talkers::default();
        assert_eq!(take_sample(&mut talkers, 210, 4000), 0);
        assert_eq!(take_sample(&mut talkers, 240, 4037), 0);
        assert_eq!(take_sample(&mut talkers, 250, 4061), 1);
        assert_eq!(take_sample(&mut Talkers::default(), 30, 61), 1, "all of it is of this minute");
    }

    #[test]
    fn nobody_is_reported_twice_within_the_hour_over_restarts() {
        let mut reported = Reported::default();
        let mut sample = |seconds: u64, packets| {
            let now = seconds * 1_000_000_000;
            let entry = Talker { first: now, ..talker(packets, now) };
            let read = |each: &mut dyn FnMut(&Talker)| each(&entry);
            // A new daemon each time.
            let mut talkers = Talkers::default();
            talkers.take_sample(now, Some(60), &Privacy::Full, &mut reported, read).len()
        };
        assert_eq!([sample(10, 99), sample(20, 99), sample(3600, 99)], [1, 0, 0]);
        assert_eq!(sample(3700, 99), 1);
    }

    #[test]
    fn slow_senders_are_not_suspects() {
        let mut talkers = Talkers::default();
        for minute in 0..100 {
            assert_eq!(take_sample(&mut talkers, minute * 61, minute * 59), 0);
        }
    }

    #[test]
    fn what_others_send_makes_no_suspect() {
        let mut talkers = Talkers::default();
        let event = Event { subscriber: BOT, time: 1, downstream: 1, ..Event::default() };
        let victim = Talker { packets: 1000, last: 9, ..Talker::new(&event) };
        let suspects =
            talkers.take_sample(9, Some(60), &Privacy::Full, &mut Reported::default(), |each| {
                each(&victim)
            });
        assert_eq!(suspects, []);
        let top = talkers.top(1, None, &Names::default(), &Privacy::Full, Clock::now());
        assert_eq!((top[0].direction, top[0].packets), (Direction::Downstream, 1000));
    }

    #[test]
    fn however_many_cpus_there_are_memory_is_bounded() {
        let mut talkers = Talkers::default();
        let mut table: Vec<_> = (0..1_000_000)
            .map(|number| Talker { subscriber: [9, number], ..talker(1 + number % 3, 5) })
            .collect();
        table.push(talker(500, 5));
        talkers.take_sample(9, None, &Privacy::Full, &mut Reported::default(), |each| {
            table.iter().for_each(each)
        });
        assert!(talkers.len() <= HELD, "{}", talkers.len());
        let top = talkers.top(1, None, &Names::default(), &Privacy::Full, Clock::now());
        assert_eq!((top[0].subscriber.as_str(), top[0].packets), ("203.0.113.9", 500));
        // A table that fits is kept completely.
        table.truncate(HELD);
        talkers.take_sample(10, None, &Privacy::Full, &mut Reported::default(), |each| {
            table.iter().for_each(each)
        });
        assert_eq!(talkers.len(), HELD);
    }

    #[test]
    fn cpus_and_truncated_addresses_add_up() {
        let mut talkers = Talkers::default();
        let neighbour = Talker { subscriber: [0, BOT[1] + 1], ..talker(5, 9) };
        talkers.take_sample(9, None, &Privacy::Truncate, &mut Reported::default(), |each| {
            [talker(2, 3), talker(3, 4), neighbour].iter().for_each(each);
        });
        let mut group_ids = GroupIds::default();
        group_ids.assign(["dyn"], jiff::Timestamp::UNIX_EPOCH).expect("there is room");
        let mut names = Names::default();
        names.learn(group_ids, 0);
        let top = talkers.top(9, Some("dyn"), &names, &Privacy::Truncate, Clock::now());
        assert_eq!(top.len(), 1);
        assert_eq!((top[0].subscriber.as_str(), top[0].packets), ("203.0.113.0/24", 10));
        assert_eq!(talkers.top(9, Some("other"), &names, &Privacy::Truncate, Clock::now()), []);
    }
}
