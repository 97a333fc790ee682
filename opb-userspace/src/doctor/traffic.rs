//! What the counters say about the roles of interfaces. Nothing else in the kernel tells which side
//! the subscribers are on.

use jiff::{SignedDuration, Timestamp};
use opb_common::outcome::{Direction, Reason};

use super::{Check, Doctor, Findings, Level::Note};
use crate::api::{counters::CounterLine, status::InterfaceStatus};

/// Few packets may all be of addresses in no group.
const ENOUGH: u64 = 20;
/// An interface without mail for that long is worth a note.
const QUIET: SignedDuration = SignedDuration::from_mins(10);

const ACTION: &str = "send a test mail from a line behind it and compare `opb counters \
                      --by-interface`; `subscriber` is the side of the customers, `core` the other";

impl Doctor<'_> {
    /// Notes interfaces on which the upstream rule has met no subscriber.
    pub(super) fn traffic(&self, rows: &[CounterLine], now: Timestamp, found: &mut Findings) {
        let Ok(status) = self.daemon else { return };
        let is_upstream = |it: &&InterfaceStatus| it.direction == Direction::Upstream.name();
        for InterfaceStatus { name, role, .. } in status.interfaces.iter().filter(is_upstream) {
            let of_it = || {
                let rows = rows.iter().filter(|row| row.of() == name);
                rows.filter(|row| row.direction == Direction::Upstream)
            };
            let packets: u64 = of_it().map(|row| row.packets).sum();
            let is_unknown = of_it().all(|row| row.reason == Reason::Unknown);
            let has_waited = now.duration_since(status.since) >= QUIET;
            let (seen, consequence) = if packets == 0 && has_waited {
                (
                    format!("as `role: {role}`, no upstream packet to a filtered port came by yet"),
                    "normal on a quiet line; a wrong `role` looks the same, and filters nothing",
                )
            } else if packets >= ENOUGH && is_unknown {
                (
                    format!(
                        "as `role: {role}`, all {packets} upstream packets to filtered ports came \
                             from addresses in no group"
                    ),
                    "either `role` is the wrong way round, or the policy lacks the prefixes of these \
                     subscribers: nothing is filtered",
                )
            } else {
                continue;
            };
            found.add((Check::Interface, Note), name, seen, consequence, ACTION);
        }
    }
}
