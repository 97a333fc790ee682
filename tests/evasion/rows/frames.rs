//! Segments as frames.

use opb_lab::frames::{Ethernet, Ipv4, Ipv6, Payload, Tcp, flags};

use crate::lab::{Disguise, Family, Opening, RELAY, SERVER, SUBSCRIBER, Segment};

use flags::{ACK, SYN};

pub(crate) fn opening(family: Family, disguise: Disguise) -> Opening {
    // Some options, so that a fragment of 24 bytes is not all there is.
    Opening { family, flags: SYN, options: &[2, 4, 5, 0xb4, 1, 1, 1, 1], data: b"", disguise }
}

/// A segment that a filter of SYNs passes.
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

pub(crate) fn to_relay4(s: &Segment) -> Ipv4 {
    Ipv4::new(SUBSCRIBER.v4, RELAY.v4).carrying(s.tcp.clone())
}

pub(crate) fn to_relay6(s: &Segment) -> Ipv6 {
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

pub(crate) fn plain6(s: &Segment) -> Vec<Vec<u8>> {
    one6(ip6(s))
}

pub(crate) fn tagged4(s: &Segment, count: usize) -> Vec<Vec<u8>> {
    vec![(0..count).fold(eth(), |frame, _| frame.tag(0x8100, 0)).carrying(&ip4(s))]
}

pub(crate) fn options6(s: &Segment, count: usize) -> Ipv6 {
    (0..count).fold(ip6(s), |packet, _| packet.destination_options(1))
}

/// The bytes of the segment from `from` to `to`. The flag "more fragments" is set unless they reach its end.
pub(crate) fn piece4(s: &Segment, from: usize, to: usize) -> Ipv4 {
    let more = to < 4096;
    ip4(s).identification(s.id).fragment((from / 8) as u16, more).keep(from..to)
}

/// The segment in pieces with the given bounds. A segment that is too short is sent whole.
pub(crate) fn pieces4(s: &Segment, pieces: &[(usize, usize)]) -> Vec<Vec<u8>> {
    if length(s) <= pieces.iter().map(|piece| piece.0).max().unwrap_or(0) {
        return plain4(s);
    }
    pieces.iter().map(|&(from, to)| frame4(&piece4(s, from, to))).collect()
}

pub(crate) fn pieces6(s: &Segment, pieces: &[(usize, usize)]) -> Vec<Vec<u8>> {
    if length(s) <= pieces.iter().map(|piece| piece.0).max().unwrap_or(0) {
        return one6(fragment6(ip6(s), s, 0, false));
    }
    let piece = |&(from, to): &(usize, usize)| {
        cut6(&fragment6(ip6(s), s, (from / 8) as u16, to < 4096), from, to)
    };
    pieces.iter().map(piece).collect()
}

/// The bytes from `from` to `to` behind the fragment header, which is the first extension header.
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
    s.tcp.bytes(&[0; 8]).len()
}
