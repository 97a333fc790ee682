//! What became of the suspects of whom somebody is to be told: none of them is lost without being counted.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::api::status::AlarmStatus;

/// Somebody who is told of suspects, and of how many so far.
#[derive(Debug)]
pub struct Alarm {
    to: &'static str,
    name: String,
    waiting: AtomicU64,
    told: AtomicU64,
    failed: AtomicU64,
    left_out: AtomicU64,
}

/// What became of one suspect.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    Told,
    Failed,
    LeftOut,
}

impl Alarm {
    #[must_use]
    pub fn new(to: &'static str, name: String) -> Self {
        let zero = || AtomicU64::new(0);
        Self { to, name, waiting: zero(), told: zero(), failed: zero(), left_out: zero() }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One more suspect waits, until [`Alarm::settle`] says what became of it.
    pub fn raise(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    pub fn settle(&self, outcome: Outcome) {
        let count = match outcome {
            Outcome::Told => &self.told,
            Outcome::Failed => &self.failed,
            Outcome::LeftOut => &self.left_out,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn status(&self) -> AlarmStatus {
        let Self { to, name, waiting, told, failed, left_out } = self;
        let [waiting, told, failed, left_out] =
            [waiting, told, failed, left_out].map(|count| count.load(Ordering::Relaxed));
        AlarmStatus { to: (*to).to_owned(), name: name.clone(), waiting, told, failed, left_out }
    }
}
