//! Turns reports into changes of the table. Reports are lost, come twice, late, and in any order;
//! an address may get its next owner before the Stop of the one before arrives.
//!
//! The rules:
//!
//! - Of two sessions that claim an address, the one that began later owns it. At one NAS, its own
//!   clock orders them (Event-Timestamp), if both have it and it was not set in between; otherwise
//!   the clock of this node does, less the delays that the messages state.
//! - A session that is new here and began at the same time takes the address: that is the order of
//!   arrival.
//! - What a session has lost, it does not own any more, and its Stop does not end it.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    Key, Session, SessionChanges, Sessions, Subscriber,
    event::{Address, Event, GRACE, Kind, MOST_ADDRESSES, Moment, Source},
};
use crate::policy::Prefix;

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The table says now what the report says.
    Recorded,
    /// It was overtaken by a later one, and changes nothing.
    Late,
    /// The table is full.
    Full,
}

/// Changes by reports that are not committed yet.
pub struct SessionStaging<'a> {
    table: &'a Sessions,
    now: Timestamp,
    changes: SessionChanges,
    owners: BTreeMap<Prefix, Option<Key>>,
    last: BTreeMap<Key, Moment>,
    records: usize,
}

/// Accepted reports: the changes, and the sessions that were mentioned.
pub struct Staged {
    pub changes: SessionChanges,
    pub heard: BTreeMap<Key, Moment>,
}

impl<'a> SessionStaging<'a> {
    pub fn new(table: &'a Sessions, now: Timestamp) -> Self {
        Self {
            table,
            now,
            changes: SessionChanges::new(),
            owners: BTreeMap::new(),
            last: BTreeMap::new(),
            records: table.records.len(),
        }
    }

    pub fn finish(self) -> Staged {
        Staged { changes: self.changes, heard: self.last }
    }

    /// Accepts one report.
    pub fn stage(&mut self, event: &Event) -> Outcome {
        match event.kind {
            Kind::Start | Kind::Interim => self.report(event),
            Kind::Stop => self.end(event),
            Kind::On | Kind::Off => self.restart(event),
        }
    }

    fn report(&mut self, event: &Event) -> Outcome {
        let began = event.began();
        // By the time of the report: an update after the restart says that the session goes on.
        if self.restarted_after(&event.key, event.at) {
            return Outcome::Late;
        }
        let session = match self.get(&event.key) {
            None => None,
            Some(known) => match known.ended {
                // A report of the session that has ended, under the same name.
                Some(ended) if !began.is_clearly_after(self.not_future(ended)) => {
                    return Outcome::Late;
                }
                Some(_) => None,
                None => Some(Arc::clone(known)),
            },
        };
        match session {
            Some(known) => self.update(event, &known),
            None => self.begin(event, began),
        }
    }

    fn begin(&mut self, event: &Event, began: Moment) -> Outcome {
        let mut session = Session {
            key: event.key.clone(),
            subscriber: event.subscriber.clone(),
            assignment: (event.assignment.as_ref()).unwrap_or(&event.default_assignment).clone(),
            is_default: event.assignment.is_none(),
            addresses: Vec::new(),
            began,
            last: event.at,
            since: self.now,
            silence: silence(event.interim),
            ended: None,
        };
        if !self.has_room(&event.key) {
            return Outcome::Full;
        }
        self.claim(&mut session, event.addresses.iter().copied(), true);
        self.last.insert(event.key.clone(), event.at);
        self.put(session);
        Outcome::Recorded
    }

    fn update(&mut self, event: &Event, known: &Arc<Session>) -> Outcome {
        let last = self.last(&event.key).unwrap_or(known.began);
        let is_late = self.not_future(last).is_after(event.at);
        let began = self.not_future(known.began);
        if began.is_clearly_after(event.at) {
            // About an earlier session of that name.
            return Outcome::Late;
        }
        if !is_late && is_of_another(event, known, began) {
            // The NAS gave the name to another session: the Stop or the restart comes later.
            self.release(&known.addresses);
            return self.begin(event, event.began());
        }
        let mut session = Session::clone(known);
        if !is_late {
            self.last.insert(event.key.clone(), event.at);
        }
        merge(&mut session.subscriber, &event.subscriber, is_late);
        let assignment = event.assignment.as_ref();
        if let Some(assignment) = assignment.filter(|_| !is_late || session.is_default) {
            session.assignment = assignment.clone();
            session.is_default = false;
        }
        session.silence = silence(event.interim).filter(|_| !is_late).or(session.silence);
        let present: BTreeSet<Source> = session.addresses.iter().map(|it| it.from).collect();
        let reported: BTreeSet<Source> = event.addresses.iter().map(|it| it.from).collect();
        if !is_late {
            let (kept, gone): (Vec<_>, Vec<_>) = (session.addresses.iter().copied())
                .partition(|it| !reported.contains(&it.from) || event.addresses.contains(it));
            self.release(&gone);
            session.addresses = kept;
        }
        let wanted = event.addresses.iter().copied();
        let wanted: Vec<_> = wanted.filter(|it| !is_late || !present.contains(&it.from)).collect();
        self.claim(&mut session, wanted.into_iter(), false);
        self.last.entry(event.key.clone()).or_insert(last);
        if session != **known {
            session.last = if is_late { last } else { event.at };
            self.put(session);
        }
        if is_late { Outcome::Late } else { Outcome::Recorded }
    }

    fn end(&mut self, event: &Event) -> Outcome {
        if self.restarted_after(&event.key, event.at) {
            return Outcome::Late;
        }
        let known = self.get(&event.key).cloned();
        let began = match &known {
            Some(known)
                if known.ended.is_some_and(|it| !event.at.is_after(self.not_future(it))) =>
            {
                return Outcome::Recorded;
            }
            // The Stop of an earlier session of that name.
            Some(known) if self.not_future(known.began).is_clearly_after(event.at) => {
                return Outcome::Late;
            }
            Some(known) => known.began,
            // Live sessions need the room more than the memory of one that is not known.
            None if self.records >= self.table.crowded() => return Outcome::Recorded,
            None => event.began(),
        };
        if let Some(known) = known {
            self.release(&known.addresses);
        }
        self.put(Session::ended(event.key.clone(), began, event.at, self.now));
        Outcome::Recorded
    }

    fn restart(&mut self, event: &Event) -> Outcome {
        if let Some(known) = self.get(&event.key).and_then(|marker| marker.ended) {
            let known = self.not_future(known);
            let is_repeated = match event.at.order_there(known) {
                Some(order) => order != Ordering::Greater,
                None => known.here > event.at.here,
            };
            if is_repeated {
                return Outcome::Late;
            }
        }
        let known = self.table.of_nas(&event.key.nas).map(|session| session.key.clone());
        let staged = self.changes.keys().filter(|key| key.nas == event.key.nas).cloned();
        let keys: BTreeSet<Key> = known.chain(staged).filter(|key| !key.id.is_empty()).collect();
        for key in keys {
            let Some(session) = self.get(&key).cloned() else { continue };
            let moment = self.not_future(session.ended.unwrap_or(session.began));
            if !moment.is_after(event.at) {
                self.release(&session.addresses);
                self.records -= 1;
                self.changes.insert(key, None);
            }
        }
        // The removals have made room, if there was anything to remove.
        if !self.has_room(&event.key) {
            return Outcome::Full;
        }
        self.put(Session::ended(event.key.clone(), event.at, event.at, self.now));
        Outcome::Recorded
    }

    /// Whether the NAS has restarted since `moment`.
    fn restarted_after(&self, key: &Key, moment: Moment) -> bool {
        let marker = self.get(&Key { nas: Arc::clone(&key.nas), id: "".into() });
        marker
            .and_then(|marker| marker.ended)
            .is_some_and(|restart| self.not_future(restart).is_after(moment))
    }

    /// Adds those of `wanted` that no later session owns to the addresses of `session`.
    fn claim(
        &mut self,
        session: &mut Session,
        wanted: impl Iterator<Item = Address>,
        is_new: bool,
    ) {
        for address in wanted {
            if session.addresses.iter().any(|it| it.prefix == address.prefix)
                || session.addresses.len() >= MOST_ADDRESSES
            {
                continue;
            }
            if let Some(owner) = self.owner(address.prefix).filter(|it| it.key != session.key) {
                let began = self.not_future(owner.began);
                let order = if owner.key.nas == session.key.nas {
                    session.began.order(began)
                } else {
                    session.began.here.cmp(&began.here)
                };
                if order == Ordering::Less || order == Ordering::Equal && !is_new {
                    continue;
                }
                let mut loser = Session::clone(&owner);
                loser.addresses.retain(|it| it.prefix != address.prefix);
                self.put(loser);
            }
            self.owners.insert(address.prefix, Some(session.key.clone()));
            session.addresses.push(address);
        }
        session.addresses.sort_unstable();
    }

    fn release(&mut self, addresses: &[Address]) {
        self.owners.extend(addresses.iter().map(|address| (address.prefix, None)));
    }

    /// The owner of a prefix after the accepted reports.
    fn owner(&self, prefix: Prefix) -> Option<Arc<Session>> {
        match self.owners.get(&prefix) {
            Some(owner) => owner.as_ref().and_then(|key| self.get(key)).cloned(),
            None => self.table.owners.get(&prefix).cloned(),
        }
    }

    /// The record after the accepted reports.
    fn get(&self, key: &Key) -> Option<&Arc<Session>> {
        match self.changes.get(key) {
            Some(staged) => staged.as_ref(),
            None => self.table.records.get(key).map(|record| &record.session),
        }
    }

    fn last(&self, key: &Key) -> Option<Moment> {
        let known = || self.table.records.get(key).map(|record| record.last);
        self.last.get(key).copied().or_else(known)
    }

    fn has_room(&self, key: &Key) -> bool {
        self.records < self.table.most || self.get(key).is_some()
    }

    fn put(&mut self, session: Session) {
        self.records += usize::from(self.get(&session.key).is_none());
        self.changes.insert(session.key.clone(), Some(Arc::new(session)));
    }

    /// A moment that has been recorded, but not in the future: the clock of this node may have been
    /// ahead, and nobody's claim may be better than that of a session that begins now. Its report
    /// has waited here for a while.
    fn not_future(&self, moment: Moment) -> Moment {
        let now = self.now.as_millisecond();
        Moment { here: if moment.here > now { now - GRACE } else { moment.here }, ..moment }
    }
}

impl Session {
    /// The record of a session that has ended. It names nobody.
    fn ended(key: Key, began: Moment, ended: Moment, now: Timestamp) -> Self {
        Self {
            key,
            subscriber: Subscriber::default(),
            assignment: super::Assignment::Files,
            is_default: false,
            addresses: Vec::new(),
            began,
            last: ended,
            since: now,
            silence: None,
            ended: Some(ended),
        }
    }
}

/// Whether a report is about another session than `known`, which has the same name, began at `since`
/// and has not ended: one that began later, where the NAS sends its time. Its clock may jump, so an
/// update must also name another user.
fn is_of_another(event: &Event, known: &Session, since: Moment) -> bool {
    let began = event.began();
    let has_time = began.there.is_some() && since.there.is_some();
    let users = event.subscriber.user.as_ref().zip(known.subscriber.user.as_ref());
    let has_other_user = users.is_some_and(|(new, old)| new != old);
    has_time && began.is_clearly_after(since) && (event.kind == Kind::Start || has_other_user)
}

/// Takes over what a report says of the subscriber; from a late one, what is not known yet.
fn merge(known: &mut Subscriber, new: &Subscriber, is_late: bool) {
    for (known, new) in [
        (&mut known.user, &new.user),
        (&mut known.calling_station, &new.calling_station),
        (&mut known.circuit, &new.circuit),
    ] {
        if new.is_some() && (!is_late || known.is_none()) {
            known.clone_from(new);
        }
    }
}

/// The silence that ends a session: three intervals, as RFC 2869 leaves room for two lost updates.
fn silence(interim: Option<u32>) -> Option<u32> {
    interim.filter(|&interim| interim > 0).map(|interim| interim.saturating_mul(3))
}
