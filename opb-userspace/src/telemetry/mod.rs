//! Telemetry: counters, events, talkers and the last hour, in bounded memory and under the node's
//! privacy rule.
//!
//! The daemon feeds a [`Telemetry`]. The control API, the metrics and the page read it.

pub mod actions;
pub mod alarms;
pub mod clock;
pub mod events;
pub mod history;
pub mod metrics;
pub mod names;
pub mod privacy;
pub mod talkers;
pub mod reported;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use nix::net::if_::if_nameindex;
use opb_common::{
    observation::{self, CpuStatistics},
    outcome::{Direction, Outcome},
};
use tokio::{sync::watch, time::timeout};

use self::{
    actions::Action,
    alarms::Alarm,
    clock::Clock,
    events::Recent,
    history::{History, Minute},
    names::Names,
    privacy::Privacy,
    reported::{Reported, ToSave},
    talkers::{Suspicion, Talkers},
};
use crate::api::{
    events::Event, events::Kind, events::Page, events::TalkerLine, status::AlarmStatus,
};
use crate::{
    image::GroupIds,
    kernel::{CounterRow, Statistics},
    node::Observe,
    radius::statistics as radius,
};

/// All telemetry of the daemon.
pub struct Telemetry {
    privacy: Privacy,
    retain: Duration,
    limit: Option<u64>,
    alarms: Vec<Arc<Alarm>>,
    memory: Mutex<Memory>,
    /// The number of the last event; closed when the daemon stops.
    last: watch::Sender<Option<u64>>,
}

struct Memory {
    clock: Clock,
    names: Names,
    interfaces: HashMap<u32, String>,
    recent: Recent,
    talkers: Talkers,
    reported: Reported,
    by_group: Vec<CounterRow>,
    by_interface: Vec<CounterRow>,
    history: History,
    totals: CpuStatistics,
    unrecorded: u64,
}

/// The counters of the kernel, and the changes since the last sample.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    pub by_group: Vec<CounterRow>,
    pub by_interface: Vec<CounterRow>,
    pub group_ids: GroupIds,
    /// Relay hosts that changed, and their addresses now.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
    /// Requested changes.
    pub actions: Vec<Action>,
    /// Requested changes without an event since the daemon started.
    pub unrecorded: u64,
}

/// Totals for the metrics and the page.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub by_group: Vec<CounterRow>,
    pub by_interface: Vec<CounterRow>,
    pub events: u64,
    pub lost: u64,
    pub evicted: u64,
    pub talkers: usize,
    pub suspects: u64,
    pub alarms: Vec<AlarmStatus>,
    /// Requested changes without an event: there were too many at once.
    pub unrecorded: u64,
    /// Events that were not written where the node file wants them.
    pub unwritten: u64,
    /// Refused connections and requests: listener, reason, count.
    pub refused: Vec<(&'static str, &'static str, u64)>,
    /// Packets of the accounting listener, if there is one.
    pub radius: Option<Arc<radius::Statistics>>,
}

impl Telemetry {
    /// `reported` has the suspects that were reported before, `alarms` count the reports.
    #[must_use]
    pub fn new(
        observe: &Observe,
        privacy: Privacy,
        reported: Reported,
        alarms: Vec<Arc<Alarm>>,
    ) -> Self {
        Self {
            privacy,
            retain: observe.retain,
            limit: observe.suspect.as_ref().map(|suspect| suspect.per_minute),
            alarms,
            memory: Mutex::new(Memory {
                clock: Clock::now(),
                names: Names::default(),
                interfaces: HashMap::new(),
                recent: Recent::default(),
                talkers: Talkers::default(),
                reported,
                by_group: Vec::new(),
                by_interface: Vec::new(),
                history: History::default(),
                totals: CpuStatistics::default(),
                unrecorded: 0,
            }),
            last: watch::channel(Some(0)).0,
        }
    }

    /// Stores a sample. Returns the recorded events: suspects, relay changes and requested changes.
    pub fn take_sample(&self, sample: Sample, statistics: &Statistics) -> Vec<Arc<Event>> {
        let (now, monotonic) = (Timestamp::now(), clock::monotonic());
        let mut memory = self.memory();
        memory.clock = Clock::now();
        memory.names.learn(sample.group_ids, monotonic);
        memory.history.add(now, &sample.by_group);
        (memory.by_group, memory.by_interface) = (sample.by_group, sample.by_interface);
        memory.recent.forget(now, self.retain);
        memory.totals = statistics.totals();
        memory.unrecorded = sample.unrecorded;
        let cutoff = talkers::cutoff(monotonic, self.retain);
        let Memory { talkers, reported, .. } = &mut *memory;
        let read = |each: &mut dyn FnMut(&observation::Talker)| statistics.talkers(cutoff, each);
        let suspicions = talkers.take_sample(monotonic, self.limit, &self.privacy, reported, read);
        let suspects =
            suspicions.into_iter().map(|it| memory.suspicion(it, now, monotonic, &self.privacy));
        let relays = sample.hosts.into_iter().map(|(host, addresses)| relay(host, addresses, now));
        let changes = sample.actions.into_iter().map(Action::event);
        let events: Vec<_> = suspects.chain(relays).chain(changes).collect();
        let events: Vec<_> = events.into_iter().map(|event| memory.recent.push(event)).collect();
        let last = memory.recent.last();
        drop(memory);
        self.announce(last);
        events
    }

    /// The reported suspects, if the disk does not have all of them.
    pub fn to_save(&self) -> Option<ToSave> {
        self.memory().reported.to_save()
    }

    /// Whether the name of the group of `event` is known.
    #[must_use]
    pub fn knows(&self, event: &observation::Event) -> bool {
        let id = (event.outcome >> 16) as u16;
        id == 0 || self.memory().names.knows(id)
    }

    /// Replaces the group names.
    pub fn learn(&self, group_ids: GroupIds) {
        self.memory().names.learn(group_ids, clock::monotonic());
    }

    /// Records an event of the kernel, under the privacy rule.
    pub fn denied(&self, event: &observation::Event) -> Arc<Event> {
        let mut memory = self.memory();
        let event = memory.denied(event, &self.privacy);
        let event = memory.recent.push(event);
        drop(memory);
        self.announce(event.seq);
        event
    }

    /// The events after number `after`. Waits at most `wait` for the first.
    pub async fn events(&self, after: u64, group: Option<&str>, wait: Duration) -> Page {
        let mut last = self.last.subscribe();
        let news = last.wait_for(|last| last.is_none_or(|last| last > after));
        // If the wait times out or the daemon stops, the page is empty.
        drop(timeout(wait, news).await);
        let memory = self.memory();
        let mut page = memory.recent.after(after, group);
        page.lost = memory.totals.lost();
        page
    }

    /// Whether the group is known by its counters, or has an event in memory.
    #[must_use]
    pub fn has_group(&self, name: &str) -> bool {
        let memory = self.memory();
        memory.names.id(name).is_some() || memory.recent.has_group(name)
    }

    /// Ends all waits, because the daemon stops.
    pub fn close(&self) {
        self.last.send_replace(None);
    }

    #[must_use]
    pub fn newest_events(&self, count: usize) -> Vec<Arc<Event>> {
        self.memory().recent.newest(count)
    }

    #[must_use]
    pub fn top(&self, count: usize, group: Option<&str>) -> Vec<TalkerLine> {
        let memory = self.memory();
        memory.talkers.top(count, group, &memory.names, &self.privacy, memory.clock)
    }

    #[must_use]
    pub fn totals(&self) -> Totals {
        let memory = self.memory();
        Totals {
            by_group: memory.by_group.clone(),
            by_interface: memory.by_interface.clone(),
            events: memory.totals.events,
            lost: memory.totals.lost(),
            evicted: memory.totals.evicted,
            talkers: memory.talkers.len(),
            suspects: memory.talkers.suspects,
            unrecorded: memory.unrecorded,
            alarms: self.alarms(),
            ..Totals::default()
        }
    }

    #[must_use]
    pub fn alarms(&self) -> Vec<AlarmStatus> {
        self.alarms.iter().map(|alarm| alarm.status()).collect()
    }

    #[must_use]
    pub fn hour(&self) -> Vec<Minute> {
        self.memory().history.hour()
    }

    fn announce(&self, number: u64) {
        self.last.send_if_modified(|last| {
            let rises = last.is_some_and(|last| last < number);
            if rises {
                *last = Some(number);
            }
            rises
        });
    }

    /// Ignores poisoning: the content is consistent after each step.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn denied(&mut self, event: &observation::Event, privacy: &Privacy) -> Event {
        let outcome = Outcome::unpack(event.outcome).unwrap_or(Outcome::OTHER);
        let direction = Direction::ALL[usize::from(event.downstream & 1)];
        Event {
            direction: Some(direction),
            verdict: Some(outcome.verdict),
            reason: Some(outcome.reason),
            interface: self.interface(event.interface),
            subscriber: privacy.show(event.subscriber),
            inner: privacy.show(event.inner),
            peer: privacy::ip(event.peer).map(|peer| peer.to_string()).unwrap_or_default(),
            port: event.port,
            bytes: event.bytes,
            ..Event::of(Kind::Denied, self.clock.wall(event.time), self.group(outcome, event.time))
        }
    }

    fn suspicion(
        &self,
        suspicion: Suspicion,
        time: Timestamp,
        monotonic: u64,
        privacy: &Privacy,
    ) -> Event {
        let outcome = Outcome::unpack(suspicion.outcome).unwrap_or(Outcome::OTHER);
        Event {
            direction: Some(Direction::Upstream),
            verdict: Some(outcome.verdict),
            reason: Some(outcome.reason),
            subscriber: privacy.show(suspicion.subscriber),
            packets: Some(suspicion.packets),
            ..Event::of(Kind::Suspect, time, self.group(outcome, monotonic))
        }
    }

    fn group(&self, outcome: Outcome, at: u64) -> String {
        self.names.name(outcome.group, at).to_owned()
    }

    fn interface(&mut self, index: u32) -> String {
        if !self.interfaces.contains_key(&index)
            && let Ok(interfaces) = if_nameindex()
        {
            let name = |it: &nix::net::if_::Interface| it.name().to_string_lossy().into_owned();
            self.interfaces = interfaces.iter().map(|it| (it.index(), name(it))).collect();
        }
        self.interfaces.get(&index).cloned().unwrap_or_else(|| index.to_string())
    }
}

fn relay(host: String, addresses: Vec<IpAddr>, time: Timestamp) -> Event {
    Event { host, addresses, ..Event::of(Kind::Relay, time, "-".to_owned()) }
}
