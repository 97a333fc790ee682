//! What became of packets, for the metrics.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Recorded and answered.
    Recorded,
    /// Overtaken by a later report, and answered.
    Late,
    /// A repeated request: answered again.
    Repeated,
    /// Nothing about sessions, and answered.
    Other,
    /// No client has its source.
    UnknownClient,
    /// The client's secret is not there or cannot be read.
    NoSecret,
    /// Another secret, or changed on the way.
    NotAuthentic,
    Malformed,
    /// The client sent more than its rate allows.
    Rate,
    /// The queue was full.
    Queue,
    /// The table was full.
    Full,
    /// The store or the kernel failed.
    Failed,
}

impl Fate {
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::Recorded, "recorded"),
        (Self::Late, "late"),
        (Self::Repeated, "repeated"),
        (Self::Other, "other"),
        (Self::UnknownClient, "unknown-client"),
        (Self::NoSecret, "no-secret"),
        (Self::NotAuthentic, "not-authentic"),
        (Self::Malformed, "malformed"),
        (Self::Rate, "rate"),
        (Self::Queue, "queue"),
        (Self::Full, "full"),
        (Self::Failed, "failed"),
    ];
}

/// The upper limits of the classes of latency, in seconds.
pub const LIMITS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// Counts since the daemon started.
#[derive(Debug, Default)]
pub struct Statistics {
    fates: [AtomicU64; Fate::ALL.len()],
    /// Addresses and prefixes that no session may own.
    refused: AtomicU64,
    /// Latencies by class; the last is that of all above [`LIMITS`].
    latencies: [AtomicU64; LIMITS.len() + 1],
    microseconds: AtomicU64,
}

impl Statistics {
    pub fn count(&self, fate: Fate) {
        self.fates[fate as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn refuse(&self, addresses: usize) {
        self.refused.fetch_add(addresses as u64, Ordering::Relaxed);
    }

    /// Counts the time from the arrival of a request to its response.
    pub fn time(&self, latency: Duration) {
        let seconds = latency.as_secs_f64();
        let class = LIMITS.iter().position(|&limit| seconds <= limit).unwrap_or(LIMITS.len());
        self.latencies[class].fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(latency.as_micros() as u64, Ordering::Relaxed);
    }

    /// The count of each fate, by name.
    pub fn fates(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.fates.iter().map(|count| count.load(Ordering::Relaxed));
        Fate::ALL.iter().map(|(_, name)| *name).zip(counts)
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The number of latencies up to each of [`LIMITS`], that of all, and their sum in seconds.
    pub fn latencies(&self) -> ([u64; LIMITS.len()], u64, f64) {
        let mut so_far = 0;
        let mut upto = [0; LIMITS.len()];
        for (upto, count) in upto.iter_mut().zip(&self.latencies) {
            so_far += count.load(Ordering::Relaxed);
            *upto = so_far;
        }
        let all = so_far + self.latencies[LIMITS.len()].load(Ordering::Relaxed);
        (upto, all, self.microseconds.load(Ordering::Relaxed) as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_the_order_of_the_fates() {
        for (index, (fate, _)) in Fate::ALL.iter().enumerate() {
            assert_eq!(*fate as usize, index);
        }
    }

    #[test]
    fn latencies_add_up() {
        let statistics = Statistics::default();
        [1, 2, 9, 60_000].into_iter().for_each(|time| statistics.time(Duration::from_millis(time)));
        let (upto, all, sum) = statistics.latencies();
        assert_eq!((upto[0], upto[1], upto[3], upto[LIMITS.len() - 1], all), (1, 2, 3, 3, 4));
        assert!((60.0..60.1).contains(&sum), "{sum}");
    }
}
