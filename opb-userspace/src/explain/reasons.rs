//! The reasons for a verdict as text, in the order of the decision.

use std::net::IpAddr;

use jiff::Timestamp;
use opb_common::outcome::{Direction, Line, Outcome, Reason, Verdict};

use crate::api::explain::Query;
use crate::policy::{Downstream, Group, Matching, Owner, Policy, RelaySet};

/// The facts behind one outcome.
pub(super) struct Reasons<'a> {
    pub(super) query: &'a Query,
    pub(super) policy: &'a Policy,
    pub(super) outcome: Outcome,
    /// The address that names the subscriber's line.
    pub(super) line: IpAddr,
    /// Outer source and destination, for a packet in a tunnel.
    pub(super) outer: Option<(IpAddr, IpAddr)>,
    /// Name of the outcome's group in the image.
    pub(super) group: Option<&'a str>,
}

impl Reasons<'_> {
    pub(super) fn chain(&self, now: Timestamp) -> Vec<String> {
        if self.outcome.reason == Reason::Other {
            return vec![self.unfiltered()];
        }
        let subscriber = self.line;
        let owner = self.policy.longest_match(subscriber, now);
        let mut chain: Vec<_> = self.tunnel().into_iter().collect();
        chain.push(match owner {
            None => format!("no prefix covers {subscriber}: it is in no group"),
            Some((prefix, Owner::Exemption(index))) => {
                let exemption = &self.policy.exemptions[index];
                let reason = exemption.reason.as_deref().unwrap_or("no reason given");
                let kind = match exemption.until {
                    Some(until) => format!("an exemption until {until}"),
                    None => "a permanent exemption".to_owned(),
                };
                format!(
                    "the longest prefix that covers {subscriber} is {prefix}, {kind} ({reason})"
                )
            }
            Some((prefix, Owner::Group(index))) => format!(
                "the longest prefix that covers {subscriber} is {prefix} of group {}",
                self.policy.groups[index].name
            ),
        });
        if !self.agrees(owner.map(|(_, owner)| owner)) {
            chain.push(format!(
                "but the compiled policy differs (group {}, reason {}): it was compiled from \
                 another policy",
                self.group.unwrap_or("-"),
                self.outcome.reason.name(),
            ));
            return chain;
        }
        match owner {
            None if self.outcome.verdict == Verdict::Pass => chain.push(
                "packets of a subscriber in no group pass, unless the interface has \
                 `unknown-source: drop`"
                    .to_owned(),
            ),
            None => {}
            Some((_, Owner::Exemption(_))) => {
                chain.push("packets of an exempt subscriber pass".to_owned());
            }
            Some((_, Owner::Group(index))) => {
                self.group_rules(&self.policy.groups[index], &mut chain)
            }
        }
        chain
    }

    /// Tells which address of a packet in a tunnel names the line, and why.
    fn tunnel(&self) -> Option<String> {
        let (source, destination) = self.outer?;
        let (inner, _) = self.query.ends();
        let far = match self.query.direction {
            Direction::Upstream => destination,
            Direction::Downstream => source,
        };
        let line = self.line;
        let softwire = self.policy.softwire(far);
        Some(match (self.outcome.line, softwire) {
            (Line::Outer, Some(softwire)) => format!(
                "{far} is an endpoint of softwire {}: the outer address {line} names the line",
                softwire.name
            ),
            (Line::Outer, None) => format!("the outer address {line} names the line"),
            (Line::SixToFour, _) => {
                format!("{inner} is a 6to4 address: {line} in it names the line")
            }
            (Line::Own, Some(softwire)) => format!(
                "{far} is an endpoint of softwire {}, but the outer address is in no group: the \
                 inner address {line} names the line",
                softwire.name
            ),
            (Line::Own, None) => format!(
                "{far} is not an endpoint of a softwire: the inner address {line} names the line"
            ),
        })
    }

    /// Returns the port that decides, with its name.
    fn port(&self) -> (&'static str, u16) {
        let (source, destination) = self.query.ports();
        match self.query.direction {
            Direction::Upstream => ("destination port", destination),
            Direction::Downstream => ("source port", source),
        }
    }

    fn unfiltered(&self) -> String {
        let (what, port) = self.port();
        let direction = self.query.direction.name();
        format!(
            "no group filters {what} {port} {direction}: the packet passes whatever its addresses \
             are, and is not counted"
        )
    }

    /// Whether image and policy agree about the subscriber.
    fn agrees(&self, owner: Option<Owner>) -> bool {
        match self.outcome.reason {
            Reason::Unknown => owner.is_none(),
            Reason::Exempt => matches!(owner, Some(Owner::Exemption(_))),
            Reason::Other
            | Reason::NotSyn
            | Reason::Relay
            | Reason::NotFiltered
            | Reason::NoPolicy
            | Reason::Policy
            | Reason::SourceRoute
            | Reason::Fragment
            | Reason::Headers
            | Reason::Link
            | Reason::Malformed
            | Reason::Bypass => match owner {
                Some(Owner::Group(index)) => self.group == Some(&self.policy.groups[index].name),
                None | Some(Owner::Exemption(_)) => false,
            },
        }
    }

    /// Appends the reasons that follow from the group.
    fn group_rules(&self, group: &Group, chain: &mut Vec<String>) {
        let name = &group.name;
        let (what, port) = self.port();
        let upstream = self.query.direction == Direction::Upstream;
        if !upstream && group.downstream == Downstream::Off {
            chain.push(format!("group {name} filters nothing downstream (`downstream: off`)"));
            return;
        }
        if self.outcome.reason == Reason::NotFiltered {
            chain.push(format!("group {name} does not filter {what} {port}"));
            return;
        }
        chain.push(format!("group {name} filters {what} {port}"));
        if upstream {
            let flags = &self.query.flags;
            chain.push(match (group.matching, flags.opens()) {
                (Matching::Any, _) => "`match: any`: the group inspects every TCP \
                                       packet"
                    .to_owned(),
                (Matching::Syn, true) => {
                    "`match: syn`: the packet opens a connection, so the group inspects \
                     it"
                    .to_owned()
                }
                (Matching::Syn, false) => format!(
                    "`match: syn`: a packet with flags {flags} does not open a connection, so it \
                     passes"
                ),
            });
        }
        if self.outcome.reason == Reason::NotSyn {
            return;
        }
        chain.push(self.relay(group));
        if self.outcome.reason == Reason::Relay {
            return;
        }
        let key = if upstream { "action" } else { "downstream" };
        chain.push(match self.outcome.verdict {
            Verdict::Drop => format!("`{key}: drop`: the packet is dropped"),
            Verdict::Reject => format!(
                "`{key}: reject`: the packet is dropped and answered with \
                                        a TCP reset"
            ),
            Verdict::WouldDrop => format!(
                "`{key}: monitor`: the packet passes and is counted as \
                                           would-drop"
            ),
            Verdict::Pass => format!(
                "`{key}` denies such a packet, but a bypass is active: it passes (`opb bypass`)"
            ),
        });
    }

    /// Tells which relay set contains the other end, and whether the group lists that set.
    fn relay(&self, group: &Group) -> String {
        let (_, other) = self.query.ends();
        let name = &group.name;
        let listed = group.relays.iter().map(|&index| &self.policy.relays[index]);
        let covering =
            |set: &RelaySet| self.policy.addresses(set).find(|prefix| prefix.contains(other));
        if let Some((set, prefix)) = listed.clone().find_map(|set| Some((set, covering(set)?))) {
            return format!(
                "{other} is in {prefix} of relay set {}, which group {name} may reach",
                set.name
            );
        }
        if let Some(set) = self.policy.relays.iter().find(|set| covering(set).is_some()) {
            return format!(
                "{other} is in relay set {}, which group {name} does not list",
                set.name
            );
        }
        let names: Vec<_> = listed.map(|set| set.name.as_str()).collect();
        if names.is_empty() {
            return format!("{other} is not a relay of group {name}, which has no relays");
        }
        format!("{other} is not a relay of group {name} (its relay sets: {})", names.join(", "))
    }
}
