//! Sessions as clients see them.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use nix::unistd::Uid;

use super::{Assignment, Key, Record, Session, Sessions};
use crate::{
    api::{
        entries::{Row, Who},
        sessions::{SessionRow, SessionState, SessionsQuery, SessionsStatus},
    },
    policy::Policy,
    subscribers::Entries,
};

impl Sessions {
    /// The live sessions that `query` asks for. `files` is the policy without entries.
    pub fn rows(&self, query: &SessionsQuery, files: &Policy) -> Vec<SessionRow> {
        let owner = query.address.map(|address| self.owner(address));
        let is_wanted = |record: &&Record| {
            let Session { key, subscriber, .. } = &*record.session;
            let is = |wanted: &Option<String>, found: Option<&str>| {
                wanted.is_none() || wanted.as_deref() == found
            };
            is(&query.nas, Some(&key.nas))
                && is(&query.id, Some(&key.id))
                && is(&query.user, subscriber.user.as_deref())
                && owner.as_ref().is_none_or(|owner| owner.as_deref() == Some(&*record.session))
        };
        let live = self.records.values().filter(|record| record.session.is_live());
        live.filter(is_wanted).map(|record| row(record, files)).collect()
    }

    /// The session that owns an address, by the longest prefix.
    pub fn owner(&self, address: IpAddr) -> Option<Arc<Session>> {
        let host = crate::policy::Prefix::host(address).ok()?;
        host.ancestors().find_map(|prefix| self.owners.get(&prefix)).cloned()
    }

    pub fn find(&self, key: &Key) -> Option<&Arc<Session>> {
        let found = self.records.get(key).map(|record| &record.session);
        found.filter(|session| session.is_live() && !key.id.is_empty())
    }

    pub fn status(&self, files: &Policy) -> SessionsStatus {
        let unknown = |(group, count): (&Arc<str>, &usize)| {
            if files.group(group).is_none() { *count } else { 0 }
        };
        SessionsStatus {
            live: self.live - self.unsure,
            unsure: self.unsure,
            orphaned: self.groups.iter().map(unknown).sum(),
            addresses: self.owners.len(),
        }
    }
}

fn row(record: &Record, files: &Policy) -> SessionRow {
    let Session { key, subscriber, addresses, began, since, .. } = &*record.session;
    let subscriber = subscriber.clone();
    SessionRow {
        nas: Arc::clone(&key.nas),
        id: Arc::clone(&key.id),
        state: if record.is_unsure { SessionState::Unsure } else { SessionState::Live },
        user: subscriber.user,
        calling_station: subscriber.calling_station,
        circuit: subscriber.circuit,
        group: record.session.group().cloned(),
        exempt: record.session.assignment == Assignment::Exempt,
        addresses: addresses.iter().map(|address| address.prefix).collect(),
        began: Timestamp::from_millisecond(began.here).unwrap_or(*since),
        since: *since,
        silent: record.heard.elapsed().as_secs(),
        orphaned: orphaned(&record.session, files),
    }
}

fn orphaned(session: &Session, files: &Policy) -> Option<String> {
    let group = session.group().filter(|_| !session.applies_to(files))?;
    Some(format!("the policy has no group `{group}`"))
}

impl Entries {
    /// The addresses of sessions, as `opb subscriber list` shows them. Those that the rules of the
    /// files hold for are left out.
    pub(in crate::subscribers) fn session_rows<'a>(
        &'a self,
        files: &'a Policy,
        now: Timestamp,
    ) -> impl Iterator<Item = Row> + 'a {
        let by = Arc::new(Who {
            uid: Uid::effective().as_raw(),
            pid: None,
            user: Some("radius".to_owned()),
        });
        let owned = self.sessions.owners.iter();
        let owned = owned.filter(|(_, session)| session.assignment != Assignment::Files);
        owned.map(move |(&prefix, session)| {
            let entry = self.map.get(&prefix);
            let is_overridden = entry.is_some_and(|it| it.in_force(now) && it.applies_to(files));
            let loses = || "an operator's entry has the same prefix".to_owned();
            let orphaned = is_overridden.then(loses).or_else(|| orphaned(session, files));
            Row {
                prefix,
                group: session.group().cloned(),
                exempt: session.assignment == Assignment::Exempt,
                reason: Some(session.reason()),
                until: None,
                created: session.since,
                by: Arc::clone(&by),
                overrides: super::super::rule_of_files(prefix, files),
                orphaned,
                session: Some(Arc::clone(&session.key.id)),
            }
        })
    }
}
