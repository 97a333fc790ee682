//! One packet inside another, in a tunnel that is not the ISP's: the inner packet is judged.

use opb_common::outcome::Reason;

use super::{
    DOWN, Expected, OTHER, Table, UP, drop,
    hosts::{ANY, DYNAMIC, EXEMPT, ISP, MONITORED, MULTI, OUTSIDE, PRIVATE, REJECTING},
    pass, pass_ungrouped, would_drop,
};
use crate::frames::{Ethernet, Gre, Ipv4, Ipv6, Packet, Payload, Raw, Tcp, Udp, flags::ACK};

pub(super) fn add(table: &mut Table) {
    judged_inside(table);
    outer_fragments(table);
    inner_tricks(table);
    cut_off(table);
    same_family_and_gre(table);
    not_tunnels(table);
    links(table);
}

/// IPv4 in an IPv6 packet of nobody's.
fn in_v6(inner: impl Payload + 'static) -> Ipv6 {
    Ipv6::new(OUTSIDE.v6, ISP.v6).carrying(inner)
}

/// IPv6 in an IPv4 packet of nobody's.
fn in_v4(inner: impl Payload + 'static) -> Ipv4 {
    Ipv4::new(OUTSIDE.v4, ISP.v4).carrying(inner)
}

fn row<P: Packet>(
    table: &mut Table,
    name: impl Into<String>,
    description: &'static str,
    packet: &P,
    expected: Expected,
) {
    table.row(name, description, Ethernet::new().carrying(packet), UP, expected);
}

fn judged_inside(table: &mut Table) {
    let not_syn = pass(Reason::NotSyn, "dynamic");
    let unknown = pass_ungrouped(Reason::Unknown);
    for (name, from, to, tcp, expected) in [
        ("syn", DYNAMIC, OUTSIDE, Tcp::syn_to(25), drop(Reason::Policy, "dynamic")),
        ("ack", DYNAMIC, OUTSIDE, Tcp::new(49152, 25, ACK), not_syn),
        ("relay", DYNAMIC, ISP, Tcp::syn_to(25), pass(Reason::Relay, "dynamic")),
        ("monitored", MONITORED, OUTSIDE, Tcp::syn_to(25), would_drop(Reason::Policy, "monitored")),
        ("rejecting", REJECTING, OUTSIDE, Tcp::syn_to(25), drop(Reason::Policy, "rejecting")),
        ("any", ANY, OUTSIDE, Tcp::new(49152, 25, ACK), drop(Reason::Policy, "any")),
        ("multi", MULTI, OUTSIDE, Tcp::syn_to(2525), drop(Reason::Policy, "multi")),
        ("exempt", EXEMPT, OUTSIDE, Tcp::syn_to(25), pass(Reason::Exempt, "dynamic")),
        ("unknown", OUTSIDE, ISP, Tcp::syn_to(25), unknown),
        ("port-443", DYNAMIC, OUTSIDE, Tcp::syn_to(443), OTHER),
    ] {
        let description = "the inner packet is judged";
        let inner = Ipv4::new(from.v4, to.v4).carrying(tcp.clone());
        row(table, format!("4in6-{name}"), description, &in_v6(inner), expected);
        let inner = Ipv6::new(from.v6, to.v6).carrying(tcp);
        row(table, format!("6in4-{name}"), description, &in_v4(inner), expected);
    }
    let description = "the outer source is in a group, the inner is not";
    let inner = Ipv4::new(OUTSIDE.v4, ISP.v4).carrying(Tcp::syn_to(25));
    let outer = Ipv6::new(DYNAMIC.v6, OUTSIDE.v6).carrying(inner);
    row(table, "4in6-outer-dynamic", description, &outer, unknown);
    let inner = Ipv6::new(OUTSIDE.v6, ISP.v6).carrying(Tcp::syn_to(25));
    let outer = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(inner);
    row(table, "6in4-outer-dynamic", description, &outer, unknown);

    let inner = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(Udp::new(25, 25, b"mail"));
    row(table, "4in6-udp", "UDP inside", &in_v6(inner), OTHER);
    let inner = Ipv6::new(DYNAMIC.v6, OUTSIDE.v6).carrying(Udp::new(25, 25, b"mail"));
    row(table, "6in4-udp", "UDP inside", &in_v4(inner), OTHER);

    let denied = drop(Reason::Policy, "dynamic");
    let inner = Ipv4::new(OUTSIDE.v4, DYNAMIC.v4).carrying(Tcp::syn_ack_from(25));
    let frame = Ethernet::new().carrying(&in_v6(inner));
    table.row("4in6-down", "downstream", frame, DOWN, denied);
    let inner = Ipv6::new(OUTSIDE.v6, DYNAMIC.v6).carrying(Tcp::syn_ack_from(25));
    let frame = Ethernet::new().carrying(&in_v4(inner));
    table.row("6in4-down", "downstream", frame, DOWN, denied);
}

fn syn_v4() -> Ipv4 {
    Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(Tcp::syn_to(25))
}

fn syn_v6() -> Ipv6 {
    Ipv6::new(DYNAMIC.v6, OUTSIDE.v6).carrying(Tcp::syn_to(25))
}

fn outer_fragments(table: &mut Table) {
    let denied = drop(Reason::Policy, "dynamic");
    let hidden = drop(Reason::Fragment, "dynamic");
    let outer = || Ipv6::new(OUTSIDE.v6, ISP.v6);
    let v6 = |more| outer().fragment(0, more).carrying(syn_v4());
    row(table, "4in6-atomic", "an atomic fragment outside", &v6(false), denied);
    row(table, "4in6-first", "a first fragment outside", &v6(true), denied);
    let cut = v6(true).keep(..8 + 20 + 12);
    row(table, "4in6-first-cut", "which cuts the inner TCP header", &cut, hidden);
    let later = outer().fragment(1, true).carrying(syn_v4());
    row(table, "4in6-later", "a later fragment outside", &later, OTHER);

    let v4 = |more| in_v4(syn_v6()).fragment(0, more);
    row(table, "6in4-first", "a first fragment outside", &v4(true), denied);
    let cut = v4(true).keep(..40 + 12);
    row(table, "6in4-first-cut", "which cuts the inner TCP header", &cut, hidden);
    let later = in_v4(syn_v6()).fragment(1, true);
    row(table, "6in4-later-1", "a later fragment outside", &later, OTHER);
    let later = in_v4(syn_v6()).fragment(6, false);
    row(table, "6in4-later-6", "a later fragment outside", &later, OTHER);

    let description = "the inner addresses are cut off: the outer ones count";
    let mine = Ipv6::new(DYNAMIC.v6, ISP.v6).fragment(0, true).carrying(syn_v4());
    row(table, "4in6-first-no-addresses", description, &mine.keep(..8 + 8), hidden);
    let counted = pass_ungrouped(Reason::Fragment);
    let theirs = v6(true).keep(..8 + 8);
    row(table, "4in6-first-no-addresses-unknown", description, &theirs, counted);
    let mine = Ipv4::new(DYNAMIC.v4, ISP.v4).carrying(syn_v6()).fragment(0, true).keep(..16);
    row(table, "6in4-first-no-addresses", description, &mine, hidden);
}

/// What hides inside is found inside.
fn inner_tricks(table: &mut Table) {
    let hidden = drop(Reason::Fragment, "dynamic");
    let inner = syn_v4().fragment(0, true).keep(..8);
    row(table, "4in6-inner-cut", "a fragment inside", &in_v6(inner), hidden);
    let inner = syn_v4().fragment(1, true);
    row(table, "4in6-inner-overlap", "a fragment inside", &in_v6(inner), hidden);
    let inner = syn_v4().fragment(9, true);
    row(table, "4in6-inner-later", "a later fragment inside", &in_v6(inner), OTHER);
    let inner = Ipv6::new(DYNAMIC.v6, OUTSIDE.v6).fragment(0, true).carrying(Tcp::syn_to(25));
    row(table, "6in4-inner-cut", "a fragment inside", &in_v4(inner.keep(..16)), hidden);

    let inner = Ipv4::new(DYNAMIC.v4, ISP.v4).source_route(131, &[OUTSIDE.v4]);
    let route = drop(Reason::SourceRoute, "dynamic");
    let inner = inner.carrying(Tcp::syn_to(25));
    row(table, "4in6-inner-route", "a source route inside", &in_v6(inner), route);
    let inner = Ipv6::new(DYNAMIC.v6, ISP.v6).routing(4, 1, &[OUTSIDE.v6]);
    let inner = inner.carrying(Tcp::syn_to(25));
    row(table, "6in4-inner-route", "segments left inside", &in_v4(inner), route);
    let relay = pass(Reason::Relay, "dynamic");
    let inner = Ipv4::new(DYNAMIC.v4, ISP.v4).carrying(Tcp::syn_to(25));
    let outer = Ipv6::new(OUTSIDE.v6, ISP.v6).routing(4, 1, &[OUTSIDE.v6]).carrying(inner);
    row(
        table,
        "4in6-outer-route",
        "segments left outside: the inner address is final",
        &outer,
        relay,
    );

    let inner = |count| {
        let packet = Ipv6::new(DYNAMIC.v6, OUTSIDE.v6);
        (0..count).fold(packet, |packet, _| packet.destination_options(1)).carrying(Tcp::syn_to(25))
    };
    let denied = drop(Reason::Policy, "dynamic");
    let headers = drop(Reason::Headers, "dynamic");
    row(table, "6in4-inner-extensions-8", "8 headers inside", &in_v4(inner(8)), denied);
    row(table, "6in4-inner-extensions-9", "9 headers inside", &in_v4(inner(9)), headers);
    let outer = Ipv6::new(OUTSIDE.v6, ISP.v6).hop_by_hop(1).destination_options(1);
    row(table, "4in6-outer-extensions", "headers outside", &outer.carrying(syn_v4()), denied);
    let outer = in_v4(syn_v6()).options(&[1; 8]);
    row(table, "6in4-outer-options", "options outside", &outer, denied);
    let inner = syn_v4().options(&[1; 40]);
    row(table, "4in6-inner-options", "options inside", &in_v6(inner), denied);

    let malformed = drop(Reason::Malformed, "dynamic");
    let inner = syn_v4().total_length(41);
    row(table, "4in6-inner-length", "a lie inside", &in_v6(inner), malformed);
    let inner = syn_v6().payload_length(21);
    row(table, "6in4-inner-length", "a lie inside", &in_v4(inner), malformed);
    let outer = in_v6(syn_v4()).payload_length(41);
    row(table, "4in6-outer-length", "a lie outside", &outer, malformed);
    let outer = in_v4(syn_v6()).total_length(81);
    row(table, "6in4-outer-length", "a lie outside", &outer, malformed);
}

/// The packet ends inside the inner header: the outer addresses count.
fn cut_off(table: &mut Table) {
    let description = "the packet ends inside the inner header";
    let malformed = drop(Reason::Malformed, "dynamic");
    let counted = pass_ungrouped(Reason::Malformed);
    let mine = Ipv6::new(DYNAMIC.v6, ISP.v6).carrying(syn_v4()).keep(..19);
    row(table, "4in6-cut-off", description, &mine, malformed);
    row(table, "4in6-cut-off-unknown", description, &in_v6(syn_v4()).keep(..19), counted);
    let mine = Ipv4::new(DYNAMIC.v4, ISP.v4).carrying(syn_v6()).keep(..39);
    row(table, "6in4-cut-off", description, &mine, malformed);
    row(table, "6in4-cut-off-unknown", description, &in_v4(syn_v6()).keep(..39), counted);
    let inner = in_v6(syn_v4()).keep(..20 + 19);
    row(table, "4in6-cut-tcp", "inside the inner TCP header", &inner, malformed);
}

/// Every pair of families, with and without GRE.
fn same_family_and_gre(table: &mut Table) {
    let denied = drop(Reason::Policy, "dynamic");
    let description = "the inner packet is judged";
    row(table, "4in4", description, &in_v4(syn_v4()), denied);
    row(table, "6in6", description, &in_v6(syn_v6()), denied);
    for (name, v4, v6) in [
        ("plain", Gre::of(&syn_v4()), Gre::of(&syn_v6())),
        ("key", Gre::of(&syn_v4()).key(), Gre::of(&syn_v6()).key()),
        ("checksum", Gre::of(&syn_v4()).checksum(), Gre::of(&syn_v6()).checksum()),
        (
            "all",
            Gre::of(&syn_v4()).checksum().key().sequence(),
            Gre::of(&syn_v6()).checksum().key().sequence(),
        ),
    ] {
        row(table, format!("gre-{name}-4in4"), description, &in_v4(v4), denied);
        row(table, format!("gre-{name}-6in6"), description, &in_v6(v6), denied);
    }
    row(table, "gre-6in4", description, &in_v4(Gre::of(&syn_v6()).key()), denied);
    row(table, "gre-4in6", description, &in_v6(Gre::of(&syn_v4()).sequence()), denied);

    let answer = Ipv4::new(OUTSIDE.v4, DYNAMIC.v4).carrying(Tcp::syn_ack_from(25));
    let frame = Ethernet::new().carrying(&in_v4(Gre::of(&answer)));
    table.row("gre-down", "downstream", frame, DOWN, denied);
    let answer = Ipv4::new(OUTSIDE.v4, DYNAMIC.v4).carrying(Tcp::syn_ack_from(25));
    table.row("4in4-down", "downstream", Ethernet::new().carrying(&in_v4(answer)), DOWN, denied);

    let relay = pass(Reason::Relay, "dynamic");
    let mail = || Ipv4::new(DYNAMIC.v4, ISP.v4).carrying(Tcp::syn_to(25));
    row(table, "4in4-relay", "to a relay", &in_v4(mail()), relay);
    row(table, "gre-relay", "to a relay", &in_v4(Gre::of(&mail())), relay);
    let vpn = Ipv4::new(PRIVATE.v4, OUTSIDE.v4).carrying(Tcp::syn_to(25));
    let outer = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(Gre::of(&vpn));
    let unknown = pass_ungrouped(Reason::Unknown);
    row(table, "gre-vpn", "a private address inside is nobody's", &outer, unknown);

    let hidden = drop(Reason::Fragment, "dynamic");
    let cut = in_v4(Gre::of(&syn_v4()).checksum().key()).fragment(0, true);
    row(table, "gre-first-cut", "a first fragment cuts TCP", &cut.keep(..12 + 20 + 8), hidden);
    let mine = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(Gre::of(&syn_v4()).checksum().key());
    let cut = mine.fragment(0, true).keep(..8);
    row(table, "gre-first-cut-header", "a first fragment cuts GRE", &cut, hidden);
    let counted = pass_ungrouped(Reason::Fragment);
    let cut = in_v4(Gre::of(&syn_v4()).checksum().key()).fragment(0, true).keep(..8);
    row(table, "gre-first-cut-header-unknown", "whose line nobody knows", &cut, counted);
    let later = in_v4(Gre::of(&syn_v4())).fragment(3, true);
    row(table, "gre-later", "a later fragment", &later, OTHER);
}

/// Two levels, and what no receiver takes for a packet inside another.
fn not_tunnels(table: &mut Table) {
    let description = "two levels are not read";
    row(table, "4in6in4", description, &in_v4(in_v6(syn_v4())), OTHER);
    row(table, "6in4in6", description, &in_v6(in_v4(syn_v6())), OTHER);
    row(table, "4in4in4", description, &in_v4(in_v4(syn_v4())), OTHER);
    row(table, "gre-in-gre", description, &in_v4(Gre::of(&in_v4(Gre::of(&syn_v4())))), OTHER);
    let gre = || Gre::of(&syn_v4());
    row(table, "gre-routing", "GRE with routing (RFC 1701)", &in_v4(gre().flags(0x4000)), OTHER);
    row(table, "gre-version-1", "GRE of PPTP", &in_v4(gre().flags(1)), OTHER);
    row(table, "gre-ethernet", "Ethernet in GRE", &in_v4(gre().protocol(0x6558)), OTHER);
    row(table, "gre-ppp", "PPP in GRE", &in_v4(gre().protocol(0x880b)), OTHER);
    row(table, "gre-short", "less than a GRE header", &in_v4(Raw(47, vec![0; 3])), {
        pass_ungrouped(Reason::Malformed)
    });
}

fn links(table: &mut Table) {
    let denied = drop(Reason::Policy, "dynamic");
    let four = || in_v6(syn_v4());
    let six = || in_v4(syn_v6());
    let tagged = Ethernet::new().tags(2);
    table.row("4in6-tagged", "in two VLANs", tagged.carrying(&four()), UP, denied);
    table.row("6in4-tagged", "in two VLANs", tagged.carrying(&six()), UP, denied);
    let session = Ethernet::new().tags(1).pppoe();
    table.row("4in6-pppoe", "in PPPoE", session.carrying(&four()), UP, denied);
    table.row("6in4-pppoe", "in PPPoE", session.carrying(&six()), UP, denied);
    let bare = super::Settings::BARE_IP;
    table.row("4in6-bare", "without Ethernet", Packet::bytes(&four()), bare, denied);
    table.row("6in4-bare", "without Ethernet", Packet::bytes(&six()), bare, denied);
}
