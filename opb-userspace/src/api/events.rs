//! `GET /v1/events` and `GET /v1/talkers`: denied packets, and their senders.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use opb_common::outcome::{Direction, Reason, Verdict};
use serde::{Deserialize, Serialize};

use super::entries::Who;

/// Parameters of `GET /v1/events`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// The number of the last event that the client has.
    #[serde(default)]
    pub after: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Seconds to wait for something new.
    #[serde(default)]
    pub wait: u64,
}

/// Parameters of `GET /v1/talkers`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TalkersQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The most rows that are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// An event: a denied packet, a suspect, new addresses of a relay host, or a requested change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Rises by one from event to event.
    pub seq: u64,
    pub time: Timestamp,
    pub kind: Kind,
    /// `-` for no group.
    pub group: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub interface: String,
    /// As the node's privacy rule shows it; absent where there is none to show.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subscriber: String,
    /// The subscriber's address inside a tunnel, where `subscriber` is that of the line around it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub inner: String,
    /// The other end.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer: String,
    pub port: u16,
    /// Of the denied packet.
    pub bytes: u32,
    /// Denied packets within a minute, of a suspect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// The name of a relay host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The addresses of the host from then on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// The name of a requested change.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub action: String,
    /// The user who requested it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Who>,
    /// The result.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub outcome: String,
}

impl Event {
    /// As people read it: `drop (policy)`.
    #[must_use]
    pub fn verdict_and_reason(&self) -> String {
        let [verdict, reason] = [self.verdict.map(Verdict::name), self.reason.map(Reason::name)]
            .map(|it| it.unwrap_or("-"));
        format!("{verdict} ({reason})")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One packet was denied.
    Denied,
    /// A subscriber had more packets denied within a minute than the node file allows.
    Suspect,
    /// A relay host has other addresses.
    Relay,
    /// A requested change.
    Change,
}

/// Answer of `GET /v1/events`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page {
    pub events: Vec<Arc<Event>>,
    /// The value of `after` for the next request.
    pub next: u64,
    /// Number of the newest event: there are more pages while `next` is smaller.
    pub last: u64,
    /// Events after the `after` of the question that are forgotten already.
    pub missed: u64,
    /// Denied packets without an event, since the pins were created.
    pub lost: u64,
}

/// One row of `GET /v1/talkers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TalkerLine {
    /// As the node's privacy rule shows it.
    pub subscriber: String,
    /// The way of the denied packets.
    pub direction: Direction,
    /// Group, verdict and reason of the last packet.
    pub group: String,
    pub verdict: Verdict,
    pub reason: Reason,
    /// Denied packets since `first`.
    pub packets: u64,
    /// Denied packets a second, of late.
    pub rate: f64,
    pub first: Timestamp,
    pub last: Timestamp,
    /// Estimate of how many other ends there were; 266 means "at least that many".
    pub peers: u32,
}
