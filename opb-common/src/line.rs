//! Whose line a packet comes from or goes to.
//!
//! A packet in no tunnel is that of its own address. In a softwire (RFC 5565: DS-Lite, MAP-E, 6rd), which ends at an endpoint
//! that the policy names, the outer address is the line, because inner addresses are shared or private; in any other tunnel the
//! inner address is. A 6to4 address (RFC 3056) is the line of the IPv4 address in it.

use crate::{
    frame::Frame,
    image::{self, ENDPOINT, Header, Nodes, SubscriberClass, UNCHANGED},
    judge::{Tables, is_relay_of},
    outcome::Line,
    parsed::ParsedPacket,
};

/// An address from the highest bit on, as a lookup takes it; an IPv4 address stands in the upper 32 bits of the first half.
pub type Halves = [u64; 2];

/// The destination, or the source, in the IP header at `ip`.
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

/// The IPv4 address in a 6to4 address (RFC 3056, section 2).
#[inline(always)]
pub(crate) const fn six_to_four(address: Halves) -> Option<Halves> {
    const PREFIX: u64 = 0x2002;
    if address[0] >> 48 != PREFIX {
        return None;
    }
    Some([address[0] << 16 & 0xffff_ffff_0000_0000, 0])
}

/// One address of a tunnelled packet, and where it is looked up. A scalar, because a global BPF function takes no more.
///
/// | bits | what |
/// |---|---|
/// | 0–1 | the [`Line`] whose header has the address |
/// | 2 | its destination, not its source |
/// | 3 | among the relays, not the subscribers |
/// | 4 | in the overlay, not the image |
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

    /// In the overlay on the image of `header`.
    #[inline(always)]
    const fn in_overlay(self, header: &Header) -> Self {
        let node = image::overlay_header(header.generation);
        self.with(Self::OVERLAY | node << Self::HEADER_SHIFT)
    }

    /// ImageNode of the header to begin with.
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

/// A class, and below which generation of the policy: 16 and 48 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked(pub u64);

impl Looked {
    #[inline(always)]
    const fn new(generation: u64, class: u16) -> Self {
        Self(generation << 16 | class as u64)
    }

    /// The class, if it is one of `header`'s policy.
    #[inline(always)]
    fn class_in(self, header: &Header) -> Option<u16> {
        (self.0 >> 16 == header.generation << 16 >> 16).then_some(self.0 as u16)
    }
}

/// Looks up one address of what the parser found.
///
/// A function of its own for the BPF verifier: one lookup is a tenth of what it may walk, and a tunnelled packet has up to eight.
#[inline(always)]
pub fn look_up<F: Frame + ?Sized, T: Tables + ?Sized>(
    frame: &F,
    parsed: ParsedPacket,
    lookup: Lookup,
    tables: &T,
) -> Looked {
    let Some(image) = tables.policy(lookup.has(Lookup::OVERLAY)) else {
        return Looked::new(0, UNCHANGED);
    };
    let Some(header) = image::read::<Header, _>(image, lookup.header()) else {
        return Looked::new(0, UNCHANGED);
    };
    let line = lookup.line();
    let address = named_by(frame, parsed, line, lookup.has(Lookup::DESTINATION));
    let Some([high, low]) = address else { return Looked::new(header.generation, 0) };
    let roots = if lookup.has(Lookup::RELAYS) { &header.relays } else { &header.subscribers };
    let root = if is_ipv6(parsed, line) { roots[1] } else { roots[0] };
    let class = image::lookup(image, root, opaque::<T>(high), opaque::<T>(low));
    Looked::new(header.generation, class)
}

/// Which address it was does not matter to the verifier any more.
#[inline(always)]
fn opaque<T: Tables + ?Sized>(half: u64) -> u64 {
    <T::Image<'_> as Nodes<'_>>::opaque(half)
}

/// The class of the line that a tunnelled packet belongs to.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) class: SubscriberClass,
    pub(crate) line: Line,
    /// The outer header leads to the endpoint of a softwire, or comes from there.
    pub(crate) in_softwire: bool,
}

/// Whose a tunnelled packet is. Each address that may name the line is looked up in its turn, and the first that is in a group or
/// exempt does. `None` if another policy than that of `header` has come into force meanwhile.
#[inline(always)]
pub(crate) fn whose<'a, F: Frame + ?Sized, N: Nodes<'a>, T: Tables>(
    frame: &F,
    parsed: ParsedPacket,
    downstream: bool,
    (image, header): (N, &Header),
    tables: &T,
) -> Option<Owner> {
    let endpoint = Lookup::new(Line::Outer, !downstream).with(Lookup::RELAYS);
    let endpoint = tables.look_up(frame, parsed, endpoint).class_in(header)?;
    let in_softwire = is_relay_of(image, header, endpoint, ENDPOINT);
    // A bit for each turn, and forgotten how it came to be: the verifier would follow every combination.
    let is_six = parsed.is_inside() & parsed.is_ipv6();
    let turns = u64::from(in_softwire)
        | u64::from(is_six) << 1
        | 1 << 2
        | u64::from(parsed.is_hidden_outside()) << 3;
    let turns = opaque::<T>(turns);
    for turn in 0..4u32 {
        if turns >> turn & 1 == 0 {
            continue;
        }
        let line = match turn {
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
            return Some(Owner { class, line, in_softwire: opaque::<T>(turns & 1) & 1 != 0 });
        }
    }
    Some(Owner { class: SubscriberClass(0), line: Line::Own, in_softwire })
}

/// The class among the relays of the other end of the inner packet. `None` as above.
#[inline(always)]
pub(crate) fn other_end<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    parsed: ParsedPacket,
    downstream: bool,
    header: &Header,
    tables: &T,
) -> Option<u16> {
    let lookup = Lookup::new(Line::Own, !downstream).with(Lookup::RELAYS);
    tables.look_up(frame, parsed, lookup).class_in(header)
}

/// The subscriber's address, or that of the other end, in the header that `line` says.
#[inline(always)]
pub(crate) fn named_by<F: Frame + ?Sized>(
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

/// The family of the address that [`named_by`] reads.
#[inline(always)]
pub(crate) const fn is_ipv6(parsed: ParsedPacket, line: Line) -> bool {
    match line {
        Line::Own => parsed.is_ipv6(),
        Line::Outer => parsed.is_outer_ipv6(),
        Line::SixToFour => false,
    }
}
