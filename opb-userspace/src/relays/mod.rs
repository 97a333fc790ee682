//! Relay hosts: names in the policy that the daemon resolves.
//!
//! [`Hosts`] holds their addresses, [`resolver`] asks the name servers.

pub mod resolver;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::{
    api::status::{HostState, HostStatus},
    policy::{Policy, Prefix},
};

/// The most addresses of a host, including held ones.
const MOST: usize = 64;

/// The answer of the name servers for one host, by family. A family may have no addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsAnswer {
    pub ipv4: Result<Vec<IpAddr>, HostError>,
    pub ipv6: Result<Vec<IpAddr>, HostError>,
}

/// Why an answer is not used, or not all of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("not asked for yet")]
    NotAsked,
    /// The error of the resolver.
    #[error("{0}")]
    Lookup(String),
    #[error("the name has no address")]
    NoAddress,
    #[error("it has more than {MOST} addresses: not all are used")]
    TooMany,
}

impl DnsAnswer {
    /// Why it has no address, if it has none.
    #[must_use]
    pub fn failure(&self) -> Option<HostError> {
        let families = || [&self.ipv4, &self.ipv6].into_iter();
        if families().flatten().any(|addresses| !addresses.is_empty()) {
            return None;
        }
        Some(families().find_map(|it| it.as_ref().err().cloned()).unwrap_or(HostError::NoAddress))
    }
}

/// Whether an answer brought addresses that were not allowed before.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    New,
    Known,
}

/// The addresses of all hosts of a policy.
#[derive(Clone)]
pub struct Hosts {
    known: BTreeMap<String, Host>,
    /// How long an address stays allowed after answers no longer name it.
    hold: Duration,
}

#[derive(Clone, Default)]
struct Host {
    /// Each address, and the time since which answers no longer name it.
    addresses: BTreeMap<IpAddr, Option<Instant>>,
    answered: Option<Timestamp>,
    changed: Option<Timestamp>,
    error: Option<HostError>,
    /// Addresses in answers that did not fit.
    refused: u64,
}

impl Hosts {
    /// Starts with the last good answers of an earlier daemon.
    pub fn new(saved: BTreeMap<String, Vec<IpAddr>>, hold: Duration) -> Self {
        let known = saved.into_iter().map(|(name, addresses)| {
            let kept = addresses.into_iter().take(MOST);
            let addresses = kept.map(|address| (address, None)).collect();
            (name, Host { addresses, ..Host::default() })
        });
        Self { known: known.collect(), hold }
    }

    /// How long an address stays allowed after answers no longer name it.
    pub fn set_hold(&mut self, hold: Duration) {
        self.hold = hold;
    }

    /// Merges an answer into the addresses of its host.
    pub fn answered(&mut self, name: &str, answer: DnsAnswer, now: Instant) -> Addresses {
        let host = self.known.entry(name.to_owned()).or_default();
        let DnsAnswer { ipv4, ipv6 } = answer;
        let nothing = [&ipv4, &ipv6].iter().all(|family| family.as_ref().is_ok_and(Vec::is_empty));
        if nothing {
            // A name without any address is a mistake in the zone, not a wish to close the relay.
            host.error = Some(HostError::NoAddress);
            return Addresses::Known;
        }
        host.error = [&ipv4, &ipv6].iter().find_map(|family| family.as_ref().err().cloned());
        let mut changed = false;
        for (is_ipv6, family) in [(false, ipv4), (true, ipv6)] {
            let Ok(addresses) = family else { continue };
            host.answered = Some(Timestamp::now());
            for (address, missing) in &mut host.addresses {
                if address.is_ipv6() != is_ipv6 {
                    continue;
                }
                if addresses.contains(address) {
                    *missing = None;
                } else {
                    missing.get_or_insert(now);
                }
            }
            for address in addresses {
                // Answers with other addresses each time must not fill the policy.
                if host.addresses.len() >= MOST && !host.addresses.contains_key(&address) {
                    host.refused += 1;
                    host.error = Some(HostError::TooMany);
                    continue;
                }
                changed |= host.addresses.insert(address, None).is_none();
            }
        }
        if !changed {
            return Addresses::Known;
        }
        host.changed = Some(Timestamp::now());
        Addresses::New
    }

    /// Removes addresses that answers have not named for long enough. Returns the hosts that had
    /// any.
    pub fn release(&mut self, now: Instant) -> Vec<String> {
        let hold = self.hold;
        let mut released = Vec::new();
        for (name, host) in &mut self.known {
            let before = host.addresses.len();
            host.addresses.retain(|_, missing| missing.is_none_or(|since| now - since < hold));
            if host.addresses.len() != before {
                host.changed = Some(Timestamp::now());
                released.push(name.clone());
            }
        }
        released
    }

    /// The addresses of one host.
    pub fn addresses(&self, name: &str) -> impl Iterator<Item = IpAddr> {
        self.known.get(name).into_iter().flat_map(|host| host.addresses.keys().copied())
    }

    /// Adds the addresses of hosts to the relay sets that name them.
    pub fn apply(&self, policy: &mut Policy) {
        for relay in policy.relays.iter_mut().filter(|relay| !relay.hosts.is_empty()) {
            let found = relay.hosts.iter().flat_map(|host| self.addresses(host));
            // No packet carries an IPv4-mapped address.
            relay.addresses.extend(found.filter_map(|address| Prefix::host(address).ok()));
            relay.addresses.sort_unstable();
            relay.addresses.dedup();
        }
    }

    /// What is known of a host.
    pub fn state(&self, name: &str) -> HostState {
        let Some(host) = self.known.get(name) else { return HostState::Unasked };
        match (host.addresses.is_empty(), &host.error) {
            (true, None) => HostState::Unasked,
            (true, Some(_)) => HostState::Unresolved,
            (false, Some(_)) => HostState::Kept,
            (false, None) => HostState::Resolved,
        }
    }

    /// Groups that reach no relay, because no host of their relay sets has an address, with these
    /// hosts. Groups with a host that was not asked for yet are not among them.
    pub fn groups_without_relay<'a>(
        &self,
        files: &'a Policy,
    ) -> impl Iterator<Item = (&'a str, Vec<&'a str>)> {
        files.groups.iter().filter_map(|group| {
            let sets = || group.relays.iter().map(|&relay| &files.relays[relay]);
            let mut hosts: Vec<_> = sets().flat_map(|set| &set.hosts).map(String::as_str).collect();
            hosts.sort_unstable();
            hosts.dedup();
            let is_lost = !hosts.is_empty()
                && sets().all(|set| set.addresses.is_empty())
                && hosts.iter().all(|host| self.state(host) == HostState::Unresolved);
            is_lost.then_some((group.name.as_str(), hosts))
        })
    }

    /// The hosts of `policy`.
    pub fn status(&self, policy: &Policy) -> Vec<HostStatus> {
        let status = |name: String| {
            let host = self.known.get(&name);
            HostStatus {
                state: self.state(&name),
                addresses: self.addresses(&name).collect(),
                answered: host.and_then(|host| host.answered),
                changed: host.and_then(|host| host.changed),
                error: host
                    .map_or(Some(&HostError::NotAsked), |host| host.error.as_ref())
                    .map(ToString::to_string),
                refused: host.map_or(0, |host| host.refused),
                host: name,
            }
        };
        names(policy).into_iter().map(status).collect()
    }
}

/// All host names of a policy.
pub fn names(policy: &Policy) -> BTreeSet<String> {
    policy.relays.iter().flat_map(|relay| relay.hosts.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Action, Downstream, Group, Matching, RelaySet};

    const HOLD: Duration = Duration::from_secs(60);

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn answer(ipv4: &[&str], ipv6: &[&str]) -> DnsAnswer {
        DnsAnswer { ipv4: Ok(addresses(ipv4)), ipv6: Ok(addresses(ipv6)) }
    }

    fn allowed(hosts: &Hosts) -> Vec<IpAddr> {
        hosts.addresses("mx").collect()
    }

    #[test]
    fn an_address_that_answers_drop_is_held_for_a_while() {
        let (mut hosts, start) = (Hosts::new(BTreeMap::new(), HOLD), Instant::now());
        assert_eq!(
            hosts.answered("mx", answer(&["192.0.2.1"], &["2001:db8::1"]), start),
            Addresses::New
        );
        assert_eq!(
            hosts.answered("mx", answer(&["192.0.2.1"], &["2001:db8::1"]), start),
            Addresses::Known
        );
        assert_eq!(
            hosts.answered("mx", answer(&["192.0.2.2"], &["2001:db8::1"]), start),
            Addresses::New
        );
        assert!(hosts.release(start + HOLD / 2).is_empty());
        assert_eq!(allowed(&hosts), addresses(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]));
        assert_eq!(hosts.release(start + HOLD), ["mx"]);
        assert_eq!(allowed(&hosts), addresses(&["192.0.2.2", "2001:db8::1"]));
    }

    #[test]
    fn an_address_that_comes_back_is_kept() {
        let (mut hosts, start) = (Hosts::new(BTreeMap::new(), HOLD), Instant::now());
        for addresses in [&["192.0.2.1"], &["192.0.2.2"], &["192.0.2.1"]] {
            let _ = hosts.answered("mx", answer(addresses, &[]), start);
        }
        assert_eq!(hosts.release(start + HOLD), ["mx"]);
        assert_eq!(allowed(&hosts), addresses(&["192.0.2.1"]));
    }

    /// A name server elsewhere may answer with other addresses each time.
    #[test]
    fn the_addresses_of_a_host_are_limited() {
        let (mut hosts, start) = (Hosts::new(BTreeMap::new(), HOLD), Instant::now());
        for third in 0..4 {
            let others = (1..=32).map(|last| IpAddr::from([192, 0, third, last])).collect();
            let _ =
                hosts.answered("mx", DnsAnswer { ipv4: Ok(others), ipv6: Ok(Vec::new()) }, start);
        }
        assert_eq!((allowed(&hosts).len(), hosts.known["mx"].refused), (MOST, 64));
        assert_eq!(hosts.known["mx"].error, Some(HostError::TooMany));
        // Released addresses make room.
        hosts.release(start + HOLD);
        let _ = hosts.answered("mx", answer(&["198.51.100.25"], &[]), start + HOLD);
        assert!(allowed(&hosts).contains(&addresses(&["198.51.100.25"])[0]));
    }

    #[test]
    fn a_group_without_a_relay_has_no_host_with_an_address() {
        let relay = |name: &str, addresses: &[&str], hosts: &[&str]| RelaySet {
            name: name.to_owned(),
            addresses: addresses.iter().map(|text| text.parse().expect("a prefix")).collect(),
            hosts: hosts.iter().copied().map(str::to_owned).collect(),
        };
        let group = |name: &str, relays: &[usize]| Group {
            name: name.to_owned(),
            relays: relays.to_vec(),
            prefixes: Vec::new(),
            action: Action::Drop,
            matching: Matching::Syn,
            downstream: Downstream::Off,
            ports: vec![25],
        };
        let policy = Policy {
            relays: vec![
                relay("a", &[], &["mx"]),
                relay("b", &[], &["mx", "late"]),
                relay("c", &["192.0.2.1"], &["mx"]),
            ],
            groups: vec![
                group("lost", &[0]),
                group("none", &[]),
                group("open", &[0, 1]),
                group("safe", &[0, 2]),
            ],
            ..Policy::default()
        };
        let (mut hosts, now) = (Hosts::new(BTreeMap::new(), HOLD), Instant::now());
        let lost = |hosts: &Hosts| {
            let lost = hosts.groups_without_relay(&policy);
            lost.map(|(group, hosts)| format!("{group} {hosts:?}")).collect::<Vec<_>>()
        };
        assert!(lost(&hosts).is_empty(), "nothing was asked yet");
        let _ = hosts.answered("mx", answer(&[], &[]), now);
        assert_eq!(lost(&hosts), ["lost [\"mx\"]"], "`late` was not asked for");
        let _ = hosts.answered("late", answer(&[], &[]), now);
        assert_eq!(lost(&hosts), ["lost [\"mx\"]", "open [\"late\", \"mx\"]"]);
        let _ = hosts.answered("late", answer(&["192.0.2.7"], &[]), now);
        assert_eq!(lost(&hosts), ["lost [\"mx\"]"]);
        let _ = hosts.answered("mx", answer(&["192.0.2.8"], &[]), now);
        let _ = hosts.answered("mx", answer(&[], &[]), now);
        assert!(lost(&hosts).is_empty(), "the last good answer is kept");
        assert_eq!(hosts.state("mx"), HostState::Kept);
    }

    #[test]
    fn failures_keep_the_last_good_answer() {
        let start = Instant::now();
        let saved = BTreeMap::from([("mx".to_owned(), addresses(&["192.0.2.1", "2001:db8::1"]))]);
        let mut hosts = Hosts::new(saved, HOLD);
        let failed = || Err(HostError::Lookup("timed out".to_owned()));
        let nothing = DnsAnswer { ipv4: failed(), ipv6: failed() };
        assert_eq!(hosts.answered("mx", nothing, start), Addresses::Known);
        assert_eq!(hosts.answered("mx", answer(&[], &[]), start), Addresses::Known, "no such name");
        assert!(hosts.release(start + 2 * HOLD).is_empty());
        assert_eq!(allowed(&hosts), addresses(&["192.0.2.1", "2001:db8::1"]));

        // One family answers that it has nothing, of the other nothing is known.
        let _ = hosts.answered("mx", DnsAnswer { ipv4: Ok(vec![]), ipv6: failed() }, start);
        hosts.release(start + 2 * HOLD);
        assert_eq!(allowed(&hosts), addresses(&["2001:db8::1"]));
    }
}
