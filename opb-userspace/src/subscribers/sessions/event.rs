//! What a NAS reports about a session, whatever the protocol.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::{Assignment, Key, Subscriber};
use crate::policy::Prefix;

/// The shortest prefixes that a session may own. A route to the whole world in an accounting
/// message must not exempt the world.
pub const SHORTEST: [u8; 2] = [20, 40];
/// The most addresses and prefixes of one session.
pub const MOST_ADDRESSES: usize = 64;

/// The attribute that an address comes from. A report replaces the addresses of the sources that it
/// has, and leaves the others alone: not every server repeats everything in every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Framed-IP-Address (RFC 2865, section 5.8).
    Ipv4,
    /// Framed-IPv6-Prefix (RFC 3162, section 2.3).
    Ipv6Prefix,
    /// Framed-IPv6-Address (RFC 6911, section 3.1).
    Ipv6,
    /// Delegated-IPv6-Prefix (RFC 4818).
    Delegated,
    /// Framed-Route (RFC 2865, section 5.22).
    Ipv4Route,
    /// Framed-IPv6-Route (RFC 3162, section 2.5).
    Ipv6Route,
}

/// An address or prefix of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    pub prefix: Prefix,
    pub from: Source,
}

impl Address {
    /// Whether a session may own it: not too short, and an address that a subscriber can have.
    pub fn is_acceptable(&self) -> bool {
        let shortest = SHORTEST[usize::from(self.prefix.is_ipv6())];
        let network = self.prefix.network();
        let is_subscribers = !network.is_unspecified()
            && !network.is_multicast()
            && !network.is_loopback()
            && match network {
                // 255.255.255.254 and .255 ask the NAS or the user for an address (RFC 2865,
                // section 5.8).
                std::net::IpAddr::V4(v4) => v4.octets()[0] < 240 && v4.octets()[0] > 0,
                std::net::IpAddr::V6(v6) => !v6.is_unicast_link_local(),
            };
        self.prefix.length() >= shortest && is_subscribers
    }
}

/// How far the two clocks may differ about the time between two reports, in milliseconds. Beyond
/// that, the clock of the NAS was set in between: it has no battery, or a report is forged.
const STEP: i64 = 24 * 60 * 60 * 1000;
/// How long a report that only the clock of this node orders may have been under way longer than
/// another one, in milliseconds.
pub(super) const GRACE: i64 = 60_000;

/// When something happened, by the two clocks that can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Milliseconds since 1970 by the clock of this node: the arrival of the message, less the
    /// delay and the duration that it states.
    pub here: i64,
    /// Seconds since 1970 by the clock of the NAS, which may be wrong, but orders its own messages
    /// however long they were under way, until it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub there: Option<i64>,
}

impl Moment {
    /// Compares two moments at the same NAS by its clock. `None` if one of them lacks it, or if it
    /// was set between them.
    pub fn order_there(self, other: Self) -> Option<Ordering> {
        let (one, two) = self.there.zip(other.there)?;
        let there = one.saturating_sub(two).saturating_mul(1000);
        let here = self.here.saturating_sub(other.here);
        (there.saturating_sub(here).saturating_abs() <= STEP).then(|| one.cmp(&two))
    }

    /// Compares two moments at the same NAS.
    pub fn order(self, other: Self) -> Ordering {
        let there = self.order_there(other).unwrap_or(Ordering::Equal);
        there.then(self.here.cmp(&other.here))
    }

    /// Whether it is later at the same NAS.
    pub fn is_after(self, other: Self) -> bool {
        self.order(other) == Ordering::Greater
    }

    /// Whether it is later at the same NAS, though one report may have been under way longer.
    pub(super) fn is_clearly_after(self, other: Self) -> bool {
        match self.order_there(other) {
            Some(order) => order == Ordering::Greater,
            None => self.here > other.here.saturating_add(GRACE),
        }
    }

    /// The moment `seconds` before.
    #[must_use]
    pub fn before(self, seconds: u32) -> Self {
        Self {
            here: self.here.saturating_sub(i64::from(seconds) * 1000),
            there: self.there.map(|there| there.saturating_sub(seconds.into())),
        }
    }
}

/// The kind of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Start,
    Interim,
    Stop,
    /// The NAS starts: it has no sessions from before (Accounting-On).
    On,
    /// The NAS stops, and all sessions with it (Accounting-Off).
    Off,
}

/// One report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: Kind,
    /// With an empty `id` for [`Kind::On`] and [`Kind::Off`].
    pub key: Key,
    /// When it happened.
    pub at: Moment,
    /// How long the session has lasted, in seconds.
    pub duration: Option<u32>,
    pub subscriber: Subscriber,
    /// `None` if the report has no word on it.
    pub assignment: Option<Assignment>,
    /// What holds for a new session of which no report has a word on it.
    pub default_assignment: Assignment,
    /// Only [acceptable](Address::is_acceptable) ones.
    pub addresses: Vec<Address>,
    /// The interval of interim updates, in seconds.
    pub interim: Option<u32>,
}

impl Event {
    /// When the session began, as far as this report tells.
    pub(super) fn began(&self) -> Moment {
        match self.kind {
            Kind::Start => self.at,
            _ => self.at.before(self.duration.unwrap_or(0)),
        }
    }
}
