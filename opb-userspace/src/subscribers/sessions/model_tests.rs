//! Random lives of servers and their sessions, whose reports are repeated, delayed and reordered. At
//! the end, the table must say what is true, however the reports came.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    event::{Event, Kind, Source},
    staging::{SessionStaging, Staged},
    tests::{event, moment, time},
    *,
};

/// A live session in truth.
#[derive(Clone, Debug, PartialEq)]
struct Truth {
    addresses: BTreeSet<Prefix>,
    user: String,
    group: String,
}

struct World {
    random: fastrand::Rng,
    /// Whether the servers send the time of each event.
    has_clock: bool,
    clock: i64,
    truth: BTreeMap<Key, (Truth, i64)>,
    names: Vec<Key>,
    /// When each report arrives, and the report.
    deliveries: Vec<(i64, Event)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let has_clock = random.bool();
        let (truth, names, deliveries) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { random, has_clock, clock: 0, truth, names, deliveries }
    }

    fn live(&mut self) -> Option<Key> {
        let keys: Vec<_> = self.truth.keys().cloned().collect();
        self.random.choice(keys)
    }

    fn step(&mut self) {
        self.clock += self.random.i64(1..4);
        match self.random.u8(..20) {
            0..8 => self.begin(),
            8..13 => self.update(),
            13..19 => self.end(),
            _ => self.restart(),
        }
    }

    fn begin(&mut self) {
        let nas = self.random.usize(..2);
        let taken: BTreeSet<_> = self.truth.values().flat_map(|(it, _)| &it.addresses).collect();
        let pool = (0..6).map(|host| format!("203.0.113.{}/32", 10 * nas + host));
        let free: Vec<Prefix> = pool
            .map(|text| text.parse().expect("a prefix"))
            .filter(|it| !taken.contains(it))
            .collect();
        let Some(address) = self.random.choice(free) else { return };
        let nas: Arc<str> = format!("bras{nas}").into();
        let mut reusable: Vec<_> =
            self.names.iter().filter(|key| key.nas == nas).cloned().collect();
        // Without a clock, names are not told apart so soon.
        reusable.retain(|key| self.has_clock && !self.truth.contains_key(key));
        let key = match self.random.choice(reusable).filter(|_| self.random.u8(..3) == 0) {
            Some(key) => key,
            None => Key { nas, id: format!("s{}", self.names.len()).into() },
        };
        self.names.push(key.clone());
        let number = self.names.len();
        let truth = Truth {
            addresses: [address].into(),
            user: format!("user{number}"),
            group: (*self.random.choice(&["a", "b"]).expect("one")).to_owned(),
        };
        self.truth.insert(key.clone(), (truth, self.clock));
        self.send(Kind::Start, &key);
    }

    /// An update, perhaps with a new delegated prefix.
    fn update(&mut self) {
        let Some(key) = self.live() else { return };
        if self.random.bool()
            && let Some((truth, _)) = self.truth.get_mut(&key)
        {
            let number = self.clock;
            truth.addresses.retain(|prefix| !prefix.is_ipv6());
            let text = format!("2001:db8:{number:x}::/56");
            truth.addresses.insert(text.parse().expect("a prefix"));
        }
        self.send(Kind::Interim, &key);
    }

    fn end(&mut self) {
        let Some(key) = self.live() else { return };
        self.send(Kind::Stop, &key);
        self.truth.remove(&key);
    }

    fn restart(&mut self) {
        let nas: Arc<str> = format!("bras{}", self.random.u8(..2)).into();
        self.truth.retain(|key, _| key.nas != nas);
        let key = Key { nas, id: "".into() };
        if self.random.bool() {
            self.send(Kind::Off, &key);
            self.clock += 1;
        }
        self.send(Kind::On, &key);
    }

    /// One to three copies of a report, each with a delay of its own.
    fn send(&mut self, kind: Kind, key: &Key) {
        let mut report = event(kind, &key.id, moment(self.clock), &[]);
        report.key = key.clone();
        report.assignment = None;
        if let Some((truth, began)) = self.truth.get(key) {
            report.subscriber.user = Some(truth.user.as_str().into());
            report.assignment = Some(Assignment::Group(truth.group.as_str().into()));
            let from = |ipv6| if ipv6 { Source::Delegated } else { Source::Ipv4 };
            let address = |&prefix: &Prefix| Address { prefix, from: from(prefix.is_ipv6()) };
            report.addresses = truth.addresses.iter().map(address).collect();
            let duration = u32::try_from(self.clock - began).expect("a short time");
            report.duration = Some(duration).filter(|_| kind != Kind::Start);
        }
        for _ in 0..self.random.u8(1..4) {
            let delay = self.random.i64(0..30);
            let mut copy = report.clone();
            if self.has_clock {
                // The delay is nowhere in the message.
                copy.at.here += delay * 1000;
            } else {
                copy.at.there = None;
            }
            self.deliveries.push((self.clock + delay, copy));
        }
    }
}

fn check_invariants(sessions: &Sessions) {
    let live: Vec<_> = sessions.records.values().filter(|it| it.session.is_live()).collect();
    assert_eq!(sessions.live, live.len());
    assert_eq!(sessions.unsure, live.iter().filter(|record| record.is_unsure).count());
    let mut owned = BTreeMap::new();
    for record in &live {
        for address in &record.session.addresses {
            let other = owned.insert(address.prefix, &record.session);
            assert!(other.is_none(), "{} has two owners", address.prefix);
        }
    }
    assert!(sessions.owners.iter().map(|(prefix, owner)| (*prefix, owner)).eq(owned));
    let named = live.iter().filter(|record| record.session.group().is_some()).count();
    assert_eq!(sessions.groups.values().sum::<usize>(), named);
}

fn stored(sessions: &Sessions) -> Sessions {
    let text = |session: &Arc<Session>| serde_json::to_string(session).expect("JSON");
    let texts = sessions.all().map(|(_, session)| text(session));
    Sessions::of(texts.map(|text| serde_json::from_str(&text).expect("a session")).collect())
}

fn live(sessions: &Sessions) -> BTreeMap<Key, Truth> {
    let live = sessions.records.values().map(|it| &it.session).filter(|it| it.is_live());
    live.map(|session| {
        let text = |text: Option<&Arc<str>>| text.map(ToString::to_string).unwrap_or_default();
        let truth = Truth {
            addresses: session.addresses.iter().map(|address| address.prefix).collect(),
            user: text(session.subscriber.user.as_ref()),
            group: text(session.group()),
        };
        (session.key.clone(), truth)
    })
    .collect()
}

#[test]
fn the_table_is_right_however_the_reports_come() {
    let mut reports = 0;
    for seed in 0..3000 {
        let mut world = World::new(seed);
        (0..60).for_each(|_| world.step());
        let World { mut random, truth, mut deliveries, .. } = world;
        deliveries.sort_by_key(|(arrival, _)| *arrival);
        reports += deliveries.len();
        let mut sessions = Sessions::default();
        let mut rest = &deliveries[..];
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(random.usize(1..=rest.len().min(9)));
            rest = later;
            let now = batch.last().expect("not empty").0;
            let mut staging = SessionStaging::new(&sessions, time(now));
            batch.iter().for_each(|(_, event)| {
                staging.stage(event);
            });
            let Staged { changes, heard } = staging.finish();
            let (back, _) = sessions.apply(changes.clone());
            if random.u8(..8) == 0 {
                // The kernel refuses it, and the batch comes again.
                sessions.apply(back);
                check_invariants(&sessions);
                sessions.apply(changes);
            }
            heard.into_iter().for_each(|(key, at)| sessions.hear(&key, at));
            check_invariants(&sessions);
            if random.u8(..10) == 0 {
                let again = stored(&sessions);
                check_invariants(&again);
                assert_eq!(live(&again), live(&sessions));
                sessions = again;
            }
        }
        let truth: BTreeMap<_, _> = truth.into_iter().map(|(key, (it, _))| (key, it)).collect();
        assert_eq!(live(&sessions), truth, "seed {seed}");
    }
    assert!(reports > 200_000, "{reports}");
}
