//! The heartbeat of a thread or task.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The time of a part's last beat.
#[derive(Clone, Debug)]
pub(super) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    pub(super) fn new() -> Self {
        let pulse = Self(Arc::default());
        pulse.beat();
        pulse
    }

    pub(super) fn beat(&self) {
        self.0.store(START.elapsed().as_millis() as u64, Ordering::Release);
    }

    pub(super) fn age(&self) -> Duration {
        START.elapsed().saturating_sub(Duration::from_millis(self.0.load(Ordering::Acquire)))
    }
}
