//! Fragments, of both families. RFC 1858 and RFC 3128 say how they hide a TCP header, RFC 6946 what an atomic
//! fragment is.

use opb_common::{outcome::Reason, settings::Settings};

use super::{
    DOWN, Expected, Host, OTHER, Table, UP, drop, drop_ungrouped,
    hosts::{ANY, DYNAMIC, EXEMPT, ISP, MONITORED, MULTI, OUTSIDE, REJECTING},
    pass, pass_ungrouped, would_drop,
};
use crate::frames::{Ethernet, Ipv4, Ipv6, Payload, Raw, Tcp, Udp, flags::ACK};

pub(super) fn add(table: &mut Table) {
    whole_headers(table);
    cut_headers(table);
    overlaps(table);
    later(table);
    by_source(table);
    only_v4(table);
    only_v6(table);
}

/// A fragment at `offset` × 8 bytes that holds `bytes` of the payload from there on.
struct Piece {
    offset: u16,
    more: bool,
    bytes: usize,
}

const fn first(bytes: usize) -> Piece {
    Piece { offset: 0, more: true, bytes }
}

const fn later_one(offset: u16, more: bool) -> Piece {
    Piece { offset, more, bytes: 32 }
}

const WHOLE: usize = usize::MAX / 2;

/// The same fragment in both families.
fn both(
    table: &mut Table,
    name: &str,
    description: &'static str,
    (from, to): (Host, Host),
    (payload, Piece { offset, more, bytes }): (impl Payload + Clone + 'static, Piece),
    settings: Settings,
    expected: Expected,
) {
    // What a later fragment holds is what a receiver would write over the header: again a whole one.
    let v4 =
        Ipv4::new(from.v4, to.v4).carrying(payload.clone()).fragment(offset, more).keep(..bytes);
    table.row(
        format!("fragment-{name}-v4"),
        description,
        Ethernet::new().carrying(&v4),
        settings,
        expected,
    );
    let v6 = Ipv6::new(from.v6, to.v6).carrying(payload).fragment(offset, more).keep(..8 + bytes);
    table.row(
        format!("fragment-{name}-v6"),
        description,
        Ethernet::new().carrying(&v6),
        settings,
        expected,
    );
}

/// Every fragment at offset 0 is judged.
fn whole_headers(table: &mut Table) {
    let data = |tcp: Tcp| tcp.data(&[b'a'; 64]);
    for (name, description, ends, tcp, piece, expected) in [
        (
            "first",
            "a first fragment with the whole TCP header",
            (DYNAMIC, OUTSIDE),
            Tcp::syn_to(25),
            first(WHOLE),
            drop(Reason::Policy, "dynamic"),
        ),
        (
            "first-20",
            "exactly the TCP header and no more",
            (DYNAMIC, OUTSIDE),
            Tcp::syn_to(25),
            first(20),
            drop(Reason::Policy, "dynamic"),
        ),
        (
            "first-relay",
            "a first fragment to a relay",
            (DYNAMIC, ISP),
            Tcp::syn_to(25),
            first(WHOLE),
            pass(Reason::Relay, "dynamic"),
        ),
        (
            "first-ack",
            "a first fragment that is not a SYN",
            (DYNAMIC, OUTSIDE),
            Tcp::new(49152, 25, ACK),
            first(WHOLE),
            pass(Reason::NotSyn, "dynamic"),
        ),
        (
            "first-any",
            "match: any judges a first fragment that is not a SYN",
            (ANY, OUTSIDE),
            Tcp::new(49152, 25, ACK),
            first(WHOLE),
            drop(Reason::Policy, "any"),
        ),
        (
            "first-port-443",
            "a first fragment to another port",
            (DYNAMIC, OUTSIDE),
            Tcp::syn_to(443),
            first(WHOLE),
            OTHER,
        ),
        (
            "only",
            "the last fragment is at offset 0: a whole packet, in IPv6 an atomic fragment",
            (DYNAMIC, OUTSIDE),
            Tcp::syn_to(25),
            Piece { offset: 0, more: false, bytes: WHOLE },
            drop(Reason::Policy, "dynamic"),
        ),
        (
            "only-relay",
            "a whole packet to a relay",
            (DYNAMIC, ISP),
            Tcp::syn_to(25),
            Piece { offset: 0, more: false, bytes: WHOLE },
            pass(Reason::Relay, "dynamic"),
        ),
    ] {
        both(table, name, description, ends, (data(tcp), piece), UP, expected);
    }
    both(
        table,
        "first-down",
        "a first fragment downstream",
        (OUTSIDE, DYNAMIC),
        (data(Tcp::syn_ack_from(25)), first(WHOLE)),
        DOWN,
        drop(Reason::Policy, "dynamic"),
    );
}

/// A first fragment that does not hold the whole 20-byte TCP header.
fn cut_headers(table: &mut Table) {
    let hidden = drop(Reason::Fragment, "dynamic");
    for bytes in [0, 2, 4, 8, 13, 16, 19] {
        both(
            table,
            &format!("cut-{bytes}"),
            "a first fragment without the whole TCP header",
            (DYNAMIC, OUTSIDE),
            (Tcp::syn_to(25), first(bytes)),
            UP,
            hidden,
        );
    }
    let mut cut = |name, description, ends, tcp, settings, expected| {
        both(table, name, description, ends, (tcp, first(16)), settings, expected);
    };
    let syn = || Tcp::syn_to(25);
    cut(
        "cut-port-443",
        "the port is there, but the next fragment can overwrite it",
        (DYNAMIC, OUTSIDE),
        Tcp::syn_to(443),
        UP,
        hidden,
    );
    cut("cut-relay", "a relay is no excuse", (DYNAMIC, ISP), syn(), UP, hidden);
    let no_syn = Tcp::new(49152, 25, ACK);
    cut("cut-ack", "not being a SYN does not help", (DYNAMIC, OUTSIDE), no_syn, UP, hidden);
    let answer = Tcp::syn_ack_from(25);
    cut("cut-down", "downstream", (OUTSIDE, DYNAMIC), answer.clone(), DOWN, hidden);
    cut("cut-down-relay", "from a relay", (ISP, DYNAMIC), answer.clone(), DOWN, hidden);
    cut(
        "cut-down-off",
        "downstream is off",
        (OUTSIDE, MULTI),
        answer.clone(),
        DOWN,
        pass(Reason::NotFiltered, "multi"),
    );
    cut(
        "cut-down-unknown",
        "to no group",
        (DYNAMIC, OUTSIDE),
        answer,
        DOWN,
        pass_ungrouped(Reason::Fragment),
    );
}

/// A TCP fragment at offset 1 can overwrite the flags of the one before it.
fn overlaps(table: &mut Table) {
    let hidden = drop(Reason::Fragment, "dynamic");
    let ends = (DYNAMIC, OUTSIDE);
    let tcp = || Tcp::syn_to(443).data(&[0; 64]);
    let mut piece = |name, description, ends, piece, settings, expected| {
        both(table, name, description, ends, (tcp(), piece), settings, expected);
    };
    piece("overlap", "a TCP fragment at offset 1", ends, later_one(1, true), UP, hidden);
    piece("overlap-last", "the last one, at offset 1", ends, later_one(1, false), UP, hidden);
    piece("overlap-relay", "a relay is no excuse", (DYNAMIC, ISP), later_one(1, true), UP, hidden);
    let back = (OUTSIDE, DYNAMIC);
    piece("overlap-down", "downstream", back, later_one(1, true), DOWN, hidden);
    let empty = Piece { offset: 1, more: true, bytes: 0 };
    piece("overlap-empty", "even if it holds nothing", ends, empty, UP, hidden);
}

/// Later fragments pass: without their first one nobody can use them.
fn later(table: &mut Table) {
    let ends = (DYNAMIC, OUTSIDE);
    let tcp = Tcp::syn_to(25).data(&[0; 64]);
    for offset in [2, 3, 185, 8191] {
        let name = format!("later-{offset}");
        let description = "a later fragment, whatever it holds";
        both(table, &name, description, ends, (tcp.clone(), later_one(offset, true)), UP, OTHER);
    }
    both(table, "last", "the last fragment", ends, (tcp, later_one(185, false)), UP, OTHER);
    let udp = Udp::new(25, 25, &[0; 64]);
    both(table, "udp-first", "UDP", ends, (udp.clone(), first(WHOLE)), UP, OTHER);
    both(table, "udp-cut", "UDP, cut", ends, (udp.clone(), first(4)), UP, OTHER);
    both(table, "udp-offset-1", "UDP at offset 1", ends, (udp, later_one(1, true)), UP, OTHER);
}

/// What a fragment that hides its header gets, by source.
fn by_source(table: &mut Table) {
    let unknown_drop = Settings::UNKNOWN_DROP;
    for (name, from, settings, expected) in [
        ("monitored", MONITORED, UP, would_drop(Reason::Fragment, "monitored")),
        ("rejecting", REJECTING, UP, drop(Reason::Fragment, "rejecting")),
        ("any", ANY, UP, drop(Reason::Fragment, "any")),
        ("exempt", EXEMPT, UP, pass(Reason::Exempt, "dynamic")),
        ("unknown", OUTSIDE, UP, pass_ungrouped(Reason::Fragment)),
        ("unknown-drop", OUTSIDE, unknown_drop, drop_ungrouped(Reason::Unknown)),
    ] {
        for (kind, piece) in [("cut", first(8)), ("overlap", later_one(1, true))] {
            both(
                table,
                &format!("{kind}-{name}"),
                "a fragment that hides its header gets the group's action",
                (from, ISP),
                (Tcp::syn_to(25), piece),
                settings,
                expected,
            );
        }
    }
}

fn only_v4(table: &mut Table) {
    let syn = || Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(Tcp::syn_to(25));
    let denied = drop(Reason::Policy, "dynamic");
    let mut v4 = |name, description, packet: Ipv4, expected| {
        table.row(name, description, Ethernet::new().carrying(&packet), UP, expected);
    };
    v4("fragment-dont", "do not fragment: no fragment", syn().do_not_fragment(), denied);
    v4("fragment-evil", "the reserved bit set: no fragment", syn().fragment(0x8000, false), denied);
    let decoy = [192, 0, 1, 187, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0];
    v4(
        "fragment-options",
        "a first fragment whose options look like a whole TCP header",
        syn().options(&decoy).fragment(0, true).keep(..8),
        drop(Reason::Fragment, "dynamic"),
    );
    v4(
        "fragment-options-whole",
        "a first fragment with options and the whole TCP header",
        syn().options(&decoy).fragment(0, true),
        denied,
    );
    let filled = syn().fragment(0, true).keep(..8);
    let mut padded = Ethernet::new().carrying(&filled);
    padded.resize(60, 0);
    table.row(
        "fragment-padded",
        "padding behind a fragment is not its TCP header",
        padded,
        UP,
        drop(Reason::Fragment, "dynamic"),
    );
}

fn only_v6(table: &mut Table) {
    let packet = || Ipv6::new(DYNAMIC.v6, OUTSIDE.v6);
    let syn = || Tcp::syn_to(25);
    let denied = drop(Reason::Policy, "dynamic");
    let headers = drop(Reason::Headers, "dynamic");
    let mut v6 = |name, description, packet: Ipv6, expected| {
        table.row(name, description, Ethernet::new().carrying(&packet), UP, expected);
    };
    v6(
        "fragment-behind-options-v6",
        "a first fragment that begins with destination options",
        packet().fragment(0, true).destination_options(1).carrying(syn()),
        denied,
    );
    v6(
        "fragment-before-cut-v6",
        "the TCP header cut off behind destination options",
        packet().fragment(0, true).destination_options(1).carrying(syn()).keep(..8 + 8 + 19),
        drop(Reason::Fragment, "dynamic"),
    );
    v6(
        "fragment-chain-none-v6",
        "a first fragment that announces destination options and does not hold them",
        packet().fragment(0, true).destination_options(1).carrying(syn()).keep(..8),
        headers,
    );
    v6(
        "fragment-chain-cut-v6",
        "a first fragment with half of the destination options",
        packet().fragment(0, true).destination_options(1).carrying(syn()).keep(..8 + 4),
        headers,
    );
    v6(
        "fragment-chain-long-v6",
        "a first fragment whose destination options go on in the next one",
        packet().fragment(0, true).destination_options(9).carrying(syn()).keep(..8 + 16),
        headers,
    );
    v6(
        "fragment-chain-long-twice-v6",
        "the same with another extension header to come",
        packet()
            .fragment(0, true)
            .destination_options(9)
            .destination_options(1)
            .carrying(syn())
            .keep(..8 + 16),
        headers,
    );
    v6(
        "fragment-atomic-twice-v6",
        "two atomic fragment headers in a row",
        packet().fragment(0, false).fragment(0, false).carrying(syn()),
        denied,
    );
    v6(
        "fragment-atomic-then-later-v6",
        "a later fragment behind an atomic one",
        packet().fragment(0, false).fragment(100, true).carrying(syn()),
        OTHER,
    );
    v6(
        "fragment-first-then-atomic-v6",
        "an atomic fragment inside a first one, cut",
        packet().fragment(0, true).fragment(0, false).carrying(syn()).keep(..8 + 8 + 12),
        drop(Reason::Fragment, "dynamic"),
    );
    v6(
        "fragment-atomic-cut-v6",
        "an atomic fragment without the whole header: no fragment, but not whole either",
        packet().fragment(0, false).carrying(syn()).keep(..8 + 12),
        drop(Reason::Malformed, "dynamic"),
    );
    v6(
        "fragment-overlap-options-v6",
        "at offset 1, announced as destination options: a later fragment like others",
        packet().fragment(1, true).carrying(Raw(60, vec![0; 32])),
        OTHER,
    );
}
