//! One packet in another.

use opb_lab::frames::{Gre, Ipv4, Ipv6};

use super::{Add, Bare, frames::*};
use crate::lab::{Family, RELAY, SUBSCRIBER};

use Bare::Works;
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
