//! The downstream rule: what comes from port 25 comes from a relay, or not at all.

use opb_common::{outcome::Reason, settings::Settings};

use super::{
    DOWN, OTHER, Table, UP, drop,
    hosts::{
        ANY, DYNAMIC, EXEMPT, EXEMPT_ALONE, EXEMPT_WIDE, FILTERED_AGAIN, ISP, MONITORED, MULTI,
        NESTED, OUTSIDE, PARTNER, REJECTING, SHARED, WHOLESALE,
    },
    pass, pass_ungrouped, would_drop,
};
use crate::frames::{
    Ethernet, Icmp, Ipv4, Ipv6, Tcp, Udp,
    flags::{ACK, FIN, PSH, RST, SYN},
};

pub(super) fn add(table: &mut Table) {
    groups(table);
    every_packet(table);
    ports(table);
    own_mail_server(table);
    routes(table);
}

fn groups(table: &mut Table) {
    let denied = |group| drop(Reason::Policy, group);
    let relay = |group| pass(Reason::Relay, group);
    let off = |group| pass(Reason::NotFiltered, group);
    for (name, description, from, to, expected) in [
        ("spoofed", "the answer to a spoofed SYN", OUTSIDE, DYNAMIC, denied("dynamic")),
        ("relay", "a relay's answer", ISP, DYNAMIC, relay("dynamic")),
        ("relay-shared", "a relay in two sets", SHARED, DYNAMIC, relay("dynamic")),
        ("relay-foreign", "another group's relay", PARTNER, DYNAMIC, denied("dynamic")),
        ("relay-wholesale", "the own group's relay", PARTNER, WHOLESALE, relay("wholesale")),
        (
            "monitor",
            "downstream: monitor",
            OUTSIDE,
            MONITORED,
            would_drop(Reason::Policy, "monitored"),
        ),
        ("monitor-relay", "downstream: monitor", ISP, MONITORED, relay("monitored")),
        (
            "reject",
            "downstream: drop beside action: reject",
            OUTSIDE,
            REJECTING,
            denied("rejecting"),
        ),
        ("off", "downstream is off unless asked for", OUTSIDE, ANY, off("any")),
        ("off-ports", "downstream is off unless asked for", OUTSIDE, MULTI, off("multi")),
        ("off-nested", "the inner group's setting counts", OUTSIDE, NESTED, off("multi")),
        ("unknown", "to no group", ISP, OUTSIDE, pass_ungrouped(Reason::Unknown)),
        ("exempt", "to an exempt address", OUTSIDE, EXEMPT, pass(Reason::Exempt, "dynamic")),
        (
            "exempt-wide",
            "to an exempt prefix",
            OUTSIDE,
            EXEMPT_WIDE,
            pass(Reason::Exempt, "dynamic"),
        ),
        (
            "exempt-alone",
            "exempt, in no group",
            OUTSIDE,
            EXEMPT_ALONE,
            pass_ungrouped(Reason::Exempt),
        ),
        ("filtered-again", "inside an exemption", OUTSIDE, FILTERED_AGAIN, denied("dynamic")),
        ("between", "from one subscriber to another", MULTI, DYNAMIC, denied("dynamic")),
    ] {
        let name = format!("down-{name}");
        table.both(&name, description, (from, to), Tcp::syn_ack_from(25), DOWN, expected);
    }
    table.both(
        "down-unknown-drop",
        "unknown-source is about sources, which are not looked at downstream",
        (ISP, OUTSIDE),
        Tcp::syn_ack_from(25),
        DOWN.with(Settings::UNKNOWN_DROP),
        pass_ungrouped(Reason::Unknown),
    );
}

/// The flags do not matter: a spoofed connection is all of its packets.
fn every_packet(table: &mut Table) {
    for (name, flags) in [
        ("syn", SYN),
        ("ack", ACK),
        ("data", ACK | PSH),
        ("fin", FIN | ACK),
        ("rst", RST),
        ("null", 0),
    ] {
        table.both(
            &format!("down-{name}"),
            "every TCP packet from port 25 is judged",
            (OUTSIDE, DYNAMIC),
            Tcp::new(25, 49152, flags),
            DOWN,
            drop(Reason::Policy, "dynamic"),
        );
    }
    table.both(
        "down-relay-data",
        "every TCP packet of a relay passes",
        (ISP, DYNAMIC),
        Tcp::new(25, 49152, ACK | PSH).data(b"220 mail.isp.example ESMTP\r\n"),
        DOWN,
        pass(Reason::Relay, "dynamic"),
    );
}

fn ports(table: &mut Table) {
    for port in [24, 26, 80, 465, 587, 6400] {
        table.both(
            &format!("down-port-{port}"),
            "a source port that no group filters",
            (OUTSIDE, DYNAMIC),
            Tcp::syn_ack_from(port),
            DOWN,
            OTHER,
        );
    }
    table.both(
        "down-port-2525",
        "a port of groups whose downstream is off",
        (OUTSIDE, MULTI),
        Tcp::syn_ack_from(2525),
        DOWN,
        OTHER,
    );
    table.both(
        "down-both-ports-25",
        "from port 25 to port 25",
        (OUTSIDE, DYNAMIC),
        Tcp::new(25, 25, ACK),
        DOWN,
        drop(Reason::Policy, "dynamic"),
    );
    table.both("down-udp", "UDP", (OUTSIDE, DYNAMIC), Udp::new(25, 25, b"x"), DOWN, OTHER);
    table.both("down-icmp", "ping", (OUTSIDE, DYNAMIC), Icmp::V4, DOWN, OTHER);
}

/// Mail *to* a subscriber's own server is touched by neither rule.
fn own_mail_server(table: &mut Table) {
    for (name, flags) in [("syn", SYN), ("ack", ACK), ("data", ACK | PSH), ("fin", FIN | ACK)] {
        table.both(
            &format!("own-server-in-{name}"),
            "mail to a subscriber's own server, on its way in",
            (OUTSIDE, DYNAMIC),
            Tcp::new(49152, 25, flags),
            DOWN,
            OTHER,
        );
    }
    for (name, flags) in [("syn-ack", SYN | ACK), ("ack", ACK), ("data", ACK | PSH), ("rst", RST)] {
        table.both(
            &format!("own-server-out-{name}"),
            "what a subscriber's own server answers, on its way out",
            (DYNAMIC, OUTSIDE),
            Tcp::new(25, 49152, flags),
            UP,
            OTHER,
        );
    }
}

/// Whether the destination is final is a question of the upstream rule alone: here the *source* is the relay.
fn routes(table: &mut Table) {
    let relay = pass(Reason::Relay, "dynamic");
    let answer = Tcp::syn_ack_from(25);
    let routed = Ipv4::new(ISP.v4, DYNAMIC.v4).source_route(131, &[DYNAMIC.v4]);
    table.row(
        "down-source-route-v4",
        "a source route in a relay's answer",
        Ethernet::new().carrying(&routed.carrying(answer.clone())),
        DOWN,
        relay,
    );
    let routed = Ipv6::new(ISP.v6, DYNAMIC.v6).routing(4, 1, &[DYNAMIC.v6]);
    table.row(
        "down-routing-header-v6",
        "a routing header in a relay's answer",
        Ethernet::new().carrying(&routed.carrying(answer)),
        DOWN,
        relay,
    );
}
