//! Unusual tunnels: outer headers with extension headers, routes and fragments of their own, GRE as
//! Linux reads it, and addresses with two meanings.

use std::net::{Ipv4Addr, Ipv6Addr};

use opb_common::{outcome::Reason, settings::Settings};

use super::{
    DOWN, Expected, Host, OTHER, Table, UP, drop, drop_ungrouped,
    hosts::{
        DYNAMIC, ENDPOINT, ENDPOINT_IN_GROUP, ENDPOINT_IN_RELAYS, EXEMPT, ISP, MONITORED, OUTSIDE,
        PRIVATE, REJECTING,
    },
    pass, pass_ungrouped, would_drop,
};
use crate::frames::{Ethernet, Gre, Ipv4, Ipv6, Packet, Raw, Tcp, flags::ACK};

const SUBSCRIBER: Settings = Settings::SUBSCRIBER;

pub(super) fn add(table: &mut Table) {
    outer_headers(table);
    not_final_outside(table);
    fragments(table);
    gre(table);
    wccp(table);
    deeper(table);
    six_to_four(table);
    endpoints_elsewhere(table);
}

fn syn4(from: Host, to: Host) -> Ipv4 {
    Ipv4::new(from.v4, to.v4).carrying(Tcp::syn_to(25))
}

fn syn6(from: Host, to: Host) -> Ipv6 {
    Ipv6::new(from.v6, to.v6).carrying(Tcp::syn_to(25))
}

/// A segment of a large mail, as IPv4 and IPv6.
fn large4(from: Host, to: Host) -> Ipv4 {
    Ipv4::new(from.v4, to.v4).carrying(Tcp::new(49152, 25, ACK).data(&[0x25; 1440]))
}

fn large6(from: Host, to: Host) -> Ipv6 {
    Ipv6::new(from.v6, to.v6).carrying(Tcp::new(49152, 25, ACK).data(&[0x25; 1420]))
}

fn row<P: Packet>(
    table: &mut Table,
    name: &str,
    description: &'static str,
    packet: &P,
    settings: Settings,
    expected: Expected,
) {
    table.row(name, description, Ethernet::new().carrying(packet), settings, expected);
}

/// Extension headers, options and lengths of the outer packet on its way into a softwire.
fn outer_headers(table: &mut Table) {
    let denied = drop(Reason::Policy, "dynamic");
    let relay = pass(Reason::Relay, "dynamic");
    let to_endpoint = || Ipv6::new(DYNAMIC.v6, ENDPOINT.v6);
    // Linux adds it without `encaplimit none` (RFC 2473, section 4.1.1): option 4, and padding.
    let limit = vec![0, 0, 4, 1, 4, 1, 1, 0];
    let limited = || to_endpoint().extension(60, limit.clone());
    let d = "a tunnel encapsulation limit before the inner packet";
    row(table, "line-limit", d, &limited().carrying(syn4(PRIVATE, OUTSIDE)), UP, denied);
    row(table, "line-limit-relay", d, &limited().carrying(syn4(PRIVATE, ISP)), UP, relay);
    let d = "a fragment of it";
    let first = limited().fragment(0, true).carrying(large4(PRIVATE, ISP)).keep(..8 + 8 + 1400);
    row(table, "line-limit-first", d, &first, UP, pass(Reason::NotSyn, "dynamic"));
    let first = to_endpoint().fragment(0, true).extension(60, limit.clone());
    let first = first.carrying(large4(PRIVATE, ISP)).keep(..8 + 8 + 1400);
    row(table, "line-first-limit", d, &first, UP, pass(Reason::NotSyn, "dynamic"));

    let d = "eight headers outside and eight inside";
    let chain = |packet| (0..8).fold(packet, |packet: Ipv6, _| packet.destination_options(1));
    let inner = chain(Ipv6::new(PRIVATE.v6, OUTSIDE.v6)).carrying(Tcp::syn_to(25));
    row(table, "line-chain-8-8", d, &chain(to_endpoint()).carrying(inner), UP, denied);
    let d = "an outer chain beyond the last offset that is read";
    let long = (0..5).fold(to_endpoint(), |packet, _| packet.destination_options(64));
    let headers = drop(Reason::Headers, "dynamic");
    row(table, "line-chain-long", d, &long.carrying(syn4(PRIVATE, OUTSIDE)), UP, headers);
    let d = "inner addresses within that offset, and TCP beyond it";
    let near = (0..4).fold(to_endpoint(), |packet, _| packet.destination_options(62));
    let malformed = drop(Reason::Malformed, "dynamic");
    row(table, "line-chain-near", d, &near.carrying(syn4(PRIVATE, OUTSIDE)), UP, malformed);

    let to_endpoint = || Ipv4::new(DYNAMIC.v4, ENDPOINT.v4);
    let d = "40 bytes of options outside";
    let packet = to_endpoint().options(&[1; 40]).carrying(syn6(PRIVATE, OUTSIDE));
    row(table, "line-options-40", d, &packet, UP, denied);
    let packet = to_endpoint().options(&[1; 40]).carrying(syn6(PRIVATE, ISP));
    row(table, "line-options-40-relay", d, &packet, UP, relay);
    let d = "an outer header longer than the packet";
    let packet = to_endpoint().carrying(syn6(PRIVATE, OUTSIDE)).ihl(15).total_length(40);
    row(table, "line-header-lies", d, &packet, UP, malformed);

    let d = "as deep as link headers can be";
    let outer = Ipv6::new(DYNAMIC.v6, ENDPOINT.v6).carrying(syn4(PRIVATE, OUTSIDE));
    let deepest = Ethernet::new().tags(8).pppoe();
    table.row("line-deepest", d, deepest.carrying(&outer), UP, denied);
    let d = "no length outside, and no jumbo payload either";
    let outer = Ipv6::new(DYNAMIC.v6, ENDPOINT.v6).carrying(syn4(PRIVATE, OUTSIDE));
    row(table, "line-length-0", d, &outer.payload_length(0), UP, malformed);
    let d = "no length inside";
    let inner = syn4(PRIVATE, OUTSIDE).total_length(0);
    let outer = Ipv6::new(DYNAMIC.v6, ENDPOINT.v6).carrying(inner);
    row(table, "line-inner-length-0", d, &outer, UP, malformed);
    let d = "the inner packet is of another family than announced";
    let outer = Ipv4::new(DYNAMIC.v4, ENDPOINT.v4).carrying(syn6(PRIVATE, OUTSIDE)).protocol(4);
    row(table, "line-other-family", d, &outer, UP, OTHER);
}

/// A further hop of the outer packet may be an endpoint.
fn not_final_outside(table: &mut Table) {
    let denied = drop(Reason::Policy, "dynamic");
    let unknown = pass_ungrouped(Reason::Unknown);
    let six = |from: Host, left| Ipv6::new(from.v6, OUTSIDE.v6).routing(4, left, &[ENDPOINT.v6]);
    let d = "segments left outside: the outer address names the line";
    let packet = six(DYNAMIC, 1).carrying(syn4(PRIVATE, OUTSIDE));
    row(table, "route-line", d, &packet, UP, denied);
    let packet = six(DYNAMIC, 1).carrying(syn4(PRIVATE, ISP));
    row(table, "route-line-relay", d, &packet, UP, pass(Reason::Relay, "dynamic"));
    let packet = six(EXEMPT, 1).carrying(syn4(PRIVATE, OUTSIDE));
    row(table, "route-line-exempt", d, &packet, UP, pass(Reason::Exempt, "dynamic"));
    let packet = six(MONITORED, 1).carrying(syn4(DYNAMIC, OUTSIDE));
    row(table, "route-line-monitored", d, &packet, UP, would_drop(Reason::Policy, "monitored"));
    let packet = six(OUTSIDE, 1).carrying(syn4(DYNAMIC, OUTSIDE));
    row(table, "route-inner", "no line outside: the inner address", &packet, UP, denied);
    let packet = six(DYNAMIC, 0).carrying(syn4(PRIVATE, OUTSIDE));
    row(table, "route-final", "no segments left", &packet, UP, unknown);
    let d = "segments left, and a chain that is too long";
    let long = |from| (0..8).fold(six(from, 1), |packet, _| packet.destination_options(1));
    let packet = long(OUTSIDE).carrying(syn4(DYNAMIC, OUTSIDE));
    row(table, "route-chain", d, &packet, SUBSCRIBER, drop_ungrouped(Reason::Headers));
    row(table, "route-chain-core", d, &packet, UP, pass_ungrouped(Reason::Headers));
    let packet = long(DYNAMIC).carrying(syn4(PRIVATE, OUTSIDE));
    row(table, "route-chain-line", d, &packet, UP, drop(Reason::Headers, "dynamic"));
    let d = "segments left, and a first fragment that is too short";
    let packet = six(OUTSIDE, 1).fragment(0, true).carrying(syn4(DYNAMIC, OUTSIDE));
    let packet = packet.keep(..24 + 8 + 16);
    row(table, "route-tiny", d, &packet, SUBSCRIBER, drop_ungrouped(Reason::Fragment));

    for (name, kind) in [("loose", 131), ("strict", 137)] {
        let d = "a source route outside: the outer address names the line";
        let outer = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).source_route(kind, &[ENDPOINT.v4]);
        let packet = outer.carrying(syn6(PRIVATE, OUTSIDE));
        row(table, &format!("route-{name}"), d, &packet, UP, denied);
    }
    let outer = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).source_route(131, &[ENDPOINT.v4]);
    let packet = outer.carrying(Gre::of(&syn4(PRIVATE, OUTSIDE)));
    row(table, "route-loose-gre", "the same with GRE", &packet, UP, denied);
    let outer = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).options(&[7, 7, 4, 0, 0, 0, 0]);
    let packet = outer.carrying(syn6(PRIVATE, OUTSIDE));
    let d = "any options of IPv4 outside count as a source route";
    row(table, "route-recorded", d, &packet, UP, denied);
    let plain = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(syn6(PRIVATE, OUTSIDE));
    row(table, "route-none", "no options outside", &plain, UP, unknown);
    let outer = Ipv4::new(OUTSIDE.v4, DYNAMIC.v4).source_route(131, &[ENDPOINT.v4]);
    let inner = Ipv6::new(OUTSIDE.v6, PRIVATE.v6).carrying(Tcp::syn_ack_from(25));
    let d = "downstream an endpoint would be the source, which is final";
    row(table, "route-down", d, &outer.carrying(inner), DOWN, unknown);
}

/// Outer fragments of every kind of tunnel, and fragments within fragments.
fn fragments(table: &mut Table) {
    let not_syn = pass(Reason::NotSyn, "dynamic");
    let d = "an honest first fragment of the outer packet";
    let v4 = || Ipv4::new(OUTSIDE.v4, ISP.v4).fragment(0, true).keep(..1400);
    let v6 = || Ipv6::new(OUTSIDE.v6, ISP.v6).fragment(0, true);
    let packet = v4().carrying(Gre::of(&large4(DYNAMIC, ISP)).key());
    row(table, "first-gre-4in4", d, &packet, UP, not_syn);
    let packet = v6().carrying(Gre::of(&large6(DYNAMIC, ISP)).sequence()).keep(..8 + 1400);
    row(table, "first-gre-6in6", d, &packet, UP, not_syn);
    row(table, "first-4in4", d, &v4().carrying(large4(DYNAMIC, ISP)), UP, not_syn);
    let packet = v6().carrying(large6(DYNAMIC, ISP)).keep(..8 + 1400);
    row(table, "first-6in6", d, &packet, UP, not_syn);
    let d = "it ends with the fixed TCP header";
    let syn =
        Ipv4::new(DYNAMIC.v4, ISP.v4).carrying(Tcp::syn_to(25).options(&[1; 8]).data(&[0; 64]));
    let relay = pass(Reason::Relay, "dynamic");
    row(table, "first-shortest", d, &v6().carrying(syn).keep(..8 + 40), UP, relay);
    let d = "it ends with the inner packet, though more is announced";
    let packet = v6().carrying(syn4(DYNAMIC, OUTSIDE));
    row(table, "first-exact", d, &packet, UP, drop(Reason::Policy, "dynamic"));
    let d = "a first fragment inside a first fragment";
    let syn = |to: Host| {
        let tcp = Tcp::syn_to(25).data(&[0x25; 1440]);
        Ipv4::new(DYNAMIC.v4, to.v4).carrying(tcp).fragment(0, true).keep(..1400)
    };
    row(table, "first-first-relay", d, &v6().carrying(syn(ISP)).keep(..8 + 1200), UP, relay);
    let packet = v6().carrying(syn(OUTSIDE)).keep(..8 + 1200);
    row(table, "first-first", d, &packet, UP, drop(Reason::Policy, "dynamic"));
    let d = "a later fragment inside a first fragment";
    let later = large4(DYNAMIC, OUTSIDE).fragment(100, true);
    row(table, "first-later", d, &v6().carrying(later).keep(..8 + 1200), UP, OTHER);
    let d = "a fragment at offset 1 inside a first fragment";
    let overlap = large4(DYNAMIC, OUTSIDE).fragment(1, true);
    let hidden = drop(Reason::Fragment, "dynamic");
    row(table, "first-overlap", d, &v6().carrying(overlap).keep(..8 + 1200), UP, hidden);

    let d = "a lie of the outer header is one in a fragment too";
    let malformed = drop(Reason::Malformed, "dynamic");
    let packet = v4().carrying(large4(DYNAMIC, ISP)).total_length(1421);
    row(table, "first-outer-lies", d, &packet, UP, malformed);
    let d = "a chain that the outer fragment cuts";
    let chain = || {
        let inner = Ipv6::new(DYNAMIC.v6, OUTSIDE.v6).destination_options(8);
        v6().carrying(inner.carrying(Tcp::syn_to(25))).keep(..8 + 40 + 32)
    };
    row(table, "first-chain-cut", d, &chain(), UP, drop(Reason::Headers, "dynamic"));
    let d = "from an endpoint to a line, too short";
    let inner = Ipv4::new(OUTSIDE.v4, PRIVATE.v4).carrying(Tcp::syn_ack_from(25));
    let outer = Ipv6::new(ENDPOINT.v6, DYNAMIC.v6).fragment(0, true).carrying(inner);
    row(table, "down-tiny", d, &outer.keep(..8 + 16), DOWN, hidden);
}

/// Linux ignores all flags of GRE except those of fields, routing and version (gre_demux.c).
fn gre(table: &mut Table) {
    let denied = drop(Reason::Policy, "dynamic");
    let over = |gre: Gre| Ipv4::new(OUTSIDE.v4, ISP.v4).carrying(gre);
    let d = "a reserved bit that receivers ignore";
    for (name, bits) in [("strict", 0x0800), ("recursion", 0x0700), ("acknowledged", 0x0080)] {
        let packet = over(Gre::of(&syn4(DYNAMIC, OUTSIDE)).flags(bits));
        row(table, &format!("gre-bit-{name}"), d, &packet, UP, denied);
    }
    let d = "GRE behind headers of IPv6";
    let outer = Ipv6::new(OUTSIDE.v6, ISP.v6).hop_by_hop(1).routing(0, 0, &[ISP.v6]);
    let packet = outer.destination_options(1).carrying(Gre::of(&syn6(DYNAMIC, OUTSIDE)).key());
    row(table, "gre-chain", d, &packet, UP, denied);
    let d = "fields that the flags announce and the packet lacks";
    let packet = over(Gre::of(&syn4(DYNAMIC, OUTSIDE)).flags(0xb000));
    row(table, "gre-fields-missing", d, &packet, UP, OTHER);
    let d = "a softwire of GRE in fragments";
    let outer = Ipv4::new(DYNAMIC.v4, ENDPOINT.v4).carrying(Gre::of(&large4(PRIVATE, ISP)));
    let first = outer.fragment(0, true).keep(..1400);
    row(table, "line-gre-first", d, &first, UP, pass(Reason::NotSyn, "dynamic"));
    let d = "no reset into GRE";
    let packet = over(Gre::of(&syn4(REJECTING, OUTSIDE)));
    row(table, "gre-rejecting", d, &packet, UP, drop(Reason::Policy, "rejecting"));
}

/// Linux reads GRE of WCCP without flags as a packet of the outer family, and skips the four bytes of
/// WCCP version 2 (gre_demux.c, `gre_parse_header`).
fn wccp(table: &mut Table) {
    const WCCP: u16 = 0x883e;
    let denied = drop(Reason::Policy, "dynamic");
    let v4 = |gre| Ipv4::new(OUTSIDE.v4, ISP.v4).carrying(gre);
    let v6 = |gre| Ipv6::new(OUTSIDE.v6, ISP.v6).carrying(gre);
    let redirected =
        |inside: Vec<u8>| Raw(47, [&[0, 0, 0x88, 0x3e, 0, 0, 0, 0], &inside[..]].concat());
    let (four, six) = (|| syn4(DYNAMIC, OUTSIDE), || syn6(DYNAMIC, OUTSIDE));
    let d = "GRE of WCCP";
    row(table, "wccp-1", d, &v4(Gre::of(&four()).protocol(WCCP)), UP, denied);
    let d = "GRE of WCCP, version 2";
    let packet = Ipv4::new(OUTSIDE.v4, ISP.v4).carrying(redirected(Packet::bytes(&four())));
    row(table, "wccp-2", d, &packet, UP, denied);
    let packet = Ipv6::new(OUTSIDE.v6, ISP.v6).carrying(redirected(Packet::bytes(&six())));
    row(table, "wccp-2-v6", d, &packet, UP, denied);
    let relay = Packet::bytes(&syn4(DYNAMIC, ISP));
    let packet = Ipv4::new(OUTSIDE.v4, ISP.v4).carrying(redirected(relay));
    row(table, "wccp-2-relay", d, &packet, UP, pass(Reason::Relay, "dynamic"));
    let d = "with a field, no receiver reads an IP packet";
    row(table, "wccp-key", d, &v4(Gre::of(&four()).protocol(WCCP).key()), UP, OTHER);
    let d = "four bytes less than there should be";
    row(table, "wccp-v6", d, &v6(Gre::of(&six()).protocol(WCCP)), UP, OTHER);
    let mine = Ipv4::new(DYNAMIC.v4, ISP.v4).carrying(Gre::of(&four()).protocol(WCCP));
    let cut = mine.fragment(0, true).keep(..4);
    row(
        table,
        "wccp-first-cut",
        "cut behind the header",
        &cut,
        UP,
        drop(Reason::Fragment, "dynamic"),
    );
}

/// The parser enters one tunnel only, in a softwire too.
fn deeper(table: &mut Table) {
    let d = "two levels are not read";
    let inside = || Ipv4::new(PRIVATE.v4, OUTSIDE.v4).carrying(syn4(DYNAMIC, OUTSIDE));
    let packet = Ipv6::new(DYNAMIC.v6, ENDPOINT.v6).carrying(inside());
    row(table, "line-4in4in6", d, &packet, UP, OTHER);
    let packet = Ipv6::new(DYNAMIC.v6, ENDPOINT.v6).carrying(Gre::of(&inside()));
    row(table, "line-4in4-gre", d, &packet, UP, OTHER);
    let d = "a keepalive: GRE inside GRE, with nothing in it";
    let back = Ipv4::new(OUTSIDE.v4, DYNAMIC.v4).carrying(Raw(47, vec![0; 4]));
    let packet = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(Gre::of(&back));
    row(table, "gre-keepalive", d, &packet, UP, OTHER);
}

/// The 6to4 address of an IPv4 address.
fn within(address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(u128::from(address.to_bits()) << 80 | 0x2002 << 112 | 1)
}

/// The IPv4 address in a 6to4 address names the line (RFC 3056), even if the policy names the IPv6
/// address.
fn six_to_four(table: &mut Table) {
    let inner =
        |from: Ipv4Addr, to: Ipv6Addr| Ipv6::new(within(from), to).carrying(Tcp::syn_to(25));
    let neighbour = Ipv4Addr::new(203, 0, 113, 10);
    let denied = drop(Reason::Policy, "dynamic");
    let exempt = pass_ungrouped(Reason::Exempt);
    let d = "an exemption of the 6to4 prefix alone is none of the line";
    let packet = Ipv4::new(neighbour, OUTSIDE.v4).carrying(inner(neighbour, OUTSIDE.v6));
    row(table, "6to4-prefix-exempt", d, &packet, UP, denied);
    let native = inner(neighbour, OUTSIDE.v6);
    row(table, "6to4-prefix-exempt-native", "in no tunnel it is one", &native, UP, exempt);
    let d = "in other tunnels too";
    let packet = Ipv6::new(OUTSIDE.v6, ISP.v6).carrying(inner(DYNAMIC.v4, OUTSIDE.v6));
    row(table, "6to4-in-6", d, &packet, UP, denied);
    let packet = Ipv4::new(OUTSIDE.v4, ISP.v4).carrying(Gre::of(&inner(DYNAMIC.v4, OUTSIDE.v6)));
    row(table, "6to4-in-gre", d, &packet, UP, denied);
    let packet = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(inner(DYNAMIC.v4, ISP.v6));
    row(table, "6to4-relay", "to a relay", &packet, UP, pass(Reason::Relay, "dynamic"));
    let packet = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(inner(DYNAMIC.v4, within(ISP.v4)));
    row(table, "6to4-relay-within", "a 6to4 address of a relay is none", &packet, UP, denied);
    let d = "in a softwire the outer address counts first";
    let packet = Ipv4::new(MONITORED.v4, ENDPOINT.v4).carrying(inner(DYNAMIC.v4, OUTSIDE.v6));
    row(table, "6to4-line", d, &packet, UP, would_drop(Reason::Policy, "monitored"));
    let packet = Ipv4::new(OUTSIDE.v4, ENDPOINT.v4).carrying(inner(DYNAMIC.v4, OUTSIDE.v6));
    row(table, "6to4-line-unknown", d, &packet, UP, denied);
    let d = "a 6to4 address that a first fragment leaves";
    let inside = inner(DYNAMIC.v4, OUTSIDE.v6);
    let packet = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(inside).fragment(0, true).keep(..56);
    row(table, "6to4-first-cut", d, &packet, UP, drop(Reason::Fragment, "dynamic"));
}

/// Endpoints inside a group's prefix and inside a relay's.
fn endpoints_elsewhere(table: &mut Table) {
    let denied = drop(Reason::Policy, "dynamic");
    let relay = pass(Reason::Relay, "dynamic");
    for (name, endpoint) in [("group", ENDPOINT_IN_GROUP), ("relays", ENDPOINT_IN_RELAYS)] {
        let d = "an endpoint whose address is something else, too";
        let packet = Ipv6::new(DYNAMIC.v6, endpoint.v6).carrying(syn4(PRIVATE, OUTSIDE));
        row(table, &format!("endpoint-in-{name}-4in6"), d, &packet, UP, denied);
        let packet = Ipv4::new(DYNAMIC.v4, endpoint.v4).carrying(syn6(PRIVATE, OUTSIDE));
        row(table, &format!("endpoint-in-{name}-6in4"), d, &packet, UP, denied);
        let packet = Ipv4::new(EXEMPT.v4, endpoint.v4).carrying(syn6(DYNAMIC, OUTSIDE));
        let exempt = pass(Reason::Exempt, "dynamic");
        row(table, &format!("endpoint-in-{name}-exempt"), d, &packet, UP, exempt);
    }
    let d = "an endpoint inside a relay's prefix is a relay";
    row(table, "endpoint-in-relays-itself-v4", d, &syn4(DYNAMIC, ENDPOINT_IN_RELAYS), UP, relay);
    row(table, "endpoint-in-relays-itself-v6", d, &syn6(DYNAMIC, ENDPOINT_IN_RELAYS), UP, relay);
    let inner = syn4(PRIVATE, ENDPOINT_IN_RELAYS);
    let packet = Ipv6::new(DYNAMIC.v6, ENDPOINT.v6).carrying(inner);
    row(table, "endpoint-in-relays-inside", d, &packet, UP, relay);
    let d = "an endpoint inside a group's prefix is a subscriber";
    row(table, "endpoint-in-group-itself", d, &syn4(ENDPOINT_IN_GROUP, OUTSIDE), UP, denied);
    let d = "from one endpoint to another";
    let packet = Ipv6::new(ENDPOINT.v6, ENDPOINT.v6).carrying(syn4(DYNAMIC, OUTSIDE));
    row(table, "endpoint-to-endpoint", d, &packet, UP, denied);
    let d = "a 6rd line reaches a relay by its NAT64 address";
    let to = Ipv6Addr::from_bits(0x0064_ff9b << 96 | u128::from(ISP.v4.to_bits()));
    let inner = Ipv6::new(PRIVATE.v6, to).carrying(Tcp::syn_to(25));
    let packet = Ipv4::new(DYNAMIC.v4, ENDPOINT.v4).carrying(inner);
    row(table, "line-nat64", d, &packet, UP, relay);
}
