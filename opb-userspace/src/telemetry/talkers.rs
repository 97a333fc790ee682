//! Who is denied how often, and who more often than is innocent.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use opb_common::{
    outcome::Outcome,
    sighting::{Address, Talker},
};
use serde::{Deserialize, Serialize};

use super::{clock::Clock, privacy::Privacy};
use crate::image::Slots;

const MINUTE: u64 = 60_000_000_000;
/// A suspect is reported again after this long.
const AGAIN: u64 = 60 * MINUTE;

/// One row of `GET /v1/talkers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TalkerLine {
    /// As the node's privacy rule shows it.
    pub subscriber: String,
    /// Group, verdict and reason of the last packet.
    pub group: String,
    pub verdict: String,
    pub reason: String,
    /// Denied packets since `first`.
    pub packets: u64,
    /// Denied packets a second, of late.
    pub rate: f64,
    pub first: Timestamp,
    pub last: Timestamp,
    /// Estimate of how many other ends there were; 266 means "at least that many".
    pub peers: u32,
}

/// One subscriber, or those of one truncated address, on all CPUs together.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    packets: u64,
    first: u64,
    last: u64,
    peers: u64,
    outcome: u32,
    rate: f64,
    /// When the minute began that is being watched, and with how many packets.
    minute: u64,
    base: u64,
    /// When it was last reported, 0 if never.
    reported: u64,
}

/// All of them, as of the last look. Bounded by what the kernel's table holds.
#[derive(Debug, Default)]
pub struct Talkers {
    sums: HashMap<Address, Sum>,
    looked: u64,
    /// Suspects reported since the daemon started.
    pub suspects: u64,
}

/// Somebody who was denied too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspicion {
    pub subscriber: Address,
    pub packets: u64,
    pub outcome: u32,
}

impl Talkers {
    /// Takes over what the kernel's table holds at `now`; `limit` denied packets a minute make a suspect.
    pub fn look(
        &mut self,
        now: u64,
        limit: Option<u64>,
        privacy: &Privacy,
        read: impl FnOnce(&mut dyn FnMut(&Talker)),
    ) -> Vec<Suspicion> {
        let mut sums: HashMap<Address, Sum> = HashMap::with_capacity(self.sums.len());
        read(&mut |talker| {
            let sum = sums.entry(privacy.keep(talker.subscriber)).or_default();
            sum.packets += talker.packets;
            sum.peers |= talker.peers;
            sum.first = if sum.first == 0 { talker.first } else { sum.first.min(talker.first) };
            if talker.last >= sum.last {
                sum.last = talker.last;
                sum.outcome = talker.outcome;
            }
        });
        let seconds = now.saturating_sub(self.looked) as f64 / 1e9;
        let mut suspicions = Vec::new();
        for (&subscriber, sum) in &mut sums {
            let before = self
                .sums
                .get(&subscriber)
                .copied()
                .unwrap_or(Sum { minute: sum.first, ..Sum::default() });
            // It may have lost its place in the meantime, and started again.
            let (packets, base) =
                if before.packets > sum.packets { (0, 0) } else { (before.packets, before.base) };
            let fresh = (sum.packets - packets) as f64 / seconds.max(0.001);
            // Over about five looks.
            sum.rate = before.rate + (fresh - before.rate) * 0.2;
            (sum.minute, sum.base, sum.reported) = (before.minute, base, before.reported);
            if now.saturating_sub(sum.minute) > MINUTE {
                (sum.minute, sum.base) = (now, packets);
            }
            let count = sum.packets - sum.base;
            let due = sum.reported == 0 || now.saturating_sub(sum.reported) > AGAIN;
            if due && limit.is_some_and(|limit| count > limit) {
                sum.reported = now.max(1);
                suspicions.push(Suspicion { subscriber, packets: count, outcome: sum.outcome });
            }
        }
        self.suspects += suspicions.len() as u64;
        self.sums = sums;
        self.looked = now;
        suspicions
    }

    /// The `count` that were denied most.
    #[must_use]
    pub fn top(
        &self,
        count: usize,
        group: Option<&str>,
        slots: &Slots,
        privacy: &Privacy,
        clock: Clock,
    ) -> Vec<TalkerLine> {
        let slot = group.map(|name| slots.get(name).unwrap_or(u16::MAX));
        let mut sums: Vec<_> = (self.sums.iter())
            .filter(|(_, sum)| slot.is_none_or(|slot| (sum.outcome >> 16) as u16 == slot))
            .collect();
        sums.sort_unstable_by_key(|&(address, sum)| (std::cmp::Reverse(sum.packets), *address));
        sums.truncate(count);
        let line = |(&address, sum): (&Address, &Sum)| {
            let outcome = Outcome::unpack(sum.outcome).unwrap_or(Outcome::OTHER);
            TalkerLine {
                subscriber: privacy.show(address),
                group: slots.name(outcome.group).unwrap_or("-").to_owned(),
                verdict: outcome.verdict.name().to_owned(),
                reason: outcome.reason.name().to_owned(),
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

/// What was last seen before this is forgotten.
#[must_use]
pub fn cutoff(now: u64, retain: Duration) -> u64 {
    now.saturating_sub(u64::try_from(retain.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOT: Address = [0, 0xffff_cb00_7109];

    fn talker(packets: u64, last: u64) -> Talker {
        Talker {
            subscriber: BOT,
            packets,
            first: 1,
            last,
            peers: 3,
            outcome: 1 << 16 | 7 << 8 | 1,
            ..Talker::default()
        }
    }

    fn look(talkers: &mut Talkers, seconds: u64, packets: u64) -> usize {
        let now = seconds * 1_000_000_000;
        let entry = talker(packets, now);
        talkers.look(now, Some(60), &Privacy::Full, |each| each(&entry)).len()
    }

    #[test]
    fn a_suspect_is_reported_once_an_hour() {
        let mut talkers = Talkers::default();
        assert_eq!(look(&mut talkers, 1, 10), 0);
        assert_eq!(look(&mut talkers, 50, 60), 0);
        assert_eq!(look(&mut talkers, 55, 61), 1);
        assert_eq!(look(&mut talkers, 56, 900), 0);
        assert_eq!(look(&mut talkers, 7200, 901), 0, "slow by now");
        assert_eq!(look(&mut talkers, 7230, 1000), 1);
        assert_eq!(talkers.suspects, 2);
    }

    #[test]
    fn slow_senders_are_no_suspects() {
        let mut talkers = Talkers::default();
        for minute in 0..100 {
            assert_eq!(look(&mut talkers, minute * 61, minute * 59), 0);
        }
    }

    #[test]
    fn cpus_and_truncated_addresses_add_up() {
        let mut talkers = Talkers::default();
        let neighbour = Talker { subscriber: [0, BOT[1] + 1], ..talker(5, 9) };
        talkers.look(9, None, &Privacy::Truncate, |each| {
            [talker(2, 3), talker(3, 4), neighbour].iter().for_each(each);
        });
        let mut slots = Slots::default();
        slots.assign(["dyn"]).expect("there is room");
        let top = talkers.top(9, Some("dyn"), &slots, &Privacy::Truncate, Clock::now());
        assert_eq!(top.len(), 1);
        assert_eq!((top[0].subscriber.as_str(), top[0].packets), ("203.0.113.0/24", 10));
        assert_eq!(talkers.top(9, Some("other"), &slots, &Privacy::Truncate, Clock::now()), []);
    }
}
