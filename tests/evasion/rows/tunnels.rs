//! One packet in another.

use opb_lab::frames::{Gre, Ipv4, Ipv6};

use super::{Add, Bare, frames::*};
use crate::lab::{Family, RELAY, SUBSCRIBER, Segment};

use Bare::{ReceiverRefuses, Works};
use Family::{V4, V6};

/// Tunnels whose inner source is the subscriber.
pub(super) fn tunnels(row: &mut Add) {
    row(
        "IPv6 in IPv4",
        Works,
        opening(V6, |s| vec![frame4(&Ipv4::new(SUBSCRIBER.v4, RELAY.v4).carrying(ip6(s)))]),
    );
    row(
        "IPv4 in IPv6",
        Works,
        opening(V4, |s| one6(Ipv6::new(SUBSCRIBER.v6, RELAY.v6).carrying(ip4(s)))),
    );
    row(
        "IPv4 in IPv6 with options",
        Works,
        opening(V4, |s| {
            one6(Ipv6::new(SUBSCRIBER.v6, RELAY.v6).destination_options(1).carrying(ip4(s)))
        }),
    );
    row(
        "IPv4 in IPv4",
        Works,
        opening(V4, |s| vec![frame4(&Ipv4::new(SUBSCRIBER.v4, RELAY.v4).carrying(ip4(s)))]),
    );
    row(
        "IPv6 in IPv6",
        Works,
        opening(V6, |s| one6(Ipv6::new(SUBSCRIBER.v6, RELAY.v6).carrying(ip6(s)))),
    );
    row(
        "IPv4 in GRE",
        Works,
        opening(V4, |s| {
            vec![frame4(&Ipv4::new(SUBSCRIBER.v4, RELAY.v4).carrying(Gre::of(&ip4(s))))]
        }),
    );
    row(
        "IPv6 in GRE with checksum, key and sequence number, over IPv4",
        Works,
        opening(V6, |s| {
            let gre = Gre::of(&ip6(s)).checksum().key().sequence();
            vec![frame4(&Ipv4::new(SUBSCRIBER.v4, RELAY.v4).carrying(gre))]
        }),
    );
    row(
        "IPv4 in GRE with a key, over IPv6",
        Works,
        opening(V4, |s| one6(Ipv6::new(SUBSCRIBER.v6, RELAY.v6).carrying(Gre::of(&ip4(s)).key()))),
    );
    row(
        "fragments in IPv6",
        Works,
        opening(V4, |s| {
            [(0, 8), (8, 4096)]
                .map(|(from, to)| Ipv6::new(SUBSCRIBER.v6, RELAY.v6).carrying(piece4(s, from, to)))
                .iter()
                .map(|packet| eth().carrying(packet))
                .collect()
        }),
    );
}

/// The outer header hides the packet, or the outer packet is in fragments.
pub(super) fn hidden(row: &mut Add) {
    row(
        "IPv4 in IPv6 behind nine destination options headers",
        Works,
        opening(V4, |s| {
            let outer = Ipv6::new(SUBSCRIBER.v6, RELAY.v6);
            let outer = (0..9).fold(outer, |outer, _| outer.destination_options(1));
            one6(outer.carrying(ip4(s)))
        }),
    );
    row(
        "IPv4 in IPv6, outer first fragment of 16 bytes",
        Works,
        opening(V4, |s| outer6(s, &[(0, 16), (16, 4096)])),
    );
    row(
        "IPv4 in IPv6, the outer fragment cuts TCP",
        Works,
        opening(V4, |s| outer6(s, &[(0, 32), (32, 4096)])),
    );
    row(
        "IPv4 in IPv6, outer fragments in the wrong order",
        Works,
        opening(V4, |s| outer6(s, &[(40, 4096), (0, 40)])),
    );
    row(
        "IPv6 in IPv4, outer first fragment of 8 bytes",
        Works,
        opening(V6, |s| outer4(s, &[(0, 8), (8, 4096)])),
    );
    row(
        "IPv6 in IPv4, the outer fragment cuts TCP",
        Works,
        opening(V6, |s| outer4(s, &[(0, 48), (48, 4096)])),
    );
    row(
        "outer fragments of IPv6 that overlap rewrite the flags",
        ReceiverRefuses,
        opening(V4, |s| {
            let innocent = Segment { tcp: innocent(), id: s.id };
            let mut frames = outer6(&innocent, &[(0, 40)]);
            frames.extend(outer6(s, &[(32, 4096)]));
            frames
        }),
    );
    row(
        "outer fragments of IPv4 that overlap rewrite the flags",
        ReceiverRefuses,
        opening(V6, |s| {
            let innocent = Segment { tcp: innocent(), id: s.id };
            let mut frames = outer4(&innocent, &[(0, 64)]);
            frames.extend(outer4(s, &[(48, 4096)]));
            frames
        }),
    );
}

/// Pieces of an IPv6 packet with an IPv4 packet inside.
fn outer6(s: &Segment, pieces: &[(usize, usize)]) -> Vec<Vec<u8>> {
    let piece = |&(from, to): &(usize, usize)| {
        let outer = Ipv6::new(SUBSCRIBER.v6, RELAY.v6);
        let outer = fragment6(outer, s, (from / 8) as u16, to < 4096);
        cut6(&outer.carrying(ip4(s)), from, to)
    };
    pieces.iter().map(piece).collect()
}

/// Pieces of an IPv4 packet with an IPv6 packet inside.
fn outer4(s: &Segment, pieces: &[(usize, usize)]) -> Vec<Vec<u8>> {
    let piece = |&(from, to): &(usize, usize)| {
        let outer = Ipv4::new(SUBSCRIBER.v4, RELAY.v4).carrying(ip6(s)).identification(s.id);
        frame4(&outer.fragment((from / 8) as u16, to < 4096).keep(from..to))
    };
    pieces.iter().map(piece).collect()
}
