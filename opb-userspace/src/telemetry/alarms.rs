//! Deliveries of reports of suspects: each is counted as delivered, failed or dropped.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::api::status::AlarmStatus;

/// A receiver of reports of suspects, and its counts.
#[derive(Debug)]
pub struct Alarm {
    to: &'static str,
    name: String,
    waiting: AtomicU64,
    delivered: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// The result of one delivery.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    Delivered,
    Failed,
    /// The queue was full.
    Dropped,
}

impl Alarm {
    #[must_use]
    pub fn new(to: &'static str, name: String) -> Self {
        let zero = || AtomicU64::new(0);
        Self { to, name, waiting: zero(), delivered: zero(), failed: zero(), dropped: zero() }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts a report as waiting, until [`Alarm::settle`].
    pub fn raise(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a waiting report by its outcome.
    pub fn settle(&self, outcome: Outcome) {
        let count = match outcome {
            Outcome::Delivered => &self.delivered,
            Outcome::Failed => &self.failed,
            Outcome::Dropped => &self.dropped,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn status(&self) -> AlarmStatus {
        let Self { to, name, waiting, delivered, failed, dropped } = self;
        let [waiting, delivered, failed, dropped] =
            [waiting, delivered, failed, dropped].map(|count| count.load(Ordering::Relaxed));
        let (to, name) = ((*to).to_owned(), name.clone());
        AlarmStatus { to, name, waiting, delivered, failed, dropped }
    }
}
