//! IPv6 extension headers and IPv4 options: what stands between the addresses and the TCP header, and what makes
//! the destination address not final.

use std::net::{Ipv4Addr, Ipv6Addr};

use opb_common::{outcome::Reason, settings::Settings};

use super::{
    Expected, OTHER, Table, UP, drop, drop_ungrouped,
    hosts::{ANY, DYNAMIC, EXEMPT, ISP, MONITORED, OUTSIDE, REJECTING},
    pass, pass_ungrouped, would_drop,
};
use crate::frames::{
    Ethernet, Icmp, Ipv4, Ipv6, Raw, Tcp, Udp,
    flags::{ACK, SYN},
};

pub(super) fn add(table: &mut Table) {
    each_extension(table);
    number_of_extensions(table);
    length_of_extensions(table);
    cut_off(table);
    routing_headers(table);
    other_headers(table);
    options(table);
    source_routes(table);
    decoys(table);
}

fn from_dynamic_v6(to: Ipv6Addr) -> Ipv6 {
    Ipv6::new(DYNAMIC.v6, to)
}

fn from_dynamic_v4(to: Ipv4Addr) -> Ipv4 {
    Ipv4::new(DYNAMIC.v4, to)
}

fn v4(table: &mut Table, name: &str, description: &'static str, packet: Ipv4, expected: Expected) {
    let frame = Ethernet::new().carrying(&packet);
    table.row(format!("{name}-v4"), description, frame, UP, expected);
}

fn v6(table: &mut Table, name: &str, description: &'static str, packet: Ipv6, expected: Expected) {
    let frame = Ethernet::new().carrying(&packet);
    table.row(format!("{name}-v6"), description, frame, UP, expected);
}

/// An extension header put into a packet.
type Extend = fn(Ipv6) -> Ipv6;

fn each_extension(table: &mut Table) {
    let extensions: [(&str, Extend); 9] = [
        ("hop-by-hop", |packet| packet.hop_by_hop(1)),
        ("options", |packet| packet.destination_options(1)),
        ("routing", |packet| packet.routing(0, 0, &[OUTSIDE.v6])),
        ("segments", |packet| packet.routing(4, 0, &[OUTSIDE.v6])),
        ("authentication", |packet| packet.authentication(1)),
        ("authentication-long", |packet| packet.authentication(6)),
        ("atomic", |packet| packet.fragment(0, false)),
        ("hop-by-hop-late", |packet| packet.destination_options(1).hop_by_hop(1)),
        ("all", |packet| {
            let packet = packet.hop_by_hop(1).destination_options(2).routing(0, 0, &[OUTSIDE.v6]);
            packet.fragment(0, false).authentication(4).destination_options(3)
        }),
    ];
    for (name, extend) in extensions {
        let description = "extension headers are walked";
        for (kind, to, tcp, expected) in [
            ("syn", OUTSIDE, Tcp::syn_to(25), drop(Reason::Policy, "dynamic")),
            ("ack", OUTSIDE, Tcp::new(49152, 25, ACK), pass(Reason::NotSyn, "dynamic")),
            ("relay", ISP, Tcp::syn_to(25), pass(Reason::Relay, "dynamic")),
            ("port-443", OUTSIDE, Tcp::syn_to(443), OTHER),
        ] {
            let packet = extend(from_dynamic_v6(to.v6)).carrying(tcp);
            v6(table, &format!("extension-{name}-{kind}"), description, packet, expected);
        }
        let packet = extend(from_dynamic_v6(OUTSIDE.v6)).carrying(Udp::new(25, 25, b"mail"));
        v6(table, &format!("extension-{name}-udp"), description, packet, OTHER);
    }
}

fn number_of_extensions(table: &mut Table) {
    let extended =
        |packet, count| (0..count).fold(packet, |packet: Ipv6, _| packet.destination_options(1));
    let headers = drop(Reason::Headers, "dynamic");
    for (count, expected) in [
        (2, drop(Reason::Policy, "dynamic")),
        (7, drop(Reason::Policy, "dynamic")),
        (8, drop(Reason::Policy, "dynamic")),
        (9, headers),
        (20, headers),
    ] {
        let packet = extended(from_dynamic_v6(OUTSIDE.v6), count).carrying(Tcp::syn_to(25));
        let description = "8 extension headers are walked; more get the group's action";
        v6(table, &format!("extensions-{count}"), description, packet, expected);
    }
    let description = "a chain that is too long gets the group's action";
    for (name, from, to, expected) in [
        ("relay", DYNAMIC, ISP, headers),
        ("monitored", MONITORED, OUTSIDE, would_drop(Reason::Headers, "monitored")),
        ("rejecting", REJECTING, OUTSIDE, drop(Reason::Headers, "rejecting")),
        ("any", ANY, OUTSIDE, drop(Reason::Headers, "any")),
        ("exempt", EXEMPT, OUTSIDE, pass(Reason::Exempt, "dynamic")),
        ("unknown", OUTSIDE, ISP, pass_ungrouped(Reason::Headers)),
    ] {
        let packet = extended(Ipv6::new(from.v6, to.v6), 9).carrying(Tcp::new(49152, 25, ACK));
        v6(table, &format!("extensions-9-{name}"), description, packet, expected);
    }
    let nine = |payload: Raw| extended(from_dynamic_v6(OUTSIDE.v6), 9).carrying(payload);
    let description = "behind too many headers nobody sees that it is UDP";
    v6(table, "extensions-9-udp", description, nine(Raw(17, vec![0; 20])), headers);
    let eight = extended(from_dynamic_v6(OUTSIDE.v6), 8).carrying(Udp::new(25, 25, b"mail"));
    v6(table, "extensions-8-udp", "UDP behind 8 headers", eight, OTHER);
    let frame = Ethernet::new().carrying(&nine(Raw(6, vec![0; 20])));
    let settings = Settings::UNKNOWN_DROP;
    table.row("extensions-9-known-v6", description, frame, settings, headers);
    let unknown = extended(Ipv6::new(OUTSIDE.v6, ISP.v6), 9).carrying(Tcp::syn_to(25));
    table.row(
        "extensions-9-unknown-drop-v6",
        "unknown sources are dropped whatever they hide",
        Ethernet::new().carrying(&unknown),
        settings,
        drop_ungrouped(Reason::Unknown),
    );
}

/// Headers reach up to a fixed offset in the frame; a chain beyond it is too long.
fn length_of_extensions(table: &mut Table) {
    let denied = drop(Reason::Policy, "dynamic");
    let headers = drop(Reason::Headers, "dynamic");
    // Ethernet and IPv6 header take 54 bytes; a header may start at 2,047 and no later.
    for (units, expected) in [(31, denied), (249, denied), (250, headers), (256, headers)] {
        let packet = from_dynamic_v6(OUTSIDE.v6).destination_options(units);
        v6(
            table,
            &format!("extension-units-{units}"),
            "one long options header",
            packet.carrying(Tcp::syn_to(25)),
            expected,
        );
    }
    let packet = from_dynamic_v6(OUTSIDE.v6).destination_options(125).destination_options(124);
    let packet = packet.carrying(Tcp::syn_to(25));
    v6(table, "extension-units-two", "two long ones, just in reach", packet, denied);
    let packet = from_dynamic_v6(OUTSIDE.v6).destination_options(250).carrying(Tcp::syn_to(443));
    let description = "out of reach nobody sees that it is another port";
    v6(table, "extension-units-443", description, packet, headers);
}

/// A chain that the packet's end cuts off, without any fragment.
fn cut_off(table: &mut Table) {
    let headers = drop(Reason::Headers, "dynamic");
    let packet = || from_dynamic_v6(OUTSIDE.v6).destination_options(2).hop_by_hop(1);
    for bytes in [0, 4, 7, 16, 20] {
        v6(
            table,
            &format!("chain-cut-{bytes}"),
            "a chain that ends with the packet",
            packet().carrying(Tcp::syn_to(25)).keep(..bytes),
            headers,
        );
    }
    v6(
        table,
        "chain-cut-udp",
        "a chain that ends with the packet, but says UDP before",
        from_dynamic_v6(OUTSIDE.v6).destination_options(2).carrying(Udp::new(1, 25, b"")).keep(..8),
        OTHER,
    );
    let relay = from_dynamic_v6(ISP.v6).destination_options(2).carrying(Tcp::syn_to(25)).keep(..4);
    v6(table, "chain-cut-relay", "a relay is no excuse", relay, headers);
    let unknown = Ipv6::new(OUTSIDE.v6, ISP.v6).destination_options(2).carrying(Tcp::syn_to(25));
    let counted = pass_ungrouped(Reason::Headers);
    v6(table, "chain-cut-unknown", "from no group", unknown.keep(..4), counted);
}

fn routing_headers(table: &mut Table) {
    let route = drop(Reason::SourceRoute, "dynamic");
    let via = |hop: Ipv6Addr, kind, left| {
        from_dynamic_v6(hop).routing(kind, left, &[OUTSIDE.v6]).carrying(Tcp::syn_to(25))
    };
    for kind in [0, 2, 3, 4, 253] {
        v6(
            table,
            &format!("routing-{kind}-relay"),
            "with segments left the relay is only a hop",
            via(ISP.v6, kind, 1),
            route,
        );
    }
    v6(table, "routing-left-255", "many segments left", via(ISP.v6, 0, 255), route);
    let outside = via(OUTSIDE.v6, 4, 1);
    let denied = drop(Reason::Policy, "dynamic");
    v6(table, "routing-outside", "no relay at all", outside, denied);
    let two = from_dynamic_v6(ISP.v6).routing(0, 0, &[]).routing(4, 1, &[OUTSIDE.v6]);
    let description = "segments left in the second routing header";
    v6(table, "routing-second", description, two.carrying(Tcp::syn_to(25)), route);
    let ack = from_dynamic_v6(ISP.v6).routing(4, 1, &[OUTSIDE.v6]);
    let not_syn = pass(Reason::NotSyn, "dynamic");
    let ack = ack.carrying(Tcp::new(49152, 25, ACK));
    v6(table, "routing-ack", "the flags come first", ack, not_syn);
    let exempt = Ipv6::new(EXEMPT.v6, ISP.v6).routing(4, 1, &[OUTSIDE.v6]);
    let exempt = exempt.carrying(Tcp::syn_to(25));
    v6(table, "routing-exempt", "the source comes first", exempt, pass(Reason::Exempt, "dynamic"));
    let monitored = Ipv6::new(MONITORED.v6, ISP.v6).routing(4, 1, &[OUTSIDE.v6]);
    let monitored = monitored.carrying(Tcp::syn_to(25));
    let would = would_drop(Reason::SourceRoute, "monitored");
    v6(table, "routing-monitored", "the group's action", monitored, would);
    let unknown = Ipv6::new(OUTSIDE.v6, ISP.v6).routing(4, 1, &[OUTSIDE.v6]);
    let unknown = unknown.carrying(Tcp::syn_to(25));
    v6(table, "routing-unknown", "from no group", unknown, pass_ungrouped(Reason::Unknown));
}

/// Headers that no TCP can follow, and those of which nobody knows.
fn other_headers(table: &mut Table) {
    let behind = |number, bytes: Vec<u8>| {
        from_dynamic_v6(OUTSIDE.v6).destination_options(1).carrying(Raw(number, bytes))
    };
    for (name, number) in
        [("esp", 50), ("mobility", 135), ("none", 59), ("hip", 139), ("test", 253)]
    {
        let description = "a header that is not walked";
        v6(table, &format!("next-{name}"), description, behind(number, vec![0; 24]), OTHER);
    }
    let report = from_dynamic_v6(OUTSIDE.v6).hop_by_hop(1).carrying(Icmp::V6);
    v6(table, "next-icmpv6", "a multicast listener report looks like this", report, OTHER);
    let malformed = drop(Reason::Malformed, "dynamic");
    v6(table, "next-tcp-empty", "TCP, and nothing behind", behind(6, Vec::new()), malformed);
    v6(table, "next-tcp-19", "TCP, one byte short", behind(6, vec![0; 19]), malformed);
}

fn options(table: &mut Table) {
    let denied = drop(Reason::Policy, "dynamic");
    let relay = pass(Reason::Relay, "dynamic");
    for (name, options) in [
        ("nop", &[1, 1, 1, 0][..]),
        ("end", &[0, 0, 0, 0]),
        ("router-alert", &[148, 4, 0, 0]),
        ("record-route", &[7, 7, 4, 0, 0, 0, 0]),
        ("timestamp", &[68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("security", &[130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("longest", &[1; 40]),
        ("experiment", &[94, 8, 131, 7, 4, 1, 2, 3]),
        ("past-the-end", &[7, 200, 4, 0]),
    ] {
        let description = "options that route nothing";
        let packet = |to| from_dynamic_v4(to).options(options).carrying(Tcp::syn_to(25));
        v4(table, &format!("option-{name}"), description, packet(OUTSIDE.v4), denied);
        v4(table, &format!("option-{name}-relay"), description, packet(ISP.v4), relay);
        let udp = from_dynamic_v4(OUTSIDE.v4).options(options).carrying(Udp::new(25, 25, b""));
        v4(table, &format!("option-{name}-udp"), description, udp, OTHER);
    }
}

/// Loose (131) and strict (137) source routes.
fn source_routes(table: &mut Table) {
    let route = drop(Reason::SourceRoute, "dynamic");
    let hops = [OUTSIDE.v4];
    for (name, kind) in [("loose", 131), ("strict", 137)] {
        let description = "with a source route the relay is only a hop";
        let packet = |to| from_dynamic_v4(to).source_route(kind, &hops);
        let syn = packet(ISP.v4).carrying(Tcp::syn_to(25));
        v4(table, &format!("route-{name}"), description, syn, route);
        let ack = packet(ISP.v4).carrying(Tcp::new(49152, 25, ACK));
        let not_syn = pass(Reason::NotSyn, "dynamic");
        v4(table, &format!("route-{name}-ack"), "the flags come first", ack, not_syn);
        let outside = packet(OUTSIDE.v4).carrying(Tcp::syn_to(25));
        let denied = drop(Reason::Policy, "dynamic");
        v4(table, &format!("route-{name}-outside"), "no relay at all", outside, denied);
    }
    let relayed =
        |options: &[u8]| from_dynamic_v4(ISP.v4).options(options).carrying(Tcp::syn_to(25));
    let nops = relayed(&[1, 1, 1, 1, 1, 131, 7, 4, 192, 0, 2, 25]);
    v4(table, "route-behind-nops", "behind other options", nops, route);
    let record = relayed(&[7, 7, 4, 0, 0, 0, 0, 137, 7, 4, 192, 0, 2, 25]);
    v4(table, "route-behind-record", "behind a longer option", record, route);
    let last = relayed(&[[1; 37].as_slice(), &[131, 3, 4]].concat());
    v4(table, "route-last", "in the last bytes of the longest header", last, route);
    let bare = relayed(&[1, 1, 1, 131]);
    v4(table, "route-one-byte", "its number is the last byte of the header", bare, route);
    let ended = relayed(&[0, 131, 7, 4, 192, 0, 2, 25]);
    let relay = pass(Reason::Relay, "dynamic");
    v4(table, "route-behind-end", "behind the end of the list there are no options", ended, relay);
    let zero = relayed(&[7, 0, 131, 7, 4, 192, 0, 2, 25]);
    let description = "an option list that cannot be read is trusted with nothing";
    v4(table, "route-unreadable", description, zero, route);
    let one = relayed(&[7, 1, 1, 0]);
    v4(table, "route-length-1", "an option that ends within its own header", one, route);
    let monitored = Ipv4::new(MONITORED.v4, ISP.v4).source_route(131, &hops);
    let would = would_drop(Reason::SourceRoute, "monitored");
    let monitored = monitored.carrying(Tcp::syn_to(25));
    v4(table, "route-monitored", "the group's action", monitored, would);
    let any = Ipv4::new(ANY.v4, ISP.v4).source_route(131, &hops).carrying(Tcp::new(1, 25, ACK));
    v4(table, "route-any", "match: any", any, drop(Reason::SourceRoute, "any"));
    let exempt = Ipv4::new(EXEMPT.v4, ISP.v4).source_route(131, &hops).carrying(Tcp::syn_to(25));
    v4(table, "route-exempt", "the source comes first", exempt, pass(Reason::Exempt, "dynamic"));
}

/// Options that look like the TCP header which a parser without header lengths would read.
fn decoys(table: &mut Table) {
    let decoy = |port: u16| {
        let [high, low] = port.to_be_bytes();
        [192, 0, high, low, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 0xfa, 0xf0, 0, 0, 0, 0]
    };
    let denied = drop(Reason::Policy, "dynamic");
    let packet = from_dynamic_v4(OUTSIDE.v4).options(&decoy(443)).carrying(Tcp::syn_to(25));
    v4(table, "decoy-443", "options that look like a SYN to port 443", packet, denied);
    let packet = from_dynamic_v4(OUTSIDE.v4).options(&decoy(25)).carrying(Tcp::syn_to(443));
    v4(table, "decoy-25", "options that look like a SYN to port 25", packet, OTHER);
    let options = |port| [[0, 2, 1, 20].as_slice(), &decoy(port)].concat();
    let packet = from_dynamic_v6(OUTSIDE.v6).extension(60, options(443)).carrying(Tcp::syn_to(25));
    v6(table, "decoy-443", "options that look like a SYN to port 443", packet, denied);
    let packet = from_dynamic_v6(OUTSIDE.v6).extension(60, options(25)).carrying(Tcp::syn_to(443));
    v6(table, "decoy-25", "options that look like a SYN to port 25", packet, OTHER);
}
