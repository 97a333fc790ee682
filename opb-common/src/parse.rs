//! The parser: from the first byte of a frame to the TCP header, through one tunnel.
//!
//! Formats: IEEE 802.1Q, RFC 2516 (PPPoE), RFC 1661 (PPP), RFC 791 (IPv4), RFC 8200 (IPv6 and its
//! extension headers), RFC 9293 (TCP). Ways to hide a TCP header: RFC 1858, RFC 3128, RFC 7112.

use crate::{
    frame::{Frame, MAX_OFFSET, OFFSET_MASK},
    outcome::Reason,
    parsed::{Cursor, ParsedPacket},
    protocol::{
        AUTHENTICATION, DESTINATION_OPTIONS, ETH_IPV4, ETH_IPV6, ETH_PPPOE_SESSION,
        ETHERNET_HEADER, FRAGMENT, GRE, HOP_BY_HOP, IPV4_HEADER, IPV4_INSIDE, IPV6_HEADER,
        IPV6_INSIDE, PPP_IPV4, PPP_IPV6, PPP_UNREADABLE, ROUTING, TCP, TCP_HEADER, be16,
        deciding_port, is_tag,
    },
    settings::{PortSet, Settings, port_in},
    tunnel::{Tunnel, tunnel},
};

/// The most VLAN tags that the parser reads, including a tag that the hook holds beside the frame.
pub const MAX_TAGS: usize = 8;
/// The most IPv6 extension headers that the parser reads in one packet.
pub const MAX_EXTENSIONS: usize = 8;

/// The largest value of an IP length field. A larger packet is a GSO packet (BIG TCP), whose length
/// field is 0.
const LARGEST_IP: usize = 65535;

/// Parses a frame from byte 0 to the TCP header.
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F, settings: Settings, ports: &PortSet) -> ParsedPacket {
    match link(frame, settings) {
        Link::Ip(ip) => network(frame, settings, ports, ip),
        Link::NotIp => ParsedPacket::OTHER,
        Link::TooManyTags => ParsedPacket::too_many_tags(),
        Link::Unreadable(reason) => ParsedPacket::unreadable(reason),
    }
}

/// What follows the link layer.
enum Link {
    Ip(Cursor),
    NotIp,
    TooManyTags,
    Unreadable(Reason),
}

/// Parses Ethernet, VLAN tags and PPPoE. On a device without a link layer, nothing precedes the IP
/// header.
#[inline(always)]
fn link<F: Frame + ?Sized>(frame: &F, settings: Settings) -> Link {
    let mut end = frame.length();
    if settings.has(Settings::BARE_IP) {
        let Some(first) = frame.header::<2>(0) else { return Link::Unreadable(Reason::Malformed) };
        return match first[0] >> 4 {
            4 => Link::Ip(Cursor { at: 0, end, marks: 0 }),
            6 => Link::Ip(Cursor { at: 0, end, marks: Cursor::IPV6 }),
            _ => Link::NotIp,
        };
    }
    let Some(ethernet) = frame.header::<ETHERNET_HEADER>(0) else {
        return Link::Unreadable(Reason::Malformed);
    };
    let mut at = ETHERNET_HEADER;
    let mut protocol = be16(ethernet, 12);

    let room = MAX_TAGS - frame.tags_out_of_band();
    for tags in 0..=MAX_TAGS {
        if !is_tag(protocol) {
            break;
        }
        if tags >= room {
            return Link::TooManyTags;
        }
        at = frame.opaque(at) & OFFSET_MASK;
        let Some(tag) = frame.header::<4>(at) else { return Link::Unreadable(Reason::Malformed) };
        protocol = be16(tag, 2);
        at += 4;
    }
    at = frame.opaque(at) & OFFSET_MASK;

    let mut marks = 0;
    if protocol == ETH_PPPOE_SESSION {
        let Some(pppoe) = frame.header::<8>(at) else { return Link::Unreadable(Reason::Malformed) };
        let claimed = at + 6 + be16(pppoe, 4) as usize;
        if claimed > end {
            marks |= Cursor::BAD_LENGTH;
        }
        end = end.min(claimed);
        // In a one-byte protocol the lowest bit is set (RFC 1661, section 2). Linux accepts one
        // even if it was not negotiated (drivers/net/ppp/ppp_generic.c, `ppp_input`).
        let is_short = pppoe[6] & 1 != 0;
        let ppp = if is_short { u16::from(pppoe[6]) } else { be16(pppoe, 6) };
        let ppp_bytes = if is_short { 1 } else { 2 };
        protocol = match ppp {
            PPP_IPV4 => ETH_IPV4,
            PPP_IPV6 => ETH_IPV6,
            other if PPP_UNREADABLE.contains(&other) => return Link::Unreadable(Reason::Link),
            _ => return Link::NotIp,
        };
        at += 6 + ppp_bytes;
        marks |= ppp_bytes;
    }
    let header = match protocol {
        ETH_IPV4 => IPV4_HEADER,
        ETH_IPV6 => {
            marks |= Cursor::IPV6;
            IPV6_HEADER
        }
        _ => return Link::NotIp,
    };
    if at + header > end {
        // A PPPoE length that excludes the IP header hides neither its addresses nor its protocol.
        marks |= Cursor::BAD_LENGTH;
        end = frame.length().min(at + header);
    }
    Link::Ip(Cursor { at, end, marks })
}

/// What follows an IP header.
enum Next {
    /// A TCP header should start here.
    Tcp(Cursor),
    /// A tunnel with this protocol number.
    Tunnel(Cursor, u8),
    /// Neither, or a later fragment.
    Other,
    /// Possibly TCP, but it cannot be read. With the marks collected so far.
    Hidden(Reason, usize),
    /// The packet ends before its addresses.
    CutOff,
}

/// Parses the IP header, its extensions, and one packet inside it.
#[inline(always)]
fn network<F: Frame + ?Sized>(
    frame: &F,
    settings: Settings,
    ports: &PortSet,
    mut ip: Cursor,
) -> ParsedPacket {
    let mut outer = ip;
    for inside in [false, true] {
        ip = ip.opaque(frame);
        outer = outer.opaque(frame);
        let next = if ip.has(Cursor::IPV6) { ipv6(frame, ip) } else { ipv4(frame, ip) };
        match next {
            Next::Other => return ParsedPacket::OTHER,
            Next::Hidden(reason, marks) => {
                if !inside {
                    outer.marks |= marks & Cursor::NOT_FINAL;
                }
                // A tunnel may follow an outer header chain that ends out of reach.
                let by_outer = if inside {
                    marks & Cursor::CAPPED != 0
                } else {
                    matches!(reason, Reason::Headers)
                };
                let parsed = ParsedPacket::hidden(ip, reason);
                let parsed = if by_outer { parsed.hidden_by_outer() } else { parsed };
                return parsed.with_outer(outer);
            }
            // The inner header cannot name the line, so the outer header does.
            Next::CutOff if inside => return cut_off_inside(outer, ip),
            Next::CutOff => return ParsedPacket::unreadable(Reason::Malformed),
            Next::Tcp(tcp) => return transport(frame, settings, ports, ip, tcp).with_outer(outer),
            // The parser enters only one tunnel.
            Next::Tunnel(..) if inside => return ParsedPacket::OTHER,
            Next::Tunnel(payload, protocol) => {
                outer = ip;
                // Any IPv4 options count: a loop over them here would cost the verifier 10,000
                // instructions, and tunnels set none.
                let may_route = !ip.has(Cursor::IPV6) && payload.at > ip.at + IPV4_HEADER;
                if may_route || payload.has(Cursor::NOT_FINAL) {
                    outer.marks |= Cursor::NOT_FINAL;
                }
                ip = match tunnel(frame, payload, protocol) {
                    Tunnel::Ip(inner) => inner,
                    Tunnel::Other => return ParsedPacket::OTHER,
                    Tunnel::CutOff => return cut_off_inside(outer, payload),
                };
            }
        }
    }
    ParsedPacket::OTHER
}

/// Returns the result for an inner packet whose addresses cannot be read.
#[inline(always)]
fn cut_off_inside(outer: Cursor, inside: Cursor) -> ParsedPacket {
    let parsed = ParsedPacket::hidden(outer, cut_off(inside));
    if inside.has(Cursor::FRAGMENTED) { parsed.hidden_by_outer().with_outer(outer) } else { parsed }
}

/// Returns the reason why a header is incomplete.
#[inline(always)]
fn cut_off(cursor: Cursor) -> Reason {
    if cursor.has(Cursor::FRAGMENTED) { Reason::Fragment } else { Reason::Malformed }
}

/// Returns the mark for a length field that claims more bytes than there are.
///
/// In a first fragment this is not an error: it holds only the beginning of the packet inside it.
#[inline(always)]
fn exceeding(cursor: Cursor) -> usize {
    if cursor.has(Cursor::FRAGMENTED) { Cursor::CAPPED } else { Cursor::BAD_LENGTH }
}

/// Parses the IPv4 header at `cursor` (RFC 791).
#[inline(always)]
fn ipv4<F: Frame + ?Sized>(frame: &F, cursor: Cursor) -> Next {
    let Cursor { at, end, mut marks } = cursor;
    let Some(ip) = frame.header::<IPV4_HEADER>(at) else { return Next::CutOff };
    if at + IPV4_HEADER > end {
        return Next::CutOff;
    }
    let protocol = ip[9];
    if !matches!(protocol, TCP | IPV4_INSIDE | IPV6_INSIDE | GRE) {
        return Next::Other;
    }
    let fragment = be16(ip, 6);
    let fragment_offset = fragment & 0x1fff;
    if fragment_offset > 1 || (fragment_offset == 1 && protocol != TCP) {
        return Next::Other;
    }
    let header = usize::from(ip[0] & 15) * 4;
    let total = be16(ip, 2) as usize;
    // A length of 0 is valid in a GSO packet (BIG TCP) that exceeds the length field.
    let claimed = if total == 0 && end - at > LARGEST_IP { end } else { at + total };
    if claimed > end {
        marks |= exceeding(cursor);
    }
    let end = end.min(claimed);
    if ip[0] >> 4 != 4 || header < IPV4_HEADER {
        return Next::Hidden(Reason::Malformed, 0);
    }
    if at + header > end {
        return Next::Hidden(cut_off(cursor), marks);
    }
    if fragment_offset == 1 {
        // It starts eight bytes in, and can overwrite the flags of the first fragment (RFC 3128).
        return Next::Hidden(Reason::Fragment, 0);
    }
    if fragment & 0x2000 != 0 {
        marks |= Cursor::FRAGMENTED;
    }
    let payload = Cursor { at: at + header, end, marks };
    if protocol == TCP { Next::Tcp(payload) } else { Next::Tunnel(payload, protocol) }
}

/// Parses the IPv6 header at `cursor` with its extension headers (RFC 8200).
#[inline(always)]
fn ipv6<F: Frame + ?Sized>(frame: &F, cursor: Cursor) -> Next {
    let Cursor { at, mut end, mut marks } = cursor;
    let Some(ip) = frame.header::<IPV6_HEADER>(at) else { return Next::CutOff };
    if at + IPV6_HEADER > end {
        return Next::CutOff;
    }
    let mut next = usize::from(ip[6]);
    let length = be16(ip, 4) as usize;
    // A length of 0 is valid in a jumbogram (RFC 2675) and in a GSO packet, and wrong in any other.
    if length != 0 || (ip[6] != HOP_BY_HOP && end - at <= LARGEST_IP) {
        let claimed = at + IPV6_HEADER + length;
        if claimed > end {
            marks |= exceeding(cursor);
        }
        end = end.min(claimed);
    }
    let is_version_6 = ip[0] >> 4 == 6;

    let mut here = Cursor { at: at + IPV6_HEADER, end, marks };
    for extensions in 0..=MAX_EXTENSIONS {
        here = here.opaque(frame);
        next = frame.opaque(next) & 255;
        let protocol = next as u8;
        let is_extension = matches!(
            protocol,
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
        );
        if !is_extension && !matches!(protocol, TCP | IPV4_INSIDE | IPV6_INSIDE | GRE) {
            return Next::Other;
        }
        if !is_version_6 {
            return Next::Hidden(Reason::Malformed, 0);
        }
        if here.at > here.end {
            break;
        }
        if !is_extension {
            return if protocol == TCP { Next::Tcp(here) } else { Next::Tunnel(here, protocol) };
        }
        if extensions == MAX_EXTENSIONS || here.at + 8 > here.end {
            break;
        }
        let Some(extension) = frame.header::<8>(here.at) else { break };
        let length = match protocol {
            FRAGMENT => {
                let fragment = be16(extension, 2);
                match fragment >> 3 {
                    0 if fragment & 1 != 0 => here.marks |= Cursor::FRAGMENTED,
                    0 => {}
                    1 if extension[0] == TCP => return Next::Hidden(Reason::Fragment, 0),
                    _ => return Next::Other,
                }
                8
            }
            AUTHENTICATION => (usize::from(extension[1]) + 2) * 4,
            _ => (usize::from(extension[1]) + 1) * 8,
        };
        if protocol == ROUTING && extension[3] != 0 {
            here.marks |= Cursor::NOT_FINAL;
        }
        next = usize::from(extension[0]);
        here.at += length;
        if here.at > MAX_OFFSET {
            break;
        }
    }
    Next::Hidden(Reason::Headers, here.marks)
}

/// Parses the TCP header at `cursor` (RFC 9293): the deciding port, and whether the packet opens a
/// connection.
#[inline(always)]
fn transport<F: Frame + ?Sized>(
    frame: &F,
    settings: Settings,
    ports: &PortSet,
    ip: Cursor,
    cursor: Cursor,
) -> ParsedPacket {
    let ip = ip.opaque(frame);
    let cursor = cursor.opaque(frame);
    let tcp = match frame.header::<TCP_HEADER>(cursor.at) {
        Some(tcp) if cursor.at + TCP_HEADER <= cursor.end => tcp,
        _ => {
            let parsed = ParsedPacket::hidden(ip, cut_off(cursor));
            return if cursor.has(Cursor::CAPPED) { parsed.hidden_by_outer() } else { parsed };
        }
    };
    let port = deciding_port(tcp, 0, settings);
    if !port_in(ports, port) {
        return ParsedPacket::OTHER;
    }
    let (offset, flags) = (tcp[12], tcp[13]);
    let mut cursor = cursor;
    if !ip.has(Cursor::IPV6) && is_source_routed(frame, ip.at + IPV4_HEADER, cursor.at) {
        cursor.marks |= Cursor::NOT_FINAL;
    }
    ParsedPacket::tcp(ip, cursor.opaque(frame), port, offset, flags)
}

/// Returns whether the IPv4 options from `at` to `end` hold a source route or cannot be read.
#[inline(always)]
fn is_source_routed<F: Frame + ?Sized>(frame: &F, mut at: usize, mut end: usize) -> bool {
    const END_OF_LIST: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    for _ in 0..40 {
        at = frame.opaque(at) & OFFSET_MASK;
        end = frame.opaque(end) & OFFSET_MASK;
        if at >= end {
            return false;
        }
        // A one-byte option at the very end is read together with the first byte of the payload.
        let Some(option) = frame.header::<2>(at) else { return true };
        match option[0] {
            END_OF_LIST => return false,
            NO_OPERATION => at += 1,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return true,
            _ if option[1] < 2 => return true,
            _ => at += usize::from(option[1]),
        }
    }
    false
}
