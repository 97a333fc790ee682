//! The subscriber line that a packet comes from or goes to.
//!
//! Outside a tunnel, the packet's own address names the line. In a softwire (RFC 5565: DS-Lite,
//! MAP-E, 6rd), which ends at an endpoint that the policy names, the outer address names the line,
//! because inner addresses are shared or private. In any other tunnel, the inner address does. If
//! the outer header may name further hops, one of them may be an endpoint, so a packet from the
//! subscriber counts as one in a softwire. A 6to4 address (RFC 3056) names the line of the IPv4
//! address inside it.

use crate::{
    frame::Frame,
    image::{self, ENDPOINT, Header, Nodes, SubscriberClass, UNCHANGED},
    judge::{Tables, is_relay_of},
    outcome::Line,
    parsed::ParsedPacket,
};

/// The two halves of an address, upper half first, as a lookup takes them. An IPv4 address is in
/// the upper 32 bits of the first.
pub type Halves = [u64; 2];

/// Returns the destination or source address in the IP header at offset `ip`.
#[inline(always)]
pub(crate) fn address<F: Frame + ?Sized>(
    frame: &F,
    ip: usize,
    is_ipv6: bool,
    destination: bool,
) -> Option<Halves> {
    if is_ipv6 {
        frame.address6(ip + if destination { 24 } else { 8 })
    } else {
        let address = frame.address4(ip + if destination { 16 } else { 12 })?;
        Some([u64::from(address) << 32, 0])
    }
}

/// Returns the IPv4 address inside a 6to4 address (RFC 3056, section 2), or `None` for other
/// addresses.
#[inline(always)]
pub(crate) const fn six_to_four(address: Halves) -> Option<Halves> {
    const PREFIX: u64 = 0x2002;
    if address[0] >> 48 != PREFIX {
        return None;
    }
    Some([address[0] << 16 & 0xffff_ffff_0000_0000, 0])
}

/// A request to look up one address of a tunnelled packet, packed into a scalar, because it is an
/// argument of a global BPF function.
///
/// | bits | content |
/// |---|---|
/// | 0–1 | the [`Line`], which tells the header that has the address |
/// | 2 | 1: the destination address; 0: the source address |
/// | 3 | 1: among the relays; 0: among the subscribers |
/// | 4 | 1: in the overlay; 0: in the image |
/// | 5 | node of the overlay's header (see [`image::overlay_header`]) |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup(pub u32);

impl Lookup {
    const DESTINATION: u32 = 1 << 2;
    const RELAYS: u32 = 1 << 3;
    const OVERLAY: u32 = 1 << 4;
    const HEADER_SHIFT: u32 = 5;

    #[inline(always)]
    const fn new(line: Line, destination: bool) -> Self {
        Self(line as u32 | if destination { Self::DESTINATION } else { 0 })
    }

    #[inline(always)]
    const fn with(self, flag: u32) -> Self {
        Self(self.0 | flag)
    }

    /// Selects the overlay on the image that has `header`.
    #[inline(always)]
    const fn in_overlay(self, header: &Header) -> Self {
        let node = image::overlay_header(header.generation);
        self.with(Self::OVERLAY | node << Self::HEADER_SHIFT)
    }

    /// Returns the node of the header that has the roots.
    #[inline(always)]
    const fn header(self) -> u32 {
        self.0 >> Self::HEADER_SHIFT & 1
    }

    #[inline(always)]
    const fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }

    #[inline(always)]
    const fn line(self) -> Line {
        match self.0 & 3 {
            1 => Line::Outer,
            2 => Line::SixToFour,
            _ => Line::Own,
        }
    }
}

/// The class that a lookup found (lower 16 bits), and the generation of the policy that it read
/// (upper 48 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookupResult(pub u64);

impl LookupResult {
    #[inline(always)]
    const fn new(generation: u64, class: u16) -> Self {
        Self(generation << 16 | class as u64)
    }

    /// Returns the class, or `None` if the lookup read another policy than that of `header`.
    #[inline(always)]
    fn class_in(self, header: &Header) -> Option<u16> {
        (self.0 >> 16 == header.generation << 16 >> 16).then_some(self.0 as u16)
    }
}

/// Looks up one address of a parsed packet.
///
/// The BPF programs make this a function of its own: one lookup takes a tenth of the instructions
/// that the verifier may process, and a tunnelled packet needs up to eight lookups.
#[inline(always)]
pub fn look_up<F: Frame + ?Sized, T: Tables + ?Sized>(
    frame: &F,
    parsed: ParsedPacket,
    lookup: Lookup,
    tables: &T,
) -> LookupResult {
    let Some(image) = tables.policy(lookup.has(Lookup::OVERLAY)) else {
        return LookupResult::new(0, UNCHANGED);
    };
    let Some(header) = image::read::<Header, _>(image, lookup.header()) else {
        return LookupResult::new(0, UNCHANGED);
    };
    let line = lookup.line();
    let address = address_by(frame, parsed, line, lookup.has(Lookup::DESTINATION));
    let Some([high, low]) = address else { return LookupResult::new(header.generation, 0) };
    let roots = if lookup.has(Lookup::RELAYS) { &header.relays } else { &header.subscribers };
    let root = if is_ipv6(parsed, line) { roots[1] } else { roots[0] };
    let class = image::lookup(image, root, opaque::<T>(high), opaque::<T>(low));
    LookupResult::new(header.generation, class)
}

/// Makes the verifier forget which address `half` came from.
#[inline(always)]
fn opaque<T: Tables + ?Sized>(half: u64) -> u64 {
    <T::Image<'_> as Nodes<'_>>::opaque(half)
}

/// The line that a packet belongs to.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) class: SubscriberClass,
    /// The header that names the line.
    pub(crate) line: Line,
    /// Whether the outer header leads to the endpoint of a softwire, may lead there by a further
    /// hop, or comes from there.
    pub(crate) in_softwire: bool,
}

/// Finds the line of a tunnelled packet.
///
/// Candidate addresses are looked up in turn; the first one that is in a group or exempt names the
/// line. Returns `None` if a policy other than that of `header` has come into force in the
/// meantime.
#[inline(always)]
pub(crate) fn find_owner<'a, F: Frame + ?Sized, N: Nodes<'a>, T: Tables>(
    frame: &F,
    parsed: ParsedPacket,
    downstream: bool,
    (image, header): (N, &Header),
    tables: &T,
) -> Option<Owner> {
    let endpoint = Lookup::new(Line::Outer, !downstream).with(Lookup::RELAYS);
    let endpoint = tables.look_up(frame, parsed, endpoint).class_in(header)?;
    // A further hop may be an endpoint: a route must not change the line that a packet belongs to.
    let in_softwire = is_relay_of(image, header, endpoint, ENDPOINT)
        | (parsed.is_outer_not_final() & !downstream);
    // One bit for each candidate, made opaque: the verifier would follow every combination.
    let may_be_6to4 = parsed.is_inside() & parsed.is_ipv6();
    let candidates = u64::from(in_softwire)
        | u64::from(may_be_6to4) << 1
        | 1 << 2
        | u64::from(parsed.is_hidden_by_outer()) << 3;
    let candidates = opaque::<T>(candidates);
    for candidate in 0..4u32 {
        if candidates >> candidate & 1 == 0 {
            continue;
        }
        let line = match candidate {
            1 => Line::SixToFour,
            2 => Line::Own,
            _ => Line::Outer,
        };
        let lookup = Lookup::new(line, downstream);
        let changed = tables.look_up(frame, parsed, lookup.in_overlay(header));
        let class = match changed.class_in(header) {
            Some(class) if class != UNCHANGED => class,
            _ => tables.look_up(frame, parsed, lookup).class_in(header)?,
        };
        if class != 0 {
            let class = SubscriberClass(opaque::<T>(class.into()) as u16);
            return Some(Owner { class, line, in_softwire: opaque::<T>(candidates & 1) & 1 != 0 });
        }
    }
    Some(Owner { class: SubscriberClass(0), line: Line::Own, in_softwire })
}

/// Returns the relay class of the inner packet's other end, or `None` as [`find_owner`] does.
#[inline(always)]
pub(crate) fn other_end_class<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    parsed: ParsedPacket,
    downstream: bool,
    header: &Header,
    tables: &T,
) -> Option<u16> {
    let lookup = Lookup::new(Line::Own, !downstream).with(Lookup::RELAYS);
    tables.look_up(frame, parsed, lookup).class_in(header)
}

/// Returns the destination or source address in the header that `line` selects.
#[inline(always)]
pub(crate) fn address_by<F: Frame + ?Sized>(
    frame: &F,
    parsed: ParsedPacket,
    line: Line,
    destination: bool,
) -> Option<Halves> {
    match line {
        Line::Own => address(frame, parsed.ip(frame), parsed.is_ipv6(), destination),
        Line::Outer => address(frame, parsed.outer(frame), parsed.is_outer_ipv6(), destination),
        Line::SixToFour => {
            six_to_four(address(frame, parsed.ip(frame), parsed.is_ipv6(), destination)?)
        }
    }
}

/// Returns whether the address that [`address_by`] returns is IPv6.
#[inline(always)]
pub(crate) const fn is_ipv6(parsed: ParsedPacket, line: Line) -> bool {
    match line {
        Line::Own => parsed.is_ipv6(),
        Line::Outer => parsed.is_outer_ipv6(),
        Line::SixToFour => false,
    }
}
