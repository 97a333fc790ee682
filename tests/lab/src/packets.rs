//! The packet table: one policy, and frames with the verdict that each must get.
//!
//! One row is one sentence of the verdict contract, or one way around it. The same rows run on the host and
//! through the programs in the kernel. [`rows`] lists them in the order of the contract:
//!
//! 1. what is judged upstream, and how;
//! 2. what is judged downstream;
//! 3. the link layer: tags, PPPoE, no Ethernet header at all;
//! 4. what hides: fragments, headers and options, tunnels, lengths that lie;
//! 5. whose line it is;
//! 6. what an emergency bypass lets pass.

use std::net::{Ipv4Addr, Ipv6Addr};

use opb_common::{
    outcome::{Reason, Verdict},
    settings::Settings,
};

use crate::{
    frames::{Ethernet, Ipv4, Ipv6, Payload},
    naive::Sample,
};

mod bypass;
mod downstream;
mod fragments;
mod headers;
mod lengths;
mod link;
mod softwires;
mod tunnel_tricks;
mod tunnels;
mod upstream;

/// One frame and what must become of it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Unique, made for test names: lower case, digits and hyphens.
    pub name: String,
    pub description: &'static str,
    pub frame: Vec<u8>,
    pub settings: Settings,
    /// VLAN tags beside the frame, as TC finds them.
    pub tags_out_of_band: usize,
    pub expected: Expected,
    /// Why the programs in the kernel cannot be given this frame, if they cannot.
    pub host_only: Option<&'static str>,
}

impl Row {
    /// The frame as a judge is given it.
    #[must_use]
    pub fn sample(&self) -> Sample {
        let Self { frame, settings, tags_out_of_band, .. } = self;
        Sample { frame: frame.clone(), settings: *settings, tags_out_of_band: *tags_out_of_band }
    }
}

/// The outcome, with the group by name: which slot it has is the compiler's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    pub verdict: Verdict,
    pub reason: Reason,
    pub group: Option<&'static str>,
}

/// The policy behind the table.
///
/// It is for tests: each group has one thing that the others have not, and prefixes, exemptions and relay
/// sets nest in every way.
pub const POLICY: &str = "\
version: 1
relays:
  isp:
    addresses: [198.51.100.25, 198.51.100.128/28, 2001:db8:25::/64]
  partner:
    addresses: [198.51.100.30, 198.51.100.136, 2001:db8:26::/64, 2001:db8:25::beef]
groups:
  any:
    prefixes: [198.19.1.0/24, 2001:db8:3000::/36]
    relays: [isp]
    match: any
  bypassed:
    prefixes: [198.19.5.0/24, 2001:db8:8000::/36]
    relays: [isp]
    action: reject
    downstream: drop
  dynamic:
    prefixes: [203.0.113.0/24, 203.0.113.144/28, 2001:db8:1000::/36, 2001:db8:1800:8000::/49]
    relays: [isp]
    downstream: drop
  monitored:
    prefixes: [198.18.0.0/16, 2001:db8:2000::/36]
    relays: [isp]
    action: monitor
    downstream: monitor
  multi:
    prefixes: [198.19.3.0/24, 203.0.113.32/28, 2001:db8:5000::/36, 2001:db8:1f00::/48]
    relays: [isp]
    ports: [25, 2525]
  rejecting:
    prefixes: [198.19.2.0/24, 2001:db8:4000::/36]
    action: reject
    downstream: drop
  wholesale:
    prefixes: [198.19.4.0/24, 2001:db8:6000::/36]
    relays: [partner]
    downstream: drop
exemptions:
  - prefix: 203.0.113.77/32
    reason: one address inside a group
  - prefix: 2001:db8:1000:77::1/128
    reason: the same in IPv6
  - prefix: 203.0.113.128/26
    reason: around a longer prefix of the group
  - prefix: 2001:db8:1800::/40
    reason: the same in IPv6
  - prefix: 192.0.2.200/32
    reason: in no group
  - prefix: 2001:db8:9000::/48
    reason: the same in IPv6
  - prefix: 2002:cb00:710a::/48
    reason: the 6to4 addresses of a line that is filtered
softwires:
  transix:
    endpoints: [2001:db8:af::1, 192.0.2.64/30]
  inside:
    endpoints: [203.0.113.254, 198.51.100.142, 2001:db8:1000:af::1, 2001:db8:25::af]
nat64:
  - 64:ff9b::/96
  - 2001:db8:64::/48
  - 3fff:32::/32
  - 3fff:40::/40
  - 3fff:56::/56
  - 3fff:64::/64
";

/// The group of the policy that has an emergency bypass wherever the rows are judged.
pub const BYPASSED: &str = "bypassed";

/// A machine with an address of each family.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Host {
    const fn new(v4: [u8; 4], v6: [u16; 8]) -> Self {
        let [a, b, c, d] = v4;
        let [e, f, g, h, i, j, k, l] = v6;
        Self { v4: Ipv4Addr::new(a, b, c, d), v6: Ipv6Addr::new(e, f, g, h, i, j, k, l) }
    }
}

/// Machines that the policy speaks of, and one that it does not.
pub mod hosts {
    use super::Host;

    /// A mail server that is nobody's relay.
    pub const OUTSIDE: Host = Host::new([192, 0, 2, 25], [0x2001, 0xdb8, 0x7000, 0, 0, 0, 0, 0x25]);
    pub const ISP: Host = Host::new([198, 51, 100, 25], [0x2001, 0xdb8, 0x25, 0, 0, 0, 0, 1]);
    pub const PARTNER: Host = Host::new([198, 51, 100, 30], [0x2001, 0xdb8, 0x26, 0, 0, 0, 0, 1]);
    /// In the relay sets of both: one address of the partner's inside a prefix of the ISP's.
    pub const SHARED: Host =
        Host::new([198, 51, 100, 136], [0x2001, 0xdb8, 0x25, 0, 0, 0, 0, 0xbeef]);

    /// An endpoint of softwires: AFTR, border relay.
    pub const ENDPOINT: Host = Host::new([192, 0, 2, 66], [0x2001, 0xdb8, 0xaf, 0, 0, 0, 0, 1]);
    /// An endpoint inside a prefix of a group, and one inside a prefix of relays.
    pub const ENDPOINT_IN_GROUP: Host =
        Host::new([203, 0, 113, 254], [0x2001, 0xdb8, 0x1000, 0xaf, 0, 0, 0, 1]);
    pub const ENDPOINT_IN_RELAYS: Host =
        Host::new([198, 51, 100, 142], [0x2001, 0xdb8, 0x25, 0, 0, 0, 0, 0xaf]);
    /// What a home network has behind its line.
    pub const PRIVATE: Host = Host::new([192, 168, 1, 5], [0xfd00, 0, 0, 0, 0, 0, 0, 5]);

    pub const DYNAMIC: Host = Host::new([203, 0, 113, 9], [0x2001, 0xdb8, 0x1000, 9, 0, 0, 0, 9]);
    pub const MONITORED: Host = Host::new([198, 18, 7, 9], [0x2001, 0xdb8, 0x2000, 9, 0, 0, 0, 9]);
    pub const ANY: Host = Host::new([198, 19, 1, 9], [0x2001, 0xdb8, 0x3000, 9, 0, 0, 0, 9]);
    pub const REJECTING: Host = Host::new([198, 19, 2, 9], [0x2001, 0xdb8, 0x4000, 9, 0, 0, 0, 9]);
    pub const MULTI: Host = Host::new([198, 19, 3, 9], [0x2001, 0xdb8, 0x5000, 9, 0, 0, 0, 9]);
    pub const WHOLESALE: Host = Host::new([198, 19, 4, 9], [0x2001, 0xdb8, 0x6000, 9, 0, 0, 0, 9]);
    pub const IN_BYPASS: Host = Host::new([198, 19, 5, 9], [0x2001, 0xdb8, 0x8000, 9, 0, 0, 0, 9]);
    /// In `multi`, by a prefix inside one of `dynamic`.
    pub const NESTED: Host = Host::new([203, 0, 113, 40], [0x2001, 0xdb8, 0x1f00, 0, 0, 0, 0, 9]);

    /// Exempt, by one address inside `dynamic`.
    pub const EXEMPT: Host =
        Host::new([203, 0, 113, 77], [0x2001, 0xdb8, 0x1000, 0x77, 0, 0, 0, 1]);
    /// Exempt, by a prefix inside `dynamic` that is itself around a longer prefix of the group.
    pub const EXEMPT_WIDE: Host =
        Host::new([203, 0, 113, 130], [0x2001, 0xdb8, 0x1800, 0x7fff, 0, 0, 0, 1]);
    /// Filtered again inside that exemption.
    pub const FILTERED_AGAIN: Host =
        Host::new([203, 0, 113, 150], [0x2001, 0xdb8, 0x1800, 0x8000, 0, 0, 0, 1]);
    /// Exempt, in no group.
    pub const EXEMPT_ALONE: Host =
        Host::new([192, 0, 2, 200], [0x2001, 0xdb8, 0x9000, 0, 0, 0, 0, 1]);
}

/// Every row of the table.
#[must_use]
pub fn rows() -> Vec<Row> {
    let mut table = Table::default();
    upstream::add(&mut table);
    downstream::add(&mut table);
    link::add(&mut table);
    fragments::add(&mut table);
    headers::add(&mut table);
    tunnels::add(&mut table);
    softwires::add(&mut table);
    tunnel_tricks::add(&mut table);
    lengths::add(&mut table);
    bypass::add(&mut table);
    table.0
}

/// The row of that name.
#[must_use]
pub fn row(name: &str) -> Option<Row> {
    rows().into_iter().find(|row| row.name == name)
}

const UP: Settings = Settings(0);
const DOWN: Settings = Settings::DOWNSTREAM;

const OTHER: Expected = expected(Verdict::Pass, Reason::Other, None);

const fn expected(verdict: Verdict, reason: Reason, group: Option<&'static str>) -> Expected {
    Expected { verdict, reason, group }
}

const fn pass(reason: Reason, group: &'static str) -> Expected {
    expected(Verdict::Pass, reason, Some(group))
}

/// Passed and counted, for no group.
const fn pass_ungrouped(reason: Reason) -> Expected {
    expected(Verdict::Pass, reason, None)
}

const fn drop(reason: Reason, group: &'static str) -> Expected {
    expected(Verdict::Drop, reason, Some(group))
}

const fn drop_ungrouped(reason: Reason) -> Expected {
    expected(Verdict::Drop, reason, None)
}

const fn reject(reason: Reason, group: &'static str) -> Expected {
    expected(Verdict::Reject, reason, Some(group))
}

const fn would_drop(reason: Reason, group: &'static str) -> Expected {
    expected(Verdict::WouldDrop, reason, Some(group))
}

const TOO_SHORT: &str =
    "no longer than an Ethernet header: the kernel's test run wants more for TC";
const TOO_LONG: &str = "longer than the buffer of the kernel's test run";
const OUT_OF_BAND: &str = "the kernel's test run has no VLAN tag beside the frame";

#[derive(Default)]
struct Table(Vec<Row>);

impl Table {
    fn row(
        &mut self,
        name: impl Into<String>,
        description: &'static str,
        frame: Vec<u8>,
        settings: Settings,
        expected: Expected,
    ) -> &mut Row {
        let host_only = match frame.len() {
            0..=14 => Some(TOO_SHORT),
            3000.. => Some(TOO_LONG),
            _ => None,
        };
        let row = Row {
            name: name.into(),
            description,
            frame,
            settings,
            tags_out_of_band: 0,
            expected,
            host_only,
        };
        self.0.push(row);
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    /// The same in both families: `name-v4` and `name-v6`, plain packets on Ethernet.
    fn both(
        &mut self,
        name: &str,
        description: &'static str,
        (from, to): (Host, Host),
        payload: impl Payload + Clone + 'static,
        settings: Settings,
        expected: Expected,
    ) {
        let frame = Ethernet::new().carrying(&Ipv4::new(from.v4, to.v4).carrying(payload.clone()));
        self.row(format!("{name}-v4"), description, frame, settings, expected);
        let frame = Ethernet::new().carrying(&Ipv6::new(from.v6, to.v6).carrying(payload));
        self.row(format!("{name}-v6"), description, frame, settings, expected);
    }
}
