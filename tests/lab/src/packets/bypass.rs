//! A group with an emergency bypass: what would be denied passes, and nothing else changes.

use opb_common::{outcome::Reason, settings::Settings};

use super::{
    DOWN, Table, UP, drop, drop_ungrouped,
    hosts::{DYNAMIC, ENDPOINT, IN_BYPASS, ISP, OUTSIDE, PRIVATE},
    pass,
};
use crate::frames::{
    Ethernet, Ipv4, Ipv6, Tcp,
    flags::{ACK, SYN},
};

pub(super) fn add(table: &mut Table) {
    let bypass = pass(Reason::Bypass, "bypassed");
    let mut syn = |name, description, ends, tcp, settings, expected| {
        table.both(name, description, ends, tcp, settings, expected);
    };
    let out = (IN_BYPASS, OUTSIDE);
    syn("bypass-syn", "a SYN that would be rejected", out, Tcp::syn_to(25), UP, bypass);
    syn(
        "bypass-downstream",
        "an answer that would be dropped",
        (OUTSIDE, IN_BYPASS),
        Tcp::new(25, 49152, SYN | ACK),
        DOWN,
        bypass,
    );
    syn(
        "bypass-relay",
        "what passes anyway keeps its reason",
        (IN_BYPASS, ISP),
        Tcp::syn_to(25),
        UP,
        pass(Reason::Relay, "bypassed"),
    );
    syn(
        "bypass-not-syn",
        "what passes anyway keeps its reason",
        out,
        Tcp::new(49152, 25, ACK),
        UP,
        pass(Reason::NotSyn, "bypassed"),
    );
    syn(
        "bypass-of-another-group",
        "the bypass of one group is nothing to another",
        (DYNAMIC, OUTSIDE),
        Tcp::syn_to(25),
        UP,
        drop(Reason::Policy, "dynamic"),
    );
    syn(
        "bypass-unknown",
        "the bypass of a group is nothing to packets of no group",
        (OUTSIDE, OUTSIDE),
        Tcp::syn_to(25),
        Settings::UNKNOWN_DROP,
        drop_ungrouped(Reason::Unknown),
    );
    let inner = Ipv4::new(PRIVATE.v4, OUTSIDE.v4).carrying(Tcp::syn_to(25));
    table.row(
        "bypass-softwire",
        "the line of a softwire, by its outer address",
        Ethernet::new().carrying(&Ipv6::new(IN_BYPASS.v6, ENDPOINT.v6).carrying(inner)),
        UP,
        bypass,
    );
}
