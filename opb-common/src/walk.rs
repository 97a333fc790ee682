//! From the first byte of a frame to the TCP header: what is certainly no business of ours, and what is.
//!
//! Formats: IEEE 802.1Q, RFC 2516 (PPPoE), RFC 1661 and 1332/5072 (PPP protocol numbers), RFC 791 (IPv4),
//! RFC 8200 (IPv6 and its extension headers), RFC 9293 (TCP). What hides where: RFC 1858, 3128 and 7112.

use crate::{
    found::{Found, Place},
    frame::{Frame, MAX_OFFSET, OFFSET_MASK},
    outcome::Reason,
    settings::{PortSet, Settings, port_in},
};

/// VLAN tags that are walked, those that the hook holds beside the frame included.
pub const MAX_TAGS: usize = 8;
/// IPv6 extension headers that are walked in one packet.
pub const MAX_EXTENSIONS: usize = 8;

const ETH_IPV4: u16 = 0x0800;
const ETH_IPV6: u16 = 0x86dd;
const ETH_VLAN: u16 = 0x8100;
const ETH_QINQ: u16 = 0x88a8;
const ETH_PPPOE_SESSION: u16 = 0x8864;

const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;
/// Van Jacobson's compressed TCP (RFC 1144), multilink (RFC 1990) and compressed datagrams (RFC 1962): TCP may
/// be inside, and nobody can tell.
const PPP_UNREADABLE: [u16; 5] = [0x002d, 0x002f, 0x003d, 0x00fb, 0x00fd];

const HOP_BY_HOP: u8 = 0;
const IPV4_INSIDE: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6_INSIDE: u8 = 41;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;

const ETHERNET_HEADER: usize = 14;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;

/// Above this no length field of IP can be right: a GSO packet (BIG TCP) with a length of 0.
const LARGEST_IP: usize = 65535;

/// What can be said of a frame without walking it.
pub enum Glance {
    /// Certainly passes: plainly no TCP to (or from) a filtered port.
    Other,
    /// What [`walk`] finds in it: plainly TCP to (or from) a filtered port, with every length in order.
    Found(Found),
    /// Not plain: for [`walk`], which starts again from byte 0.
    Unclear,
}

/// Looks at the headers of a frame where those of most frames are.
///
/// `frame.length()` may be less than there is, but not more. Contract, fuzzed and proved in
/// `docs/certainly-passes.md`: where this says [`Glance::Other`], [`walk`] finds nothing, and where it says
/// [`Glance::Found`], [`walk`] finds the same.
#[inline(always)]
pub fn glance<F: Frame + ?Sized>(frame: &F, settings: Settings, ports: &PortSet) -> Glance {
    let (mut at, mut protocol) = if settings.has(Settings::BARE_IP) {
        let Some(first) = frame.header::<2>(0) else { return Glance::Unclear };
        match first[0] >> 4 {
            4 => (0, ETH_IPV4),
            6 => (0, ETH_IPV6),
            _ => return Glance::Unclear,
        }
    } else {
        let Some(ethernet) = frame.header::<ETHERNET_HEADER>(0) else { return Glance::Unclear };
        (ETHERNET_HEADER, be16(ethernet, 12))
    };

    if is_tag(protocol) {
        let Some(tag) = frame.header::<4>(at) else { return Glance::Unclear };
        (at, protocol) = (at + 4, be16(tag, 2));
        if is_tag(protocol) {
            let Some(tag) = frame.header::<4>(at) else { return Glance::Unclear };
            (at, protocol) = (at + 4, be16(tag, 2));
        }
    }

    // With PPPoE, its length must hold the headers that are read below; without, the frame does.
    let mut room = None;
    if protocol == ETH_PPPOE_SESSION {
        let Some(pppoe) = frame.header::<8>(at) else { return Glance::Unclear };
        protocol = match be16(pppoe, 6) {
            PPP_IPV4 => ETH_IPV4,
            PPP_IPV6 => ETH_IPV6,
            _ => return Glance::Unclear,
        };
        // It counts the two bytes of PPP protocol in front of the IP header.
        room = Some((be16(pppoe, 4) as usize).wrapping_sub(2));
        at += 8;
    }

    if protocol == ETH_IPV4 {
        let Some(ip) = frame.header::<24>(at) else { return Glance::Unclear };
        if ip[0] != 0x45 {
            return Glance::Unclear;
        }
        match ip[9] {
            TCP => {}
            IPV6_INSIDE => return Glance::Unclear,
            _ => return Glance::Other,
        }
        let length = be16(ip, 2) as usize;
        if be16(ip, 6) & 0x3fff != 0 {
            return Glance::Unclear;
        }
        segment::<F, IPV4_HEADER, { IPV4_HEADER + TCP_HEADER }>(
            frame,
            settings,
            ports,
            Plain { at, length, room },
        )
    } else if protocol == ETH_IPV6 {
        let Some(ip) = frame.header::<44>(at) else { return Glance::Unclear };
        if ip[0] >> 4 != 6 {
            return Glance::Unclear;
        }
        match ip[6] {
            TCP => {}
            UDP | ICMPV6 => return Glance::Other,
            _ => return Glance::Unclear,
        }
        let length = IPV6_HEADER + be16(ip, 4) as usize;
        segment::<F, IPV6_HEADER, { IPV6_HEADER + TCP_HEADER }>(
            frame,
            settings,
            ports,
            Plain { at, length, room },
        )
    } else if is_tag(protocol) || protocol == ETH_PPPOE_SESSION {
        Glance::Unclear
    } else {
        Glance::Other
    }
}

/// An IP packet that is no fragment, with TCP right behind its header of the usual length.
struct Plain {
    /// Where it starts.
    at: usize,
    /// How long it says it is.
    length: usize,
    /// How long PPPoE says it is.
    room: Option<usize>,
}

/// The end of [`glance`]: `IP` bytes of IP header, and `BOTH` with the TCP header.
#[inline(always)]
fn segment<F: Frame + ?Sized, const IP: usize, const BOTH: usize>(
    frame: &F,
    settings: Settings,
    ports: &PortSet,
    Plain { at, length, room }: Plain,
) -> Glance {
    let Some(headers) = frame.header::<BOTH>(at) else { return Glance::Unclear };
    if length < BOTH || room.is_some_and(|room| (room as isize) < BOTH as isize) {
        return Glance::Unclear;
    }
    let port = deciding_port(headers, IP, settings);
    if !port_in(ports, port) {
        return Glance::Other;
    }
    let (offset, flags) = (headers[IP + 12], headers[IP + 13]);
    let end = at + room.unwrap_or(length);
    if offset >> 4 < 5 || end > frame.length() || at + length > end {
        return Glance::Unclear;
    }
    let family = if IP == IPV6_HEADER { Place::IPV6 } else { 0 };
    let marks = family | if room.is_some() { 2 } else { 0 };
    let ip = Place { at, end, marks };
    Glance::Found(Found::tcp(ip, Place { at: at + IP, ..ip }, port, offset, flags))
}

/// Walks from byte 0 to the TCP header, through everything that section "Verdicts" of the design names.
#[inline(always)]
pub fn walk<F: Frame + ?Sized>(frame: &F, settings: Settings, ports: &PortSet) -> Found {
    match link(frame, settings) {
        Link::Ip(ip) => network(frame, settings, ports, ip),
        Link::NotIp => Found::NOTHING,
        Link::TooDeep => Found::too_deep(),
        Link::Unreadable(reason) => Found::unreadable(reason),
    }
}

enum Link {
    Ip(Place),
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
            4 => Link::Ip(Place { at: 0, end, marks: 0 }),
            6 => Link::Ip(Place { at: 0, end, marks: Place::IPV6 }),
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
            marks |= Place::LIES;
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
            marks |= Place::IPV6;
            IPV6_HEADER
        }
        _ => return Link::NotIp,
    };
    if at + header > end {
        // A PPPoE length that leaves out the IP header hides neither the addresses nor that it is no TCP.
        marks |= Place::LIES;
        end = frame.length().min(at + header);
    }
    Link::Ip(Place { at, end, marks })
}

/// What stands behind an IP header.
enum Next {
    /// A TCP header should be here.
    Tcp(Place),
    /// An IP packet of the other family.
    Inner(Place),
    /// Neither, or a later fragment.
    Other,
    /// May be TCP, and cannot be read.
    Hidden(Reason),
    /// Not even the addresses can be read.
    CutOff,
}

/// The IP header, its extensions, and one packet of the other family inside it.
#[inline(always)]
fn network<F: Frame + ?Sized>(
    frame: &F,
    settings: Settings,
    ports: &PortSet,
    mut ip: Place,
) -> Found {
    let mut outer = ip;
    for inside in [false, true] {
        ip = ip.opaque(frame);
        outer = outer.opaque(frame);
        let next = if ip.has(Place::IPV6) { ipv6(frame, ip) } else { ipv4(frame, ip) };
        match next {
            Next::Other => return Found::NOTHING,
            Next::Hidden(reason) => return Found::hidden(ip, reason),
            // The inner header does not say whose packet this is, so the outer one does.
            Next::CutOff if inside => return Found::hidden(outer, cut_off(ip)),
            Next::CutOff => return Found::unreadable(Reason::Malformed),
            Next::Tcp(tcp) => return transport(frame, settings, ports, ip, tcp),
            Next::Inner(inner) => {
                outer = ip;
                let marks = (inner.marks | Place::INSIDE) & !Place::NOT_FINAL;
                ip = Place { marks: marks ^ Place::IPV6, ..inner };
            }
        }
    }
    // More than one packet inside another is not walked.
    Found::NOTHING
}

/// Why a header is not all there.
#[inline(always)]
fn cut_off(place: Place) -> Reason {
    if place.has(Place::FRAGMENTED) { Reason::Fragment } else { Reason::Malformed }
}

/// RFC 791. `place` is where the header starts.
#[inline(always)]
fn ipv4<F: Frame + ?Sized>(frame: &F, place: Place) -> Next {
    let Place { at, end, mut marks } = place;
    let Some(ip) = frame.header::<IPV4_HEADER>(at) else { return Next::CutOff };
    if at + IPV4_HEADER > end {
        return Next::CutOff;
    }
    let protocol = ip[9];
    if protocol != TCP && protocol != IPV6_INSIDE {
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
        marks |= Place::LIES;
    }
    let end = end.min(claimed);
    if ip[0] >> 4 != 4 || header < IPV4_HEADER || at + header > end {
        return Next::Hidden(Reason::Malformed);
    }
    if fragment_offset == 1 {
        // Eight bytes in: it can overwrite the flags of the fragment before it (RFC 3128).
        return Next::Hidden(Reason::Fragment);
    }
    if fragment & 0x2000 != 0 {
        marks |= Place::FRAGMENTED;
    }
    let payload = Place { at: at + header, end, marks };
    if protocol == TCP { Next::Tcp(payload) } else { Next::Inner(payload) }
}

/// RFC 8200, with its extension headers.
#[inline(always)]
fn ipv6<F: Frame + ?Sized>(frame: &F, place: Place) -> Next {
    let Place { at, mut end, mut marks } = place;
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
            marks |= Place::LIES;
        }
        end = end.min(claimed);
    }
    let is_version_6 = ip[0] >> 4 == 6;

    let mut here = Place { at: at + IPV6_HEADER, end, marks };
    for walked in 0..=MAX_EXTENSIONS {
        here = here.opaque(frame);
        next = frame.opaque(next) & 255;
        let protocol = next as u8;
        let is_extension = matches!(
            protocol,
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
        );
        if !is_extension && protocol != TCP && protocol != IPV4_INSIDE {
            return Next::Other;
        }
        if !is_version_6 {
            return Next::Hidden(Reason::Malformed);
        }
        if here.at > here.end {
            break;
        }
        if !is_extension {
            return if protocol == TCP { Next::Tcp(here) } else { Next::Inner(here) };
        }
        if walked == MAX_EXTENSIONS || here.at + 8 > here.end {
            break;
        }
        let Some(extension) = frame.header::<8>(here.at) else { break };
        let length = match protocol {
            FRAGMENT => {
                let fragment = be16(extension, 2);
                match fragment >> 3 {
                    0 if fragment & 1 != 0 => here.marks |= Place::FRAGMENTED,
                    0 => {}
                    1 if extension[0] == TCP => return Next::Hidden(Reason::Fragment),
                    _ => return Next::Other,
                }
                8
            }
            AUTHENTICATION => (usize::from(extension[1]) + 2) * 4,
            _ => (usize::from(extension[1]) + 1) * 8,
        };
        if protocol == ROUTING && extension[3] != 0 {
            here.marks |= Place::NOT_FINAL;
        }
        next = usize::from(extension[0]);
        here.at += length;
        if here.at > MAX_OFFSET {
            break;
        }
    }
    Next::Hidden(Reason::Headers)
}

/// RFC 9293: the port that decides, and whether the packet opens a connection.
#[inline(always)]
fn transport<F: Frame + ?Sized>(
    frame: &F,
    settings: Settings,
    ports: &PortSet,
    ip: Place,
    place: Place,
) -> Found {
    let ip = ip.opaque(frame);
    let place = place.opaque(frame);
    if place.at + TCP_HEADER > place.end {
        return Found::hidden(ip, cut_off(place));
    }
    let Some(tcp) = frame.header::<TCP_HEADER>(place.at) else {
        return Found::hidden(ip, cut_off(place));
    };
    let port = deciding_port(tcp, 0, settings);
    if !port_in(ports, port) {
        return Found::NOTHING;
    }
    let (offset, flags) = (tcp[12], tcp[13]);
    let mut place = place;
    if !ip.has(Place::IPV6) && is_source_routed(frame, ip.at + IPV4_HEADER, place.at) {
        place.marks |= Place::NOT_FINAL;
    }
    Found::tcp(ip, place.opaque(frame), port, offset, flags)
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
fn deciding_port<const N: usize>(bytes: &[u8; N], tcp: usize, settings: Settings) -> u16 {
    be16(bytes, if settings.has(Settings::DOWNSTREAM) { tcp } else { tcp + 2 })
}

#[inline(always)]
fn is_tag(protocol: u16) -> bool {
    protocol == ETH_VLAN || protocol == ETH_QINQ
}

#[inline(always)]
fn be16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
