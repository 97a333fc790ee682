//! The fast path: settles most frames from the headers at their usual offsets, without the parser.

use crate::{
    frame::Frame,
    parsed::{Cursor, ParsedPacket},
    protocol::{
        ETH_IPV4, ETH_IPV6, ETH_PPPOE_SESSION, ETHERNET_HEADER, GRE, ICMPV6, IPV4_HEADER,
        IPV4_INSIDE, IPV6_HEADER, IPV6_INSIDE, PPP_IPV4, PPP_IPV6, TCP, TCP_HEADER, UDP, be16,
        deciding_port, is_tag,
    },
    settings::{PortSet, Settings, port_in},
};

/// What the fast path can say about a frame.
pub enum FastPath {
    /// The frame certainly passes: it is plainly not TCP to (or from) a filtered port.
    Other,
    /// The result that [`parse`](crate::parse::parse) would return: plainly TCP to (or from) a
    /// filtered port, with consistent lengths.
    Parsed(ParsedPacket),
    /// The frame needs [`parse`](crate::parse::parse), which starts again at byte 0.
    Unclear,
}

/// Classifies a frame by the headers at their usual offsets.
///
/// `frame.length()` may be less than the real length, but not more. Contract, fuzzed and proved in
/// `docs/fast-path.md`: where this returns [`FastPath::Other`], [`parse`](crate::parse::parse)
/// returns [`ParsedPacket::OTHER`]; where this returns [`FastPath::Parsed`], `parse` returns the
/// same value.
#[inline(always)]
pub fn classify<F: Frame + ?Sized>(frame: &F, settings: Settings, ports: &PortSet) -> FastPath {
    let (mut at, mut protocol) = if settings.has(Settings::BARE_IP) {
        let Some(first) = frame.header::<2>(0) else { return FastPath::Unclear };
        match first[0] >> 4 {
            4 => (0, ETH_IPV4),
            6 => (0, ETH_IPV6),
            _ => return FastPath::Unclear,
        }
    } else {
        let Some(ethernet) = frame.header::<ETHERNET_HEADER>(0) else { return FastPath::Unclear };
        (ETHERNET_HEADER, be16(ethernet, 12))
    };

    if is_tag(protocol) {
        let Some(tag) = frame.header::<4>(at) else { return FastPath::Unclear };
        (at, protocol) = (at + 4, be16(tag, 2));
        if is_tag(protocol) {
            let Some(tag) = frame.header::<4>(at) else { return FastPath::Unclear };
            (at, protocol) = (at + 4, be16(tag, 2));
        }
    }

    // The PPPoE length must cover the headers read below. Without PPPoE, the frame itself does.
    let mut room = None;
    if protocol == ETH_PPPOE_SESSION {
        let Some(pppoe) = frame.header::<8>(at) else { return FastPath::Unclear };
        protocol = match be16(pppoe, 6) {
            PPP_IPV4 => ETH_IPV4,
            PPP_IPV6 => ETH_IPV6,
            _ => return FastPath::Unclear,
        };
        // It includes the two bytes of PPP protocol before the IP header.
        room = Some((be16(pppoe, 4) as usize).wrapping_sub(2));
        at += 8;
    }

    if protocol == ETH_IPV4 {
        let Some(ip) = frame.header::<24>(at) else { return FastPath::Unclear };
        if ip[0] != 0x45 {
            return FastPath::Unclear;
        }
        match ip[9] {
            TCP => {}
            UDP => return FastPath::Other,
            IPV4_INSIDE | IPV6_INSIDE | GRE => return FastPath::Unclear,
            _ => return FastPath::Other,
        }
        let length = be16(ip, 2) as usize;
        if be16(ip, 6) & 0x3fff != 0 {
            return FastPath::Unclear;
        }
        segment::<F, IPV4_HEADER, { IPV4_HEADER + TCP_HEADER }>(
            frame,
            settings,
            ports,
            Plain { at, length, room },
        )
    } else if protocol == ETH_IPV6 {
        let Some(ip) = frame.header::<44>(at) else { return FastPath::Unclear };
        if ip[0] >> 4 != 6 {
            return FastPath::Unclear;
        }
        match ip[6] {
            TCP => {}
            UDP | ICMPV6 => return FastPath::Other,
            _ => return FastPath::Unclear,
        }
        let length = IPV6_HEADER + be16(ip, 4) as usize;
        segment::<F, IPV6_HEADER, { IPV6_HEADER + TCP_HEADER }>(
            frame,
            settings,
            ports,
            Plain { at, length, room },
        )
    } else if is_tag(protocol) || protocol == ETH_PPPOE_SESSION {
        FastPath::Unclear
    } else {
        FastPath::Other
    }
}

/// An unfragmented IP packet whose header has the minimum length and is followed by TCP.
struct Plain {
    /// Offset of the IP header.
    at: usize,
    /// Length of the packet by its IP header, in bytes.
    length: usize,
    /// Length of the packet by PPPoE, in bytes.
    room: Option<usize>,
}

/// Classifies a TCP segment: the last step of [`classify`].
///
/// `IP` is the length of the IP header, `BOTH` that of the IP and TCP headers together, in bytes.
#[inline(always)]
fn segment<F: Frame + ?Sized, const IP: usize, const BOTH: usize>(
    frame: &F,
    settings: Settings,
    ports: &PortSet,
    Plain { at, length, room }: Plain,
) -> FastPath {
    let Some(headers) = frame.header::<BOTH>(at) else { return FastPath::Unclear };
    if length < BOTH || room.is_some_and(|room| (room as isize) < BOTH as isize) {
        return FastPath::Unclear;
    }
    let port = deciding_port(headers, IP, settings);
    if !port_in(ports, port) {
        return FastPath::Other;
    }
    let (offset, flags) = (headers[IP + 12], headers[IP + 13]);
    let end = at + room.unwrap_or(length);
    if offset >> 4 < 5 || end > frame.length() || at + length > end {
        return FastPath::Unclear;
    }
    let family = if IP == IPV6_HEADER { Cursor::IPV6 } else { 0 };
    let marks = family | if room.is_some() { 2 } else { 0 };
    let ip = Cursor { at, end, marks };
    FastPath::Parsed(ParsedPacket::tcp(ip, Cursor { at: at + IP, ..ip }, port, offset, flags))
}
