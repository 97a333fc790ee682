//! The reasons for a verdict in words, in the order in which it is made.

use std::net::IpAddr;

use jiff::Timestamp;
use opb_common::outcome::{Direction, Line, Outcome, Reason, Verdict};

use crate::api::explain::Query;
use crate::policy::{Downstream, Group, Matching, Owner, Policy, RelaySet};

/// What there is to say about one outcome.
pub(super) struct Reasons<'a> {
    pub(super) query: &'a Query,
    pub(super) policy: &'a Policy,
    pub(super) outcome: Outcome,
    /// The address that names the subscriber's line.
    pub(super) line: IpAddr,
    /// Source and destination of the packet around it.
    pub(super) outer: Option<(IpAddr, IpAddr)>,
    /// Name of the outcome's group, as the image has it.
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
                let until = match exemption.until {
                    Some(until) => format!("until {until}"),
                    None => "for good".to_owned(),
                };
                format!(
                    "the longest prefix that covers {subscriber} is {prefix}, an exemption {until} ({reason})"
                )
            }
            Some((prefix, Owner::Group(index))) => format!(
                "the longest prefix that covers {subscriber} is {prefix} of group {}",
                self.policy.groups[index].name
            ),
        });
        if !self.agrees(owner.map(|(_, owner)| owner)) {
            chain.push(format!(
                "but the image says otherwise (group {}, reason {}): it was compiled from another policy than this",
                self.group.unwrap_or("-"),
                self.outcome.reason.name(),
            ));
            return chain;
        }
        match owner {
            None if self.outcome.verdict == Verdict::Pass => chain.push(
                "what comes from no group passes, unless the interface says `unknown-source: drop`"
                    .to_owned(),
            ),
            None => {}
            Some((_, Owner::Exemption(_))) => {
                chain.push("what is exempt passes".to_owned());
            }
            Some((_, Owner::Group(index))) => self.judged(&self.policy.groups[index], &mut chain),
        }
        chain
    }

    /// Which address of a packet in a tunnel names the line, and why.
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
                "{far} is an endpoint of softwire {}, but the outer address is in no group: the inner address {line} names the line",
                softwire.name
            ),
            (Line::Own, None) => format!(
                "{far} is no endpoint of a softwire: the inner address {line} names the line"
            ),
        })
    }

    /// The port that decides, with its name.
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
            "no group filters {what} {port} {direction}: the packet passes before any address is looked at, and is counted nowhere"
        )
    }

    /// Whether the image puts the subscriber where the policy does.
    fn agrees(&self, owner: Option<Owner>) -> bool {
        let reason = self.outcome.reason;
        match owner {
            None => reason == Reason::Unknown,
            Some(Owner::Exemption(_)) => reason == Reason::Exempt,
            Some(Owner::Group(index)) => {
                ![Reason::Unknown, Reason::Exempt].contains(&reason)
                    && self.group == Some(&self.policy.groups[index].name)
            }
        }
    }

    /// From the group on.
    fn judged(&self, group: &Group, chain: &mut Vec<String>) {
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
                (Matching::Any, _) => "`match: any`: every TCP packet is judged".to_owned(),
                (Matching::Syn, true) => {
                    "`match: syn`: the packet opens a connection, so it is judged".to_owned()
                }
                (Matching::Syn, false) => format!(
                    "`match: syn`: a packet with flags {flags} opens no connection, so it passes"
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
            Verdict::Reject => format!("`{key}: reject`: dropped, and answered with a TCP reset"),
            Verdict::WouldDrop => format!("`{key}: monitor`: it passes, counted as would-drop"),
            Verdict::Pass => "the packet passes".to_owned(),
        });
    }

    /// Which relay set the other end is in, and whether that helps.
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
            return format!("{other} is no relay of group {name}, which has none");
        }
        format!("{other} is no relay of group {name} (its relay sets: {})", names.join(", "))
    }
}
