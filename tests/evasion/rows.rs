//! The tricks, in the order of "evasion" in the description of the domain, whose numbers `item` bears.

use opb_lab::frames::{Ethernet, Ipv4, Ipv6, Tcp, flags};

use crate::{
    lab::{Disguise, Family, Opening, RELAY, SERVER, STRANGER, SUBSCRIBER, Segment},
    tunnels,
};

use Family::{V4, V6};
use flags::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};

/// What a trick is worth where nobody filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bare {
    /// A connection comes about and carries data.
    Works,
    /// Linux as the receiver does not play along; that it does not is asserted.
    ReceiverRefuses,
}

pub(crate) struct Row {
    pub(crate) item: u8,
    pub(crate) name: &'static str,
    pub(crate) opening: Opening,
    pub(crate) bare: Bare,
}

/// What must work under the filter too: without it, a filter that drops everything would pass.
pub(crate) fn controls() -> Vec<(&'static str, Opening)> {
    vec![
        ("to a relay over IPv4", opening(V4, |s| vec![eth().carrying(&to_relay4(s))])),
        ("to a relay over IPv6", opening(V6, |s| vec![eth().carrying(&to_relay6(s))])),
        (
            "to a relay in fragments",
            opening(V4, |s| {
                let part = |offset: u16, more, range: std::ops::Range<usize>| {
                    let packet = to_relay4(s).identification(s.id);
                    eth().carrying(&packet.fragment(offset, more).keep(range))
                };
                vec![part(0, true, 0..24), part(3, false, 24..4096)]
            }),
        ),
        ("to a relay, VLAN 0", opening(V4, |s| vec![eth().tag(0x8100, 0).carrying(&to_relay4(s))])),
    ]
}

pub(crate) fn rows() -> Vec<Row> {
    use Bare::{ReceiverRefuses, Works};
    let mut rows = Vec::new();
    let mut row = |item, name, bare, opening| rows.push(Row { item, name, opening, bare });

    row(0, "no trick, IPv4", Works, opening(V4, plain4));
    row(0, "no trick, IPv6", Works, opening(V6, plain6));

    // 2: odd flags.
    let flags = |family, flags| {
        let disguise: Disguise = if family == V4 { plain4 } else { plain6 };
        Opening { flags, ..opening(family, disguise) }
    };
    row(2, "SYN and FIN", ReceiverRefuses, flags(V4, SYN | FIN));
    row(2, "SYN and RST", ReceiverRefuses, flags(V4, SYN | RST));
    row(2, "SYN with ECN", Works, flags(V4, SYN | ECE | CWR));
    row(2, "SYN with ECN, IPv6", Works, flags(V6, SYN | ECE | CWR));
    row(2, "SYN, PSH and URG", Works, flags(V4, SYN | PSH | URG));

    // 3: data and options in the SYN.
    let data = |family, options, disguise| Opening {
        options,
        data: b"EHLO fast.example\r\n",
        ..opening(family, disguise)
    };
    row(3, "SYN with data", Works, data(V4, &[], plain4));
    row(3, "Fast Open, IPv4", Works, data(V4, FAST_OPEN, plain4));
    row(3, "Fast Open, IPv6", Works, data(V6, FAST_OPEN, plain6));
    row(3, "40 bytes of TCP options", Works, Opening { options: &[1; 40], ..opening(V4, plain4) });

    // 6: IPv4 fragments.
    row(
        6,
        "two fragments, TCP header in the first",
        Works,
        opening(V4, |s| pieces4(s, &[(0, 24), (24, 4096)])),
    );
    row(6, "first fragment of 8 bytes", Works, opening(V4, |s| pieces4(s, &[(0, 8), (8, 4096)])));
    row(
        6,
        "first fragment of 16 bytes",
        Works,
        opening(V4, |s| pieces4(s, &[(0, 16), (16, 4096)])),
    );
    row(
        6,
        "three fragments of 8 bytes",
        Works,
        opening(V4, |s| pieces4(s, &[(0, 8), (8, 16), (16, 4096)])),
    );
    row(
        6,
        "fragments in the wrong order",
        Works,
        opening(V4, |s| pieces4(s, &[(24, 4096), (0, 24)])),
    );
    row(6, "tiny first fragment last", Works, opening(V4, |s| pieces4(s, &[(8, 4096), (0, 8)])));
    row(
        6,
        "last fragment twice, first last",
        Works,
        opening(V4, |s| pieces4(s, &[(24, 4096), (24, 4096), (0, 24)])),
    );
    row(
        6,
        "fragments in VLAN 0",
        Works,
        opening(V4, |s| {
            [(0, 8), (8, 4096)]
                .map(|(from, to)| eth().tag(0x8100, 0).carrying(&piece4(s, from, to)))
                .to_vec()
        }),
    );
    row(
        6,
        "overlap at 8 bytes rewrites the flags",
        ReceiverRefuses,
        opening(V4, |s| {
            let innocent = Segment { tcp: innocent(), id: s.id };
            vec![frame4(&piece4(&innocent, 0, 24)), frame4(&piece4(s, 8, 4096))]
        }),
    );
    row(
        6,
        "second first fragment rewrites the flags",
        ReceiverRefuses,
        opening(V4, |s| {
            let innocent = Segment { tcp: innocent(), id: s.id };
            vec![
                frame4(&piece4(&innocent, 0, 24)),
                frame4(&piece4(s, 0, 24)),
                frame4(&piece4(s, 24, 4096)),
            ]
        }),
    );

    // 7: IPv6 extension headers and fragments.
    row(7, "hop-by-hop options", Works, opening(V6, |s| one6(ip6(s).hop_by_hop(1))));
    row(
        7,
        "one destination options header",
        Works,
        opening(V6, |s| one6(ip6(s).destination_options(1))),
    );
    row(7, "eight destination options headers", Works, opening(V6, |s| one6(options6(s, 8))));
    row(7, "nine destination options headers", Works, opening(V6, |s| one6(options6(s, 9))));
    row(7, "twenty destination options headers", Works, opening(V6, |s| one6(options6(s, 20))));
    row(
        7,
        "routing header, no segments left",
        Works,
        opening(V6, |s| one6(ip6(s).routing(0, 0, &[RELAY.v6]))),
    );
    row(7, "atomic fragment", Works, opening(V6, |s| one6(fragment6(ip6(s), s, 0, false))));
    row(
        7,
        "two atomic fragments in one packet",
        ReceiverRefuses,
        opening(V6, |s| one6(fragment6(fragment6(ip6(s), s, 0, false), s, 0, false))),
    );
    row(
        7,
        "atomic fragment behind options",
        Works,
        opening(V6, |s| {
            one6(
                fragment6(ip6(s).hop_by_hop(1).destination_options(1), s, 0, false)
                    .destination_options(1),
            )
        }),
    );
    row(
        7,
        "two fragments, TCP header in the first",
        Works,
        opening(V6, |s| pieces6(s, &[(0, 24), (24, 4096)])),
    );
    row(
        7,
        "fragments in the wrong order",
        Works,
        opening(V6, |s| pieces6(s, &[(24, 4096), (0, 24)])),
    );
    row(
        7,
        "first fragment of 8 bytes",
        ReceiverRefuses,
        opening(V6, |s| pieces6(s, &[(0, 8), (8, 4096)])),
    );
    row(
        7,
        "chain cut by the fragment",
        ReceiverRefuses,
        opening(V6, |s| {
            let packet = |offset, more| fragment6(ip6(s), s, offset, more).destination_options(1);
            vec![cut6(&packet(0, true), 0, 8), cut6(&packet(1, false), 8, 4096)]
        }),
    );
    row(
        7,
        "overlapping fragments",
        ReceiverRefuses,
        opening(V6, |s| pieces6(s, &[(0, 24), (16, 4096)])),
    );
    row(
        7,
        "authentication header",
        ReceiverRefuses,
        opening(V6, |s| one6(ip6(s).authentication(4))),
    );

    // 8: IPv4 options, and destinations that are not final.
    row(
        8,
        "40 bytes of IPv4 options",
        Works,
        opening(V4, |s| vec![frame4(&ip4(s).options(&[1; 40]))]),
    );
    row(8, "router alert", Works, opening(V4, |s| vec![frame4(&ip4(s).options(&[148, 4, 0, 0]))]));
    row(
        8,
        "loose source route by a relay",
        Works,
        opening(V4, |s| vec![frame4(&to_relay4(s).source_route(131, &[SERVER.v4]))]),
    );
    row(
        8,
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

    // 9: tags. A receiver without VLANs takes any number of tags off that say VLAN 0.
    row(9, "VLAN 0", Works, opening(V4, |s| tagged4(s, 1)));
    row(9, "VLAN 0 twice", Works, opening(V4, |s| tagged4(s, 2)));
    row(9, "VLAN 0 three times", Works, opening(V4, |s| tagged4(s, 3)));
    row(9, "VLAN 0 eight times", Works, opening(V4, |s| tagged4(s, 8)));
    row(9, "VLAN 0 nine times", Works, opening(V4, |s| tagged4(s, 9)));
    row(9, "VLAN 0 twenty times", Works, opening(V4, |s| tagged4(s, 20)));
    row(
        9,
        "VLAN 0 with a priority, 802.1ad",
        Works,
        opening(V6, |s| vec![eth().tag(0x88a8, 0xe000).tag(0x8100, 0x7000).carrying(&ip6(s))]),
    );
    row(
        9,
        "a VLAN that nobody has",
        ReceiverRefuses,
        opening(V4, |s| vec![eth().tag(0x8100, 7).carrying(&ip4(s))]),
    );

    // 11: a source that is in no prefix. The filter runs with `unknown-source: drop`.
    row(
        11,
        "source of somebody else, IPv4",
        Works,
        opening(V4, |s| vec![frame4(&Ipv4::new(STRANGER.v4, SERVER.v4).carrying(s.tcp.clone()))]),
    );
    row(
        11,
        "source of somebody else, IPv6",
        Works,
        opening(V6, |s| one6(Ipv6::new(STRANGER.v6, SERVER.v6).carrying(s.tcp.clone()))),
    );

    rows.extend(tunnels::rows());
    let mut row = |item, name, bare, opening| rows.push(Row { item, name, opening, bare });

    // 14: lengths that lie, and what a wire adds.
    row(
        14,
        "bytes behind the packet",
        Works,
        opening(V4, |s| {
            let mut frame = frame4(&ip4(s));
            frame.extend([0; 60]);
            vec![frame]
        }),
    );
    row(
        14,
        "IPv4 length beyond the frame",
        ReceiverRefuses,
        opening(V4, |s| vec![frame4(&ip4(s).total_length(1400))]),
    );
    row(
        14,
        "IPv4 length without TCP",
        ReceiverRefuses,
        opening(V4, |s| vec![frame4(&ip4(s).total_length(20))]),
    );
    row(
        14,
        "IPv6 length beyond the frame",
        ReceiverRefuses,
        opening(V6, |s| one6(ip6(s).payload_length(1400))),
    );
    row(14, "IPv6 length of 0", ReceiverRefuses, opening(V6, |s| one6(ip6(s).payload_length(0))));
    row(
        14,
        "data offset of 4 words",
        ReceiverRefuses,
        opening(V4, |s| {
            vec![frame4(
                &Ipv4::new(SUBSCRIBER.v4, SERVER.v4).carrying(s.tcp.clone().data_offset(4)),
            )]
        }),
    );
    rows
}

/// A cookie is asked for (RFC 7413, section 4.1.1), padded.
const FAST_OPEN: &[u8] = &[34, 2, 1, 1];

pub(crate) fn opening(family: Family, disguise: Disguise) -> Opening {
    // Some options, so that a fragment of 24 bytes is not all there is.
    Opening { family, flags: SYN, options: &[2, 4, 5, 0xb4, 1, 1, 1, 1], data: b"", disguise }
}

/// What a filter of SYNs has nothing against.
pub(crate) fn innocent() -> Tcp {
    Tcp::new(30_000, 25, ACK).numbers(1000, 1).options(&[1; 8])
}

pub(crate) fn eth() -> Ethernet {
    Ethernet::new()
}

pub(crate) fn ip4(s: &Segment) -> Ipv4 {
    Ipv4::new(SUBSCRIBER.v4, SERVER.v4).carrying(s.tcp.clone())
}

pub(crate) fn ip6(s: &Segment) -> Ipv6 {
    Ipv6::new(SUBSCRIBER.v6, SERVER.v6).carrying(s.tcp.clone())
}

fn to_relay4(s: &Segment) -> Ipv4 {
    Ipv4::new(SUBSCRIBER.v4, RELAY.v4).carrying(s.tcp.clone())
}

fn to_relay6(s: &Segment) -> Ipv6 {
    Ipv6::new(SUBSCRIBER.v6, RELAY.v6).carrying(s.tcp.clone())
}

pub(crate) fn frame4(packet: &Ipv4) -> Vec<u8> {
    eth().carrying(packet)
}

pub(crate) fn one6(packet: Ipv6) -> Vec<Vec<u8>> {
    vec![eth().carrying(&packet)]
}

pub(crate) fn plain4(s: &Segment) -> Vec<Vec<u8>> {
    vec![frame4(&ip4(s))]
}

fn plain6(s: &Segment) -> Vec<Vec<u8>> {
    one6(ip6(s))
}

fn tagged4(s: &Segment, count: usize) -> Vec<Vec<u8>> {
    vec![(0..count).fold(eth(), |frame, _| frame.tag(0x8100, 0)).carrying(&ip4(s))]
}

fn options6(s: &Segment, count: usize) -> Ipv6 {
    (0..count).fold(ip6(s), |packet, _| packet.destination_options(1))
}

/// The bytes of the segment from `from` to `to`; more is to come unless they reach its end.
pub(crate) fn piece4(s: &Segment, from: usize, to: usize) -> Ipv4 {
    let more = to < 4096;
    ip4(s).identification(s.id).fragment((from / 8) as u16, more).keep(from..to)
}

/// The segment in pieces, as a list of their bounds. A segment that is too short for that is sent whole.
fn pieces4(s: &Segment, pieces: &[(usize, usize)]) -> Vec<Vec<u8>> {
    if length(s) <= pieces.iter().map(|piece| piece.0).max().unwrap_or(0) {
        return plain4(s);
    }
    pieces.iter().map(|&(from, to)| frame4(&piece4(s, from, to))).collect()
}

fn pieces6(s: &Segment, pieces: &[(usize, usize)]) -> Vec<Vec<u8>> {
    if length(s) <= pieces.iter().map(|piece| piece.0).max().unwrap_or(0) {
        return one6(fragment6(ip6(s), s, 0, false));
    }
    let piece = |&(from, to): &(usize, usize)| {
        cut6(&fragment6(ip6(s), s, (from / 8) as u16, to < 4096), from, to)
    };
    pieces.iter().map(piece).collect()
}

/// The bytes from `from` to `to` of what stands behind the fragment header, which is the first extension header.
pub(crate) fn cut6(packet: &Ipv6, from: usize, to: usize) -> Vec<u8> {
    const ETHERNET_AND_IPV6: usize = 54;
    const HEADERS: usize = ETHERNET_AND_IPV6 + 8;
    let whole = eth().carrying(packet);
    let mut frame = whole[..HEADERS].to_vec();
    frame.extend(whole[HEADERS..].iter().take(to).skip(from));
    let length = (frame.len() - ETHERNET_AND_IPV6) as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame
}

/// A fragment header with the segment's own identification.
pub(crate) fn fragment6(packet: Ipv6, s: &Segment, offset: u16, more: bool) -> Ipv6 {
    let mut bytes = vec![0; 8];
    bytes[2..4].copy_from_slice(&(offset << 3 | u16::from(more)).to_be_bytes());
    bytes[4..8].copy_from_slice(&u32::from(s.id).to_be_bytes());
    packet.extension(44, bytes)
}

/// Bytes of the segment, header included.
fn length(s: &Segment) -> usize {
    use opb_lab::frames::Payload;
    s.tcp.bytes(&[0; 8]).len()
}
