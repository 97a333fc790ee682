//! The upstream rule, sentence by sentence, on packets that hide nothing.

use opb_common::{outcome::Reason, settings::Settings};

use super::{
    Host, OTHER, Table, UP, drop, drop_ungrouped,
    hosts::{
        ANY, DYNAMIC, EXEMPT, EXEMPT_ALONE, EXEMPT_WIDE, FILTERED_AGAIN, ISP, MONITORED, MULTI,
        NESTED, OUTSIDE, PARTNER, REJECTING, SHARED, WHOLESALE,
    },
    pass, pass_ungrouped, reject, would_drop,
};
use crate::frames::{
    Icmp, Raw, Tcp, Udp,
    flags::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG},
};

const UNKNOWN_DROP: Settings = Settings::UNKNOWN_DROP;

pub(super) fn add(table: &mut Table) {
    source(table);
    edges(table);
    flags(table);
    relays(table);
    actions(table);
    ports(table);
    other_protocols(table);
}

/// Step 1: the longest prefix over all groups and exemptions together.
fn source(table: &mut Table) {
    let mut syn = |name, description, from, settings, expected| {
        table.both(name, description, (from, OUTSIDE), Tcp::syn_to(25), settings, expected);
    };
    syn("syn", "SYN to port 25 from a group", DYNAMIC, UP, drop(Reason::Policy, "dynamic"));
    syn("unknown", "SYN from no group", OUTSIDE, UP, pass_ungrouped(Reason::Unknown));
    syn(
        "unknown-drop",
        "SYN from no group where unknown sources are dropped",
        OUTSIDE,
        UNKNOWN_DROP,
        drop_ungrouped(Reason::Unknown),
    );
    syn(
        "known-with-unknown-drop",
        "dropping unknown sources changes nothing for known ones",
        MONITORED,
        UNKNOWN_DROP,
        would_drop(Reason::Policy, "monitored"),
    );
    syn("exempt", "one address inside a group", EXEMPT, UP, pass(Reason::Exempt, "dynamic"));
    syn(
        "exempt-with-unknown-drop",
        "an exempt address is not unknown",
        EXEMPT_ALONE,
        UNKNOWN_DROP,
        pass_ungrouped(Reason::Exempt),
    );
    syn("exempt-wide", "a prefix inside a group", EXEMPT_WIDE, UP, pass(Reason::Exempt, "dynamic"));
    syn(
        "filtered-again",
        "a longer prefix of the group inside an exemption",
        FILTERED_AGAIN,
        UP,
        drop(Reason::Policy, "dynamic"),
    );
    syn("exempt-alone", "in no group", EXEMPT_ALONE, UP, pass_ungrouped(Reason::Exempt));
    syn("nested", "a group's prefix inside another's", NESTED, UP, drop(Reason::Policy, "multi"));

    let ack = Tcp::new(49152, 25, ACK);
    table.both(
        "unknown-drop-ack",
        "the source comes before the flags: unknown sources are dropped whatever they send",
        (OUTSIDE, ISP),
        ack.clone(),
        UNKNOWN_DROP,
        drop_ungrouped(Reason::Unknown),
    );
    table.both(
        "exempt-ack",
        "the source comes before the flags: exempt whatever it sends",
        (EXEMPT, OUTSIDE),
        ack,
        UP,
        pass(Reason::Exempt, "dynamic"),
    );
    table.both(
        "exempt-to-relay",
        "the source comes before the destination",
        (EXEMPT, ISP),
        Tcp::syn_to(25),
        UP,
        pass(Reason::Exempt, "dynamic"),
    );
    table.both(
        "unknown-drop-other-port",
        "unknown sources keep every other port",
        (OUTSIDE, ISP),
        Tcp::syn_to(443),
        UNKNOWN_DROP,
        OTHER,
    );
}

/// First and last address of a prefix, and their neighbours.
fn edges(table: &mut Table) {
    let dynamic = drop(Reason::Policy, "dynamic");
    let unknown = pass_ungrouped(Reason::Unknown);
    let v6 = |a, b, last| [0x2001, 0xdb8, a, b, last, last, last, last];
    for (name, from, expected) in [
        ("first", Host::new([203, 0, 113, 0], v6(0x1000, 0, 0)), dynamic),
        ("last", Host::new([203, 0, 113, 255], v6(0x1fff, 0xffff, 0xffff)), dynamic),
        ("before", Host::new([203, 0, 112, 255], v6(0x0fff, 0xffff, 0xffff)), unknown),
        ("after", Host::new([203, 0, 114, 0], v6(0x7000, 0, 0)), unknown),
        ("zero", Host::new([0, 0, 0, 0], [0; 8]), unknown),
        ("ones", Host::new([255; 4], [0xffff; 8]), unknown),
        ("before-exempt", Host::new([203, 0, 113, 76], v6(0x1000, 0x77, 0)), dynamic),
        (
            "after-exempt",
            Host::new([203, 0, 113, 78], [0x2001, 0xdb8, 0x1000, 0x77, 0, 0, 0, 2]),
            dynamic,
        ),
    ] {
        table.both(
            &format!("edge-{name}"),
            "the edges of a prefix",
            (from, OUTSIDE),
            Tcp::syn_to(25),
            UP,
            expected,
        );
    }
}

/// Step 2: SYN set and ACK clear, whatever the other flags are; with `match: any` every packet.
fn flags(table: &mut Table) {
    let denied = drop(Reason::Policy, "dynamic");
    let not_syn = pass(Reason::NotSyn, "dynamic");
    for (name, flags, expected) in [
        ("syn-fin", SYN | FIN, denied),
        ("syn-rst", SYN | RST, denied),
        ("syn-psh-urg", SYN | PSH | URG, denied),
        ("syn-ecn", SYN | ECE | CWR, denied),
        ("all-but-ack", !ACK, denied),
        ("syn-ack", SYN | ACK, not_syn),
        ("syn-ack-fin", SYN | ACK | FIN, not_syn),
        ("ack", ACK, not_syn),
        ("data", ACK | PSH, not_syn),
        ("fin", FIN | ACK, not_syn),
        ("rst", RST, not_syn),
        ("null", 0, not_syn),
        ("all-flags", 0xff, not_syn),
    ] {
        table.both(
            &format!("flags-{name}"),
            "SYN set and ACK clear is a SYN, and nothing else is",
            (DYNAMIC, OUTSIDE),
            Tcp::new(49152, 25, flags),
            UP,
            expected,
        );
        table.both(
            &format!("any-{name}"),
            "match: any judges every TCP packet",
            (ANY, OUTSIDE),
            Tcp::new(49152, 25, flags),
            UP,
            drop(Reason::Policy, "any"),
        );
    }
    table.both(
        "syn-with-data",
        "a SYN with data is a SYN",
        (DYNAMIC, OUTSIDE),
        Tcp::syn_to(25).data(b"EHLO dynamic.example\r\n"),
        UP,
        denied,
    );
    table.both(
        "syn-with-options",
        "a SYN with options, TCP Fast Open among them (RFC 7413)",
        (DYNAMIC, OUTSIDE),
        Tcp::syn_to(25).options(&[2, 4, 5, 180, 1, 3, 3, 7, 34, 10, 1, 2, 3, 4, 5, 6, 7, 8]),
        UP,
        denied,
    );
}

/// Step 3: a relay set that this group lists.
fn relays(table: &mut Table) {
    let neighbour = |v4, v6: [u16; 8]| Host::new([198, 51, 100, v4], v6);
    let below = neighbour(24, [0x2001, 0xdb8, 0x24, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff]);
    let above = neighbour(26, [0x2001, 0xdb8, 0x25, 1, 0, 0, 0, 0]);
    let last = neighbour(143, [0x2001, 0xdb8, 0x25, 0, 0xffff, 0xffff, 0xffff, 0xffff]);
    let denied = |group| drop(Reason::Policy, group);
    let relay = |group| pass(Reason::Relay, group);
    for (name, description, from, to, expected) in [
        ("relay", "a relay of the group", DYNAMIC, ISP, relay("dynamic")),
        ("relay-last", "the last address of a relay prefix", DYNAMIC, last, relay("dynamic")),
        ("relay-below", "the address before a relay", DYNAMIC, below, denied("dynamic")),
        ("relay-above", "the address after a relay", DYNAMIC, above, denied("dynamic")),
        ("relay-foreign", "a relay of another group", DYNAMIC, PARTNER, denied("dynamic")),
        ("relay-wholesale", "a relay of the own group", WHOLESALE, PARTNER, relay("wholesale")),
        ("relay-not-wholesale", "the carrier's own relay", WHOLESALE, ISP, denied("wholesale")),
        ("relay-shared-wide", "in two sets, by the wider", DYNAMIC, SHARED, relay("dynamic")),
        (
            "relay-shared-narrow",
            "in two sets, by the longer",
            WHOLESALE,
            SHARED,
            relay("wholesale"),
        ),
        ("relay-monitored", "a relay is one for monitors too", MONITORED, ISP, relay("monitored")),
        ("relay-nested", "the inner group's relays count", NESTED, ISP, relay("multi")),
        (
            "relay-none",
            "a group that lists no relays",
            REJECTING,
            ISP,
            reject(Reason::Policy, "rejecting"),
        ),
        ("neighbour", "another subscriber's mail server", DYNAMIC, MULTI, denied("dynamic")),
        (
            "from-relay",
            "the relay itself is in no group",
            ISP,
            OUTSIDE,
            pass_ungrouped(Reason::Unknown),
        ),
    ] {
        table.both(name, description, (from, to), Tcp::syn_to(25), UP, expected);
    }
    table.both(
        "reject-silent",
        "where no answer can be sent, a rejection is a drop",
        (REJECTING, OUTSIDE),
        Tcp::syn_to(25),
        UP.with(Settings::NO_RESET),
        drop(Reason::Policy, "rejecting"),
    );
    table.both(
        "relay-any-ack",
        "match: any has relays too",
        (ANY, ISP),
        Tcp::new(49152, 25, ACK),
        UP,
        relay("any"),
    );
    table.both(
        "relay-ack",
        "the flags come before the destination",
        (DYNAMIC, ISP),
        Tcp::new(49152, 25, ACK),
        UP,
        pass(Reason::NotSyn, "dynamic"),
    );
}

/// Step 4: drop, reject or monitor.
fn actions(table: &mut Table) {
    for (name, from, expected) in [
        ("monitor", MONITORED, would_drop(Reason::Policy, "monitored")),
        ("reject", REJECTING, reject(Reason::Policy, "rejecting")),
        ("drop", WHOLESALE, drop(Reason::Policy, "wholesale")),
    ] {
        table.both(name, "the group's action", (from, OUTSIDE), Tcp::syn_to(25), UP, expected);
    }
    for (name, from, group) in
        [("monitor-ack", MONITORED, "monitored"), ("reject-ack", REJECTING, "rejecting")]
    {
        table.both(
            name,
            "an action is for SYNs, too",
            (from, OUTSIDE),
            Tcp::new(49152, 25, ACK),
            UP,
            pass(Reason::NotSyn, group),
        );
    }
}

/// The group's ports, and no others.
fn ports(table: &mut Table) {
    // 6400 is 25 in the wrong byte order; 281 has its lower byte.
    for port in [0, 24, 26, 80, 281, 443, 465, 587, 2524, 6400, 65535] {
        table.both(
            &format!("port-{port}"),
            "a port that no group filters",
            (DYNAMIC, OUTSIDE),
            Tcp::syn_to(port),
            UP,
            OTHER,
        );
    }
    for (name, from, port, flags, expected) in [
        ("25", MULTI, 25, SYN, drop(Reason::Policy, "multi")),
        ("2525", MULTI, 2525, SYN, drop(Reason::Policy, "multi")),
        ("2525-ack", MULTI, 2525, ACK, pass(Reason::NotSyn, "multi")),
        ("2525-nested", NESTED, 2525, SYN, drop(Reason::Policy, "multi")),
        ("2525-dynamic", DYNAMIC, 2525, SYN, pass(Reason::NotFiltered, "dynamic")),
        ("2525-any", ANY, 2525, ACK, pass(Reason::NotFiltered, "any")),
        ("2525-monitored", MONITORED, 2525, SYN, pass(Reason::NotFiltered, "monitored")),
        ("2525-unknown", OUTSIDE, 2525, SYN, pass_ungrouped(Reason::Unknown)),
        ("2525-exempt", EXEMPT, 2525, SYN, pass(Reason::Exempt, "dynamic")),
    ] {
        table.both(
            &format!("ports-{name}"),
            "ports belong to groups",
            (from, OUTSIDE),
            Tcp::new(49152, port, flags),
            UP,
            expected,
        );
    }
    table.both(
        "ports-2525-relay",
        "relays hold for every port of the group",
        (MULTI, ISP),
        Tcp::syn_to(2525),
        UP,
        pass(Reason::Relay, "multi"),
    );
    table.both(
        "source-port-25",
        "the answer of a subscriber's own mail server: the source port decides nothing upstream",
        (DYNAMIC, OUTSIDE),
        Tcp::syn_ack_from(25),
        UP,
        OTHER,
    );
    table.both(
        "source-port-25-data",
        "what a subscriber's own mail server says next",
        (ANY, OUTSIDE),
        Tcp::new(25, 49152, ACK | PSH).data(b"220 home.example ESMTP\r\n"),
        UP,
        OTHER,
    );
    table.both(
        "both-ports-25",
        "a SYN to port 25 from port 25",
        (DYNAMIC, OUTSIDE),
        Tcp::new(25, 25, SYN),
        UP,
        drop(Reason::Policy, "dynamic"),
    );
}

fn other_protocols(table: &mut Table) {
    let mut other = |name, description, payload: Raw| {
        table.both(name, description, (ANY, OUTSIDE), payload, UP, OTHER);
    };
    // Bytes that would be a SYN to port 25, were it TCP.
    let syn = [192, 0, 0, 25, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xfa, 0xf0, 0, 0, 0, 0].to_vec();
    other("sctp", "SCTP to port 25", Raw(132, syn.clone()));
    other("dccp", "DCCP to port 25", Raw(33, syn.clone()));
    other("udp-lite", "UDP-Lite to port 25", Raw(136, syn.clone()));
    other("gre", "a GRE tunnel", Raw(47, syn.clone()));
    other("esp", "encrypted: nobody can tell", Raw(50, syn.clone()));
    other("ospf", "a protocol without ports", Raw(89, syn.clone()));
    other("reserved", "a protocol that does not exist", Raw(255, syn));
    table.both("udp", "UDP to port 25", (ANY, OUTSIDE), Udp::new(25, 25, b"mail"), UP, OTHER);
    table.both("udp-empty", "UDP without data", (ANY, OUTSIDE), Udp::new(25, 25, b""), UP, OTHER);
    table.both("icmp", "ping", (ANY, OUTSIDE), Icmp::V4, UP, OTHER);
    table.both("icmpv6", "ping", (ANY, OUTSIDE), Icmp::V6, UP, OTHER);
}
