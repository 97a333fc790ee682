//! Other ways to the server: source routes, VLAN tags, the address of another subscriber.

use opb_lab::frames::{Ipv4, Ipv6};

use super::{Add, Bare, frames::*};
use crate::lab::{Family, RELAY, SERVER, STRANGER, SUBSCRIBER};

use Bare::{ReceiverRefuses, Works};
use Family::{V4, V6};

/// IPv4 options, and destinations that are only the next hop.
pub(super) fn options(row: &mut Add) {
    row(
        "40 bytes of IPv4 options",
        Works,
        opening(V4, |s| vec![frame4(&ip4(s).options(&[1; 40]))]),
    );
    row("router alert", Works, opening(V4, |s| vec![frame4(&ip4(s).options(&[148, 4, 0, 0]))]));
    row(
        "loose source route by a relay",
        Works,
        opening(V4, |s| vec![frame4(&to_relay4(s).source_route(131, &[SERVER.v4]))]),
    );
    row(
        "segment routing by a relay",
        ReceiverRefuses,
        opening(V6, |s| {
            one6(
                Ipv6::new(SUBSCRIBER.v6, RELAY.v6)
                    .routing(4, 1, &[SERVER.v6])
                    .carrying(s.tcp.clone()),
            )
        }),
    );
}

/// VLAN tags. A receiver without VLANs removes any number of tags with VLAN 0.
pub(super) fn tags(row: &mut Add) {
    row("VLAN 0", Works, opening(V4, |s| tagged4(s, 1)));
    row("VLAN 0 twice", Works, opening(V4, |s| tagged4(s, 2)));
    row("VLAN 0 three times", Works, opening(V4, |s| tagged4(s, 3)));
    row("VLAN 0 eight times", Works, opening(V4, |s| tagged4(s, 8)));
    row("VLAN 0 nine times", Works, opening(V4, |s| tagged4(s, 9)));
    row("VLAN 0 twenty times", Works, opening(V4, |s| tagged4(s, 20)));
    row(
        "VLAN 0 with a priority, 802.1ad",
        Works,
        opening(V6, |s| vec![eth().tag(0x88a8, 0xe000).tag(0x8100, 0x7000).carrying(&ip6(s))]),
    );
    row(
        "a VLAN that nobody has",
        ReceiverRefuses,
        opening(V4, |s| vec![eth().tag(0x8100, 7).carrying(&ip4(s))]),
    );
}

/// A source outside all prefixes. The filter runs with `unknown-source: drop`.
pub(super) fn sources(row: &mut Add) {
    row(
        "source of somebody else, IPv4",
        Works,
        opening(V4, |s| vec![frame4(&Ipv4::new(STRANGER.v4, SERVER.v4).carrying(s.tcp.clone()))]),
    );
    row(
        "source of somebody else, IPv6",
        Works,
        opening(V6, |s| one6(Ipv6::new(STRANGER.v6, SERVER.v6).carrying(s.tcp.clone()))),
    );
}
