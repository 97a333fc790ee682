//! How much is measured.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What a run may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// Seconds: whether it still runs, without the peers, which only the benchmarks install. The numbers mean nothing.
    Smoke,
    /// Five minutes.
    Quick,
    /// Half an hour: what docs/benchmarks.md records.
    Full,
}

impl Effort {
    /// Prefixes in a table.
    pub fn sizes(self) -> &'static [usize] {
        match self {
            Self::Smoke => &[1_000],
            Self::Quick => &[16, 100_000, 1_000_000],
            Self::Full => &[16, 1_000, 10_000, 100_000, 1_000_000],
        }
    }

    /// How often all verdicts are measured.
    pub fn passes(self) -> usize {
        match self {
            Self::Smoke | Self::Quick => 1,
            Self::Full => 3,
        }
    }

    /// Measurements of which the median counts.
    pub fn rounds(self) -> usize {
        match self {
            Self::Smoke => 1,
            Self::Quick => 5,
            Self::Full => 7,
        }
    }

    /// Packets in one measurement of the verdict alone.
    pub fn repeat(self) -> u32 {
        match self {
            Self::Smoke => 1 << 10,
            Self::Quick | Self::Full => 1 << 17,
        }
    }

    /// Whether programs of others are measured.
    pub fn has_peers(self) -> bool {
        self != Self::Smoke
    }

    /// Takes `full` where time is no matter, and `less` elsewhere.
    pub fn pick<T>(self, less: T, full: T) -> T {
        if self == Self::Full { full } else { less }
    }
}
