//! A fast-path check at the headers of a frame where those of most frames are: it settles most frames without the parser.

use crate::{
    frame::Frame,
    parse::{
        ETH_IPV4, ETH_IPV6, ETH_PPPOE_SESSION, ETHERNET_HEADER, GRE, ICMPV6, IPV4_HEADER,
        IPV4_INSIDE, IPV6_HEADER, IPV6_INSIDE, PPP_IPV4, PPP_IPV6, TCP, TCP_HEADER, UDP, be16,
        deciding_port, is_tag,
    },
    parsed::{Cursor, ParsedPacket},
    settings::{PortSet, Settings, port_in},
};

/// What can be said of a frame without parsing it.
pub enum FastPath {
    /// Certainly passes: plainly no TCP to (or from) a filtered port.
    Other,
    /// What [`parse`](crate::parse::parse) finds in it: plainly TCP to (or from) a filtered port, with every length in order.
    Parsed(ParsedPacket),
    /// Not plain: for [`parse`](crate::parse::parse), which starts again from byte 0.
    Unclear,
}

/// Looks at the headers of a frame where those of most frames are.
///
/// `frame.length()` may be less than there is, but not more. Contract, fuzzed and proved in
/// `docs/fast-path.md`: where this says [`FastPath::Other`], [`parse`](crate::parse::parse) finds nothing, and where it says
/// [`FastPath::Parsed`], [`parse`](crate::parse::parse) finds the same.
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

    // With PPPoE, its length must hold the headers that are read below; without, the frame does.
    let mut room = None;
    if protocol == ETH_PPPOE_SESSION {
        let Some(pppoe) = frame.header::<8>(at) else { return FastPath::Unclear };
        protocol = match be16(pppoe, 6) {
            PPP_IPV4 => ETH_IPV4,
            PPP_IPV6 => ETH_IPV6,
            _ => return FastPath::Unclear,
        };
        // It counts the two bytes of PPP protocol in front of the IP header.
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

/// An IP packet that is no fragment, with TCP right behind its header of the usual length.
struct Plain {
    /// Where it starts.
    at: usize,
    /// How long it says it is.
    length: usize,
    /// How long PPPoE says it is.
    room: Option<usize>,
}

/// The end of [`classify`]: `IP` bytes of IP header, and `BOTH` with the TCP header.
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
