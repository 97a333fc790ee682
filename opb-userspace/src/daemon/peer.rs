//! The client at the other end of the control socket: its user, by the kernel's word.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::unistd::{Uid, User};
use tokio::{net::UnixStream, sync::Semaphore, time::timeout};

use super::{
    serve::{Caller, Crowd},
    threads::Threads,
};
use crate::api::entries::Who;

/// The client at the other end of a connection.
#[derive(Clone)]
pub(super) struct Peer(pub(super) Arc<Who>, pub(super) Users);

impl Peer {
    /// The peer of `stream`, without its user name.
    pub(super) fn of(stream: &UnixStream, users: &Users) -> Self {
        let who = match stream.peer_cred() {
            Ok(peer) => Who { uid: peer.uid(), pid: peer.pid(), user: None },
            // Does not happen: the kernel always knows the peer.
            Err(_) => Who { uid: u32::MAX, pid: None, user: None },
        };
        Self(Arc::new(who), users.clone())
    }
}

#[cfg(fuzzing)]
impl Peer {
    pub(super) fn named(who: Who) -> Self {
        let users = Users::new();
        users.lock().insert(who.uid, (who.user.clone(), Instant::now()));
        Self(Arc::new(who), users)
    }
}

impl Caller for Peer {
    fn crowd(&self) -> Option<Crowd> {
        let trusted = [0, Uid::effective().as_raw()];
        Some(self.0.uid).filter(|uid| !trusted.contains(uid)).map(Crowd::User)
    }

    async fn identify(self) -> Self {
        let Self(who, users) = self;
        let user = users.name(who.uid).await;
        Self(Arc::new(Who { user, ..Who::clone(&who) }), users)
    }
}

/// Names by number, and when they were looked up.
type Known = BTreeMap<u32, (Option<String>, Instant)>;

/// Names of users. A remote directory (LDAP) may hang: then users have numbers only.
#[derive(Clone)]
pub(super) struct Users {
    threads: Threads,
    turns: Arc<Semaphore>,
    known: Arc<Mutex<Known>>,
}

impl Users {
    /// The longest wait for a name.
    const PATIENCE: Duration = Duration::from_secs(1);
    /// How long a name, or its absence, is cached.
    const KEPT: Duration = Duration::from_secs(60);
    /// The most cached names.
    const MOST: usize = 1024;
    /// The most names that are looked up at the same time.
    const TURNS: usize = 4;

    pub(super) fn new() -> Self {
        let turns = Arc::new(Semaphore::new(Self::TURNS));
        Self { threads: Threads::new("users"), turns, known: Arc::default() }
    }

    async fn name(&self, uid: u32) -> Option<String> {
        if let Some(name) = self.cached(uid) {
            return name;
        }
        // Connections that come together would start a thread each.
        let turn = timeout(Self::PATIENCE, self.turns.acquire()).await;
        if let Some(name) = self.cached(uid) {
            return name;
        }
        let _turn = turn.ok()?.ok()?;
        let ask = move || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
        let name = self.threads.run(Self::PATIENCE, ask).await.ok().flatten();
        let mut known = self.lock();
        if known.len() >= Self::MOST {
            known.clear();
        }
        known.insert(uid, (name.clone(), Instant::now()));
        name
    }

    /// The name, or its absence, if it was looked up lately.
    fn cached(&self, uid: u32) -> Option<Option<String>> {
        let known = self.lock();
        let (name, since) = known.get(&uid)?;
        (since.elapsed() < Self::KEPT).then(|| name.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
