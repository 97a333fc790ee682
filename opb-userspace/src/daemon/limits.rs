//! The limits of the listeners, and the counts of what they refuse. docs/operations.md has the
//! numbers.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit};

/// The limits of a listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The name of the listener in metrics.
    pub(super) name: &'static str,
    /// The most connections. A further one evicts the one that has been idle for longest.
    pub(super) connections: usize,
    /// The most connections of one [`Crowd`](super::serve::Crowd).
    pub(super) of_one: usize,
    /// Additional connections for callers without a crowd.
    pub(super) reserve: usize,
    /// The most bytes of request line and headers.
    pub(super) head: usize,
    /// The time to send them, and the longest idle time of a connection.
    pub(super) head_time: Duration,
    /// The time to send a body. Each 4 MiB add one second.
    pub(super) body_time: Duration,
    /// The time from the end of a request's headers to the start of the answer.
    pub(super) request: Duration,
    /// The longest time without progress in sending the answer.
    pub(super) stall: Duration,
}

/// Descriptors reserved for everything else: up to 16 program instances with about 14 each.
const RESERVED: u64 = 256;
/// The fewest connections, even with few descriptors.
const FEWEST: usize = 4;

impl Limits {
    /// Limits connections to a quarter of the available descriptors.
    #[must_use]
    pub(super) fn within_descriptors(mut self) -> Self {
        if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let room = usize::try_from(soft.saturating_sub(RESERVED) / 4).unwrap_or(usize::MAX);
            self.connections = self.connections.min(room.max(FEWEST));
            self.of_one = self.of_one.min(self.connections);
        }
        self
    }
}

/// Refused connections and requests since the daemon started.
#[derive(Debug)]
pub(super) struct RefusedRequests(Mutex<BTreeMap<(&'static str, &'static str), u64>>);

/// Starts with zeros, so that an alert sees the first refusal as an increase.
impl Default for RefusedRequests {
    fn default() -> Self {
        let reasons =
            ["crowded", "deadline", "full", "lists", "malformed", "rate", "reloads", "slow"];
        let of = |listener| reasons.map(|why| ((listener, why), 0));
        Self(Mutex::new(["control", "http"].into_iter().flat_map(of).collect()))
    }
}

impl RefusedRequests {
    pub(super) fn count(&self, listener: &'static str, why: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((listener, why)).or_default() += 1;
    }

    pub(super) fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(&(listener, why), &count)| (listener, why, count)).collect()
    }
}
