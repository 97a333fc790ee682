//! From the first byte of a frame to the TCP header, through one packet inside another.
//!
//! Formats: IEEE 802.1Q, RFC 2516 (PPPoE), RFC 1661 and 1332/5072 (PPP protocol numbers), RFC 791 (IPv4),
//! RFC 8200 (IPv6 and its extension headers), RFC 9293 (TCP); tunnels by RFC 2003 (IPv4 in IPv4), RFC 2473
//! (anything in IPv6), RFC 4213 (IPv6 in IPv4), RFC 2784 and 2890 (GRE). What hides where: RFC 1858, 3128 and 7112.

use crate::{
    frame::{Frame, MAX_OFFSET, OFFSET_MASK},
    outcome::Reason,
    parsed::{Cursor, ParsedPacket},
    settings::{PortSet, Settings, port_in},
};

/// VLAN tags that are parsed, those that the hook holds beside the frame included.
pub const MAX_TAGS: usize = 8;
/// IPv6 extension headers that are parsed in one packet.
pub const MAX_EXTENSIONS: usize = 8;

pub(crate) const ETH_IPV4: u16 = 0x0800;
pub(crate) const ETH_IPV6: u16 = 0x86dd;
const ETH_VLAN: u16 = 0x8100;
const ETH_QINQ: u16 = 0x88a8;
pub(crate) const ETH_PPPOE_SESSION: u16 = 0x8864;

pub(crate) const PPP_IPV4: u16 = 0x0021;
pub(crate) const PPP_IPV6: u16 = 0x0057;
/// Van Jacobson's compressed TCP (RFC 1144), multilink (RFC 1990) and compressed datagrams (RFC 1962): TCP may
/// be inside, and nobody can tell.
const PPP_UNREADABLE: [u16; 5] = [0x002d, 0x002f, 0x003d, 0x00fb, 0x00fd];

const HOP_BY_HOP: u8 = 0;
pub(crate) const IPV4_INSIDE: u8 = 4;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const IPV6_INSIDE: u8 = 41;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
pub(crate) const GRE: u8 = 47;
const AUTHENTICATION: u8 = 51;
pub(crate) const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;

pub(crate) const ETHERNET_HEADER: usize = 14;
pub(crate) const IPV4_HEADER: usize = 20;
pub(crate) const IPV6_HEADER: usize = 40;
pub(crate) const TCP_HEADER: usize = 20;

/// Above this no length field of IP can be right: a GSO packet (BIG TCP) with a length of 0.
const LARGEST_IP: usize = 65535;

/// Walks from byte 0 to the TCP header.
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F, settings: Settings, ports: &PortSet) -> ParsedPacket {
    match link(frame, settings) {
        Link::Ip(ip) => network(frame, settings, ports, ip),
        Link::NotIp => ParsedPacket::NOTHING,
        Link::TooDeep => ParsedPacket::too_deep(),
        Link::Unreadable(reason) => ParsedPacket::unreadable(reason),
    }
}

enum Link {
    Ip(Cursor),
    NotIp,
    TooDeep,
    Unreadable(Reason),
}

/// Ethernet, VLAN tags and PPPoE, or nothing at all on a bare IP device.
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
    for walked in 0..=MAX_TAGS {
        if !is_tag(protocol) {
            break;
        }
        if walked >= room {
            return Link::TooDeep;
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
            marks |= Cursor::LIES;
        }
        end = end.min(claimed);
        // Linux expands a one-byte protocol whether it was negotiated or not (ppp_generic.c, ppp_input),
        // and in a one-byte protocol the lowest bit is set (RFC 1661, section 2).
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
        // A PPPoE length that leaves out the IP header hides neither the addresses nor that it is no TCP.
        marks |= Cursor::LIES;
        end = frame.length().min(at + header);
    }
    Link::Ip(Cursor { at, end, marks })
}

/// What stands behind an IP header.
enum Next {
    /// A TCP header should be here.
    Tcp(Cursor),
    /// A packet in a tunnel of that protocol number.
    Tunnel(Cursor, u8),
    /// Neither, or a later fragment.
    Other,
    /// May be TCP, and cannot be read. With the marks so far.
    Hidden(Reason, usize),
    /// Not even the addresses can be read.
    CutOff,
}

/// The IP header, its extensions, and one packet inside it.
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
            Next::Other => return ParsedPacket::NOTHING,
            Next::Hidden(reason, marks) => {
                // Of a chain that ends out of sight, nobody knows whether a tunnel is behind it.
                let is_outside = if inside {
                    marks & Cursor::CAPPED != 0
                } else {
                    matches!(reason, Reason::Headers)
                };
                let parsed = ParsedPacket::hidden(ip, reason);
                let parsed = if is_outside { parsed.hides_outside() } else { parsed };
                return parsed.within(outer);
            }
            // The inner header does not say whose packet this is, so the outer one does.
            Next::CutOff if inside => return cut_off_inside(outer, ip),
            Next::CutOff => return ParsedPacket::unreadable(Reason::Malformed),
            Next::Tcp(tcp) => return transport(frame, settings, ports, ip, tcp).within(outer),
            // More than one packet inside another is not parsed.
            Next::Tunnel(..) if inside => return ParsedPacket::NOTHING,
            Next::Tunnel(payload, protocol) => {
                outer = ip;
                ip = match tunnel(frame, payload, protocol) {
                    Tunnel::Ip(inner) => inner,
                    Tunnel::Other => return ParsedPacket::NOTHING,
                    Tunnel::CutOff => return cut_off_inside(outer, payload),
                };
            }
        }
    }
    ParsedPacket::NOTHING
}

/// What a tunnel carries.
enum Tunnel {
    /// An IP packet.
    Ip(Cursor),
    /// No IP packet, or one that no receiver would take.
    Other,
    /// It ends before that is known.
    CutOff,
}

/// The header of the tunnel, if it has one, up to the packet inside it.
#[inline(always)]
fn tunnel<F: Frame + ?Sized>(frame: &F, payload: Cursor, protocol: u8) -> Tunnel {
    let mut inner = payload;
    let is_ipv6 = if protocol == GRE {
        let Some(gre) = frame.header::<4>(inner.at) else { return Tunnel::CutOff };
        if inner.at + 4 > inner.end {
            return Tunnel::CutOff;
        }
        // Linux discards a packet with routing (RFC 1701) or of another version (gre_demux.c, gre_parse_header).
        const ROUTING_OR_VERSION: u16 = 0x4007;
        let flags = be16(gre, 0);
        if flags & ROUTING_OR_VERSION != 0 {
            return Tunnel::Other;
        }
        let is_ipv6 = match be16(gre, 2) {
            ETH_IPV4 => false,
            ETH_IPV6 => true,
            _ => return Tunnel::Other,
        };
        // RFC 2784 and 2890: checksum, key and sequence number, 4 bytes each. Without a branch, for the verifier's sake.
        let fields = (flags >> 15 & 1) + (flags >> 13 & 1) + (flags >> 12 & 1);
        inner.at += 4 + 4 * usize::from(fields);
        is_ipv6
    } else {
        protocol == IPV6_INSIDE
    };
    inner.marks = (inner.marks | Cursor::INSIDE) & !(Cursor::NOT_FINAL | Cursor::IPV6);
    if is_ipv6 {
        inner.marks |= Cursor::IPV6;
    }
    Tunnel::Ip(inner)
}

/// The packet inside `outer` has no addresses to read.
#[inline(always)]
fn cut_off_inside(outer: Cursor, inside: Cursor) -> ParsedPacket {
    let parsed = ParsedPacket::hidden(outer, cut_off(inside));
    if inside.has(Cursor::FRAGMENTED) { parsed.hides_outside().within(outer) } else { parsed }
}

/// Why a header is not all there.
#[inline(always)]
fn cut_off(place: Cursor) -> Reason {
    if place.has(Cursor::FRAGMENTED) { Reason::Fragment } else { Reason::Malformed }
}

/// Marks of a header at which a length claims more than there is. A first fragment honestly holds less than the packet
/// inside it claims.
#[inline(always)]
fn exceeding(place: Cursor) -> usize {
    if place.has(Cursor::FRAGMENTED) { Cursor::CAPPED } else { Cursor::LIES }
}

/// RFC 791. `place` is where the header starts.
#[inline(always)]
fn ipv4<F: Frame + ?Sized>(frame: &F, place: Cursor) -> Next {
    let Cursor { at, end, mut marks } = place;
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
    // A length of 0 in a larger packet than any length could say is a GSO packet (BIG TCP).
    let claimed = if total == 0 && end - at > LARGEST_IP { end } else { at + total };
    if claimed > end {
        marks |= exceeding(place);
    }
    let end = end.min(claimed);
    if ip[0] >> 4 != 4 || header < IPV4_HEADER {
        return Next::Hidden(Reason::Malformed, 0);
    }
    if at + header > end {
        return Next::Hidden(cut_off(place), marks);
    }
    if fragment_offset == 1 {
        // Eight bytes in: it can overwrite the flags of the fragment before it (RFC 3128).
        return Next::Hidden(Reason::Fragment, 0);
    }
    if fragment & 0x2000 != 0 {
        marks |= Cursor::FRAGMENTED;
    }
    let payload = Cursor { at: at + header, end, marks };
    if protocol == TCP { Next::Tcp(payload) } else { Next::Tunnel(payload, protocol) }
}

/// RFC 8200, with its extension headers.
#[inline(always)]
fn ipv6<F: Frame + ?Sized>(frame: &F, place: Cursor) -> Next {
    let Cursor { at, mut end, mut marks } = place;
    let Some(ip) = frame.header::<IPV6_HEADER>(at) else { return Next::CutOff };
    if at + IPV6_HEADER > end {
        return Next::CutOff;
    }
    let mut next = usize::from(ip[6]);
    let length = be16(ip, 4) as usize;
    // A length of 0 is a jumbogram (RFC 2675) or a GSO packet; in any other it is a lie like others.
    if length != 0 || (ip[6] != HOP_BY_HOP && end - at <= LARGEST_IP) {
        let claimed = at + IPV6_HEADER + length;
        if claimed > end {
            marks |= exceeding(place);
        }
        end = end.min(claimed);
    }
    let is_version_6 = ip[0] >> 4 == 6;

    let mut here = Cursor { at: at + IPV6_HEADER, end, marks };
    for walked in 0..=MAX_EXTENSIONS {
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
        if walked == MAX_EXTENSIONS || here.at + 8 > here.end {
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

/// RFC 9293: the port that decides, and whether the packet opens a connection.
#[inline(always)]
fn transport<F: Frame + ?Sized>(
    frame: &F,
    settings: Settings,
    ports: &PortSet,
    ip: Cursor,
    place: Cursor,
) -> ParsedPacket {
    let ip = ip.opaque(frame);
    let place = place.opaque(frame);
    let tcp = match frame.header::<TCP_HEADER>(place.at) {
        Some(tcp) if place.at + TCP_HEADER <= place.end => tcp,
        _ => {
            let parsed = ParsedPacket::hidden(ip, cut_off(place));
            return if place.has(Cursor::CAPPED) { parsed.hides_outside() } else { parsed };
        }
    };
    let port = deciding_port(tcp, 0, settings);
    if !port_in(ports, port) {
        return ParsedPacket::NOTHING;
    }
    let (offset, flags) = (tcp[12], tcp[13]);
    let mut place = place;
    if !ip.has(Cursor::IPV6) && is_source_routed(frame, ip.at + IPV4_HEADER, place.at) {
        place.marks |= Cursor::NOT_FINAL;
    }
    ParsedPacket::tcp(ip, place.opaque(frame), port, offset, flags)
}

/// Whether the IPv4 options from `at` to `end` hold a source route, or cannot be read.
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
        // An option of one byte at the very end is read together with the first byte behind the header.
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

/// Destination port upstream, source port downstream, of the TCP header at `tcp` in `bytes`.
#[inline(always)]
pub(crate) fn deciding_port<const N: usize>(
    bytes: &[u8; N],
    tcp: usize,
    settings: Settings,
) -> u16 {
    be16(bytes, if settings.has(Settings::DOWNSTREAM) { tcp } else { tcp + 2 })
}

#[inline(always)]
pub(crate) fn is_tag(protocol: u16) -> bool {
    protocol == ETH_VLAN || protocol == ETH_QINQ
}

#[inline(always)]
pub(crate) fn be16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
