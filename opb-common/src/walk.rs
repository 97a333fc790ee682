//! From the first byte of a frame to the TCP header: what is certainly no business of ours, and what is.
//!
//! Formats: IEEE 802.1Q, RFC 2516 (PPPoE), RFC 1661 and 1332/5072 (PPP protocol numbers), RFC 791 (IPv4),
//! RFC 8200 (IPv6 and its extension headers), RFC 9293 (TCP). What hides where: RFC 1858, 3128 and 7112.

use crate::{
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
/// Multilink (RFC 1990) and compressed datagrams (RFC 1962): IP may be inside, and nobody can tell.
const PPP_UNREADABLE: [u16; 3] = [0x003d, 0x00fb, 0x00fd];

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

/// What the walk found, as the one scalar that one global BPF function may hand to the next.
///
/// | bits | what |
/// |---|---|
/// | 0–12 | offset of the IP header whose addresses count |
/// | 13–25 | offset of the TCP header |
/// | 26–41 | the port that decides: destination upstream, source downstream |
/// | 42–45 | the [`Reason`] why it cannot be read; 0 when it was read |
/// | 46 | IPv6 |
/// | 47 | SYN set and ACK clear |
/// | 48 | the destination address is not final |
/// | 49 | no address can be read either |
/// | 63 | set in everything but [`Found::NOTHING`] |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found(pub u64);

impl Found {
    /// Not TCP to (or from) a filtered port.
    pub const NOTHING: Self = Self(0);

    const TCP_SHIFT: u32 = 13;
    const PORT_SHIFT: u32 = 26;
    const REASON_SHIFT: u32 = 42;
    const IPV6: u64 = 1 << 46;
    const OPENS: u64 = 1 << 47;
    const NOT_FINAL: u64 = 1 << 48;
    const UNREADABLE: u64 = 1 << 49;
    const SOMETHING: u64 = 1 << 63;

    /// Nothing of the packet can be read, not even its addresses.
    #[inline(always)]
    const fn unreadable(reason: Reason) -> Self {
        Self(Self::SOMETHING | Self::UNREADABLE | (reason as u64) << Self::REASON_SHIFT)
    }

    /// May be TCP to a filtered port, and hides it.
    #[inline(always)]
    const fn hidden(at: Address, reason: Reason) -> Self {
        Self(Self::SOMETHING | at.pack() | (reason as u64) << Self::REASON_SHIFT)
    }

    /// Offset of the IP header. Masked here, right where it is unpacked: an argument of a global function
    /// has no bounds for the verifier, and 6.1 loses those of a mask that was applied before a shift.
    #[inline(always)]
    #[must_use]
    pub fn ip<F: Frame + ?Sized>(self, frame: &F) -> usize {
        frame.opaque(self.0 as usize) & OFFSET_MASK
    }

    /// Offset of the TCP header; 0 if it was not found.
    #[inline(always)]
    #[must_use]
    pub fn tcp<F: Frame + ?Sized>(self, frame: &F) -> usize {
        frame.opaque((self.0 >> Self::TCP_SHIFT) as usize) & OFFSET_MASK
    }

    /// The port that decides.
    #[inline(always)]
    #[must_use]
    pub const fn port(self) -> u16 {
        (self.0 >> Self::PORT_SHIFT) as u16
    }

    /// Number of the reason why the packet cannot be read, 0 if it was read.
    #[inline(always)]
    #[must_use]
    pub const fn reason(self) -> u32 {
        (self.0 >> Self::REASON_SHIFT) as u32 & 15
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_ipv6(self) -> bool {
        self.0 & Self::IPV6 != 0
    }

    /// SYN set and ACK clear, whatever the other flags are.
    #[inline(always)]
    #[must_use]
    pub const fn opens(self) -> bool {
        self.0 & Self::OPENS != 0
    }

    /// Whether a source route or routing header names further hops.
    #[inline(always)]
    #[must_use]
    pub const fn is_not_final(self) -> bool {
        self.0 & Self::NOT_FINAL != 0
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_unreadable(self) -> bool {
        self.0 & Self::UNREADABLE != 0
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_nothing(self) -> bool {
        self.0 == 0
    }
}

/// The IP header whose addresses count.
#[derive(Clone, Copy)]
struct Address {
    offset: usize,
    ipv6: bool,
}

impl Address {
    #[inline(always)]
    const fn pack(self) -> u64 {
        (self.offset & OFFSET_MASK) as u64 | if self.ipv6 { Found::IPV6 } else { 0 }
    }
}

/// Says "certainly passes" of what is plainly no TCP to (or from) a filtered port, and nothing else.
///
/// It hands nothing on: whatever it does not know goes to [`walk`], which starts again from byte 0. Contract,
/// fuzzed: where this says `true`, [`walk`] finds nothing.
#[inline(always)]
pub fn plainly_other<F: Frame + ?Sized>(frame: &F, settings: Settings, ports: &PortSet) -> bool {
    let (mut at, mut protocol) = if settings.has(Settings::BARE_IP) {
        let Some(first) = frame.header::<2>(0) else { return false };
        match first[0] >> 4 {
            4 => (0, ETH_IPV4),
            6 => (0, ETH_IPV6),
            _ => return false,
        }
    } else {
        let Some(ethernet) = frame.header::<ETHERNET_HEADER>(0) else { return false };
        (ETHERNET_HEADER, be16(ethernet, 12))
    };

    if is_tag(protocol) {
        let Some(tag) = frame.header::<4>(at) else { return false };
        (at, protocol) = (at + 4, be16(tag, 2));
        if is_tag(protocol) {
            let Some(tag) = frame.header::<4>(at) else { return false };
            (at, protocol) = (at + 4, be16(tag, 2));
        }
    }

    // With PPPoE, its length must hold the headers that are read below; without, the frame does.
    let mut room = LARGEST_IP;
    if protocol == ETH_PPPOE_SESSION {
        let Some(pppoe) = frame.header::<8>(at) else { return false };
        room = be16(pppoe, 4) as usize;
        protocol = match be16(pppoe, 6) {
            PPP_IPV4 => ETH_IPV4,
            PPP_IPV6 => ETH_IPV6,
            _ => return false,
        };
        at += 8;
    }

    if protocol == ETH_IPV4 {
        let Some(ip) = frame.header::<24>(at) else { return false };
        if ip[0] != 0x45 {
            return false;
        }
        match ip[9] {
            TCP => {
                be16(ip, 6) & 0x3fff == 0
                    && be16(ip, 2) as usize >= IPV4_HEADER + TCP_HEADER
                    && room >= 2 + IPV4_HEADER + TCP_HEADER
                    && frame.header::<{ IPV4_HEADER + TCP_HEADER }>(at).is_some()
                    && !port_in(ports, deciding_port(ip, IPV4_HEADER, settings))
            }
            IPV6_INSIDE => false,
            _ => true,
        }
    } else if protocol == ETH_IPV6 {
        let Some(ip) = frame.header::<44>(at) else { return false };
        if ip[0] >> 4 != 6 {
            return false;
        }
        match ip[6] {
            TCP => {
                be16(ip, 4) as usize >= TCP_HEADER
                    && room >= 2 + IPV6_HEADER + TCP_HEADER
                    && frame.header::<{ IPV6_HEADER + TCP_HEADER }>(at).is_some()
                    && !port_in(ports, deciding_port(ip, IPV6_HEADER, settings))
            }
            UDP | ICMPV6 => true,
            _ => false,
        }
    } else {
        !is_tag(protocol) && protocol != ETH_PPPOE_SESSION
    }
}

/// Walks from byte 0 to the TCP header, through everything that section "Verdicts" of the design names.
#[inline(always)]
pub fn walk<F: Frame + ?Sized>(frame: &F, settings: Settings, ports: &PortSet) -> Found {
    match link(frame, settings) {
        Link::Ip(layer) => network(frame, settings, ports, layer),
        Link::NotIp => Found::NOTHING,
        Link::Unreadable(reason) => Found::unreadable(reason),
    }
}

/// Where an IP packet starts and where it ends, in bytes from the start of the frame.
#[derive(Clone, Copy)]
struct Layer {
    at: usize,
    end: usize,
    ipv6: bool,
    /// A length field of the link layer claims more than there is.
    lies: bool,
}

enum Link {
    Ip(Layer),
    NotIp,
    Unreadable(Reason),
}

/// Ethernet, VLAN tags and PPPoE, or nothing at all on a bare IP device.
#[inline(always)]
fn link<F: Frame + ?Sized>(frame: &F, settings: Settings) -> Link {
    let mut end = frame.length();
    if settings.has(Settings::BARE_IP) {
        let Some(first) = frame.header::<2>(0) else { return Link::Unreadable(Reason::Malformed) };
        return match first[0] >> 4 {
            4 => Link::Ip(Layer { at: 0, end, ipv6: false, lies: false }),
            6 => Link::Ip(Layer { at: 0, end, ipv6: true, lies: false }),
            _ => Link::NotIp,
        };
    }
    let Some(ethernet) = frame.header::<ETHERNET_HEADER>(0) else {
        return Link::Unreadable(Reason::Malformed);
    };
    let mut at = ETHERNET_HEADER;
    let mut protocol = be16(ethernet, 12);

    let mut tags = frame.tags_out_of_band();
    while is_tag(protocol) {
        if tags >= MAX_TAGS {
            return Link::Unreadable(Reason::Link);
        }
        at = frame.opaque(at) & OFFSET_MASK;
        let Some(tag) = frame.header::<4>(at) else { return Link::Unreadable(Reason::Malformed) };
        protocol = be16(tag, 2);
        at += 4;
        tags += 1;
    }
    at = frame.opaque(at) & OFFSET_MASK;

    let mut lies = false;
    if protocol == ETH_PPPOE_SESSION {
        let Some(pppoe) = frame.header::<8>(at) else { return Link::Unreadable(Reason::Malformed) };
        let claimed = at + 6 + be16(pppoe, 4) as usize;
        lies = claimed > end;
        end = end.min(claimed);
        // Linux expands a one-byte protocol whether it was negotiated or not (ppp_generic.c, ppp_input),
        // and in a one-byte protocol the lowest bit is set (RFC 1661, section 2).
        let ppp = if pppoe[6] & 1 != 0 {
            at += 7;
            u16::from(pppoe[6])
        } else {
            at += 8;
            be16(pppoe, 6)
        };
        protocol = match ppp {
            PPP_IPV4 => ETH_IPV4,
            PPP_IPV6 => ETH_IPV6,
            other if PPP_UNREADABLE.contains(&other) => return Link::Unreadable(Reason::Link),
            _ => return Link::NotIp,
        };
    }
    let (ipv6, header) = match protocol {
        ETH_IPV4 => (false, IPV4_HEADER),
        ETH_IPV6 => (true, IPV6_HEADER),
        _ => return Link::NotIp,
    };
    if at + header > end {
        // A PPPoE length that leaves out the IP header hides neither the addresses nor that it is no TCP.
        lies = true;
        end = frame.length().min(at + header);
    }
    Link::Ip(Layer { at, end, ipv6, lies })
}

/// What stands behind an IP header.
enum Next {
    /// A TCP header should be at `at`.
    Tcp(Payload),
    /// An IP packet of the other family.
    Inner(Payload),
    /// Neither, or a later fragment.
    Other,
    /// May be TCP, and cannot be read.
    Hidden(Reason),
    /// Not even the addresses can be read.
    CutOff,
}

/// Where the payload of an IP packet starts and ends, and what was learnt on the way to it.
#[derive(Clone, Copy)]
struct Payload {
    at: usize,
    end: usize,
    fragmented: bool,
    lies: bool,
    not_final: bool,
}

/// The IP header, its extensions, and one packet of the other family inside it.
#[inline(always)]
fn network<F: Frame + ?Sized>(
    frame: &F,
    settings: Settings,
    ports: &PortSet,
    mut layer: Layer,
) -> Found {
    let mut address = Address { offset: layer.at, ipv6: layer.ipv6 };
    let mut fragmented = false;
    let mut inside = false;
    loop {
        layer.at = frame.opaque(layer.at) & OFFSET_MASK;
        layer.end = frame.opaque(layer.end);
        let next = if layer.ipv6 { ipv6(frame, layer) } else { ipv4(frame, layer) };
        // Only once the inner header is known to hold addresses are they the ones that count.
        let here = Address { offset: layer.at, ipv6: layer.ipv6 };
        match next {
            Next::Other => return Found::NOTHING,
            Next::Hidden(reason) => return Found::hidden(here, reason),
            Next::CutOff if inside => {
                let reason = if fragmented { Reason::Fragment } else { Reason::Malformed };
                return Found::hidden(address, reason);
            }
            Next::CutOff => return Found::unreadable(Reason::Malformed),
            Next::Tcp(mut payload) => {
                payload.fragmented |= fragmented;
                return transport(frame, settings, ports, here, payload);
            }
            Next::Inner(_) if inside => return Found::NOTHING,
            Next::Inner(payload) => {
                address = here;
                fragmented = payload.fragmented;
                inside = true;
                layer = Layer {
                    at: payload.at,
                    end: payload.end,
                    ipv6: !layer.ipv6,
                    lies: payload.lies,
                };
            }
        }
    }
}

/// RFC 791. `layer.at` is where the header starts.
#[inline(always)]
fn ipv4<F: Frame + ?Sized>(frame: &F, layer: Layer) -> Next {
    let Layer { at, end, .. } = layer;
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
    let (end, claims) = match total {
        0 if end - at > LARGEST_IP => (end, end),
        _ => (end.min(at + total), at + total),
    };
    if ip[0] >> 4 != 4 || header < IPV4_HEADER || at + header > end {
        return Next::Hidden(Reason::Malformed);
    }
    if fragment_offset == 1 {
        // Eight bytes in: it can overwrite the flags of the fragment before it (RFC 3128).
        return Next::Hidden(Reason::Fragment);
    }
    let payload = Payload {
        at: at + header,
        end,
        fragmented: fragment & 0x2000 != 0,
        lies: layer.lies || claims > layer.end,
        not_final: header > IPV4_HEADER && is_source_routed(frame, at + IPV4_HEADER, at + header),
    };
    if protocol == TCP { Next::Tcp(payload) } else { Next::Inner(payload) }
}

/// Whether the IPv4 options from `at` to `end` hold a source route, or cannot be read.
#[inline(always)]
fn is_source_routed<F: Frame + ?Sized>(frame: &F, mut at: usize, end: usize) -> bool {
    const END_OF_LIST: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    for _ in 0..40 {
        at = frame.opaque(at) & OFFSET_MASK;
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

/// RFC 8200, with its extension headers.
#[inline(always)]
fn ipv6<F: Frame + ?Sized>(frame: &F, layer: Layer) -> Next {
    let Layer { at, end, mut lies, .. } = layer;
    let Some(ip) = frame.header::<IPV6_HEADER>(at) else { return Next::CutOff };
    if at + IPV6_HEADER > end {
        return Next::CutOff;
    }
    let mut next = ip[6];
    let length = be16(ip, 4) as usize;
    let mut end = end;
    // A length of 0 is a jumbogram (RFC 2675) or a GSO packet; in any other it is a lie like others.
    if length != 0 || (next != HOP_BY_HOP && end - at <= LARGEST_IP) {
        lies |= at + IPV6_HEADER + length > end;
        end = end.min(at + IPV6_HEADER + length);
    }
    let is_version_6 = ip[0] >> 4 == 6;

    let mut at = at + IPV6_HEADER;
    let mut fragmented = false;
    let mut not_final = false;
    for walked in 0..=MAX_EXTENSIONS {
        at = frame.opaque(at) & OFFSET_MASK;
        end = frame.opaque(end);
        next = frame.opaque(next.into()) as u8;
        let known =
            matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS);
        if !known && next != TCP && next != IPV4_INSIDE {
            return Next::Other;
        }
        if !is_version_6 {
            return Next::Hidden(Reason::Malformed);
        }
        if !known {
            let payload = Payload { at, end, fragmented, lies, not_final };
            return if next == TCP { Next::Tcp(payload) } else { Next::Inner(payload) };
        }
        if walked == MAX_EXTENSIONS || at + 8 > end {
            break;
        }
        let Some(extension) = frame.header::<8>(at) else { break };
        let length = match next {
            FRAGMENT => {
                let fragment = be16(extension, 2);
                match fragment >> 3 {
                    0 => fragmented |= fragment & 1 != 0,
                    1 if extension[0] == TCP => return Next::Hidden(Reason::Fragment),
                    _ => return Next::Other,
                }
                8
            }
            AUTHENTICATION => (usize::from(extension[1]) + 2) * 4,
            _ => (usize::from(extension[1]) + 1) * 8,
        };
        not_final |= next == ROUTING && extension[3] != 0;
        next = extension[0];
        at += length;
        if at > MAX_OFFSET {
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
    address: Address,
    payload: Payload,
) -> Found {
    let Payload { at, end, fragmented, lies, not_final } = payload;
    let at = frame.opaque(at) & OFFSET_MASK;
    let hidden =
        Found::hidden(address, if fragmented { Reason::Fragment } else { Reason::Malformed });
    if at + TCP_HEADER > end {
        return hidden;
    }
    let Some(tcp) = frame.header::<TCP_HEADER>(at) else { return hidden };
    let port = deciding_port(tcp, 0, settings);
    if !port_in(ports, port) {
        return Found::NOTHING;
    }
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    let mut found = Found::SOMETHING
        | address.pack()
        | (at as u64) << Found::TCP_SHIFT
        | u64::from(port) << Found::PORT_SHIFT;
    if lies || tcp[12] >> 4 < 5 {
        found |= (Reason::Malformed as u64) << Found::REASON_SHIFT;
    }
    if tcp[13] & (SYN | ACK) == SYN {
        found |= Found::OPENS;
    }
    if not_final {
        found |= Found::NOT_FINAL;
    }
    Found(found)
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
