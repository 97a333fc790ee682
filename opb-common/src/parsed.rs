//! What the parser carries along, and what it hands on.

use crate::{
    frame::{Frame, OFFSET_MASK},
    outcome::Reason,
};

/// Where the parser stands, in bytes from the start of the frame, and what it has seen on the way.
#[derive(Clone, Copy)]
pub(crate) struct Cursor {
    /// Where the next header starts.
    pub(crate) at: usize,
    /// Where the packet ends, by all the length fields so far.
    pub(crate) end: usize,
    /// Marks of this type's constants; the lowest two bits count the bytes of PPP protocol.
    pub(crate) marks: usize,
}

impl Cursor {
    /// In place of a number of bytes: inside another packet.
    pub(crate) const INSIDE: usize = 3;
    pub(crate) const IPV6: usize = 1 << 2;
    /// A length field claims more than there is.
    pub(crate) const LIES: usize = 1 << 3;
    /// A first fragment.
    pub(crate) const FRAGMENTED: usize = 1 << 4;
    /// A source route or routing header names further hops.
    pub(crate) const NOT_FINAL: usize = 1 << 5;
    /// A packet inside a first fragment goes on in later ones: it ends here because the fragment does. Of the parser alone.
    pub(crate) const CAPPED: usize = 1 << 6;
    const ALL: usize = (1 << 7) - 1;

    #[inline(always)]
    pub(crate) const fn has(self, mark: usize) -> bool {
        self.marks & mark == mark
    }

    /// The same, with everything forgotten that the verifier knows of it. At the head of every loop, for all that
    /// the loop carries: one word left out, and the states of the words multiply.
    #[inline(always)]
    pub(crate) fn opaque<F: Frame + ?Sized>(self, frame: &F) -> Self {
        Self {
            at: frame.opaque(self.at) & OFFSET_MASK,
            end: frame.opaque(self.end),
            marks: frame.opaque(self.marks) & Self::ALL,
        }
    }
}

/// What the parser found, as the one scalar that one global BPF function may hand to the next.
///
/// | bits | what |
/// |---|---|
/// | 0–12 | offset of the IP header whose addresses count |
/// | 13–28 | the port that decides: destination upstream, source downstream |
/// | 29–32 | the [`Reason`] why it cannot be read; 0 when it was read |
/// | 33–38 | the marks of the IP header |
/// | 39 | SYN set and ACK clear |
/// | 40 | no address can be read either |
/// | 41 | a TCP reset can answer it |
/// | 42 | no reader of ours goes that deep: not to be let in by subscribers |
/// | 43–48 | offset of the outer IP header, where a packet is or may be inside another |
/// | 49 | the outer header is IPv6 |
/// | 50 | the outer header is what hides it |
/// | 63 | set in everything but [`ParsedPacket::NOTHING`] |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsedPacket(pub u64);

impl ParsedPacket {
    /// Not TCP to (or from) a filtered port.
    pub const NOTHING: Self = Self(0);

    const PORT_SHIFT: u32 = 13;
    const REASON_SHIFT: u32 = 29;
    const MARKS_SHIFT: u32 = 33;
    const MARKS: usize = 63;
    const OPENS: u64 = 1 << 39;
    const UNREADABLE: u64 = 1 << 40;
    const ANSWERABLE: u64 = 1 << 41;
    const TOO_DEEP: u64 = 1 << 42;
    const OUTER_SHIFT: u32 = 43;
    /// Link headers in front of an IP header have at most 54 bytes: Ethernet, [`MAX_TAGS`](crate::parse::MAX_TAGS) tags and PPPoE.
    const OUTER_MASK: usize = 63;
    const OUTER_IPV6: u64 = 1 << 49;
    const HIDES_OUTSIDE: u64 = 1 << 50;
    const SOMETHING: u64 = 1 << 63;

    /// Nothing of the packet can be read, not even its addresses.
    #[inline(always)]
    pub(crate) const fn unreadable(reason: Reason) -> Self {
        Self(Self::SOMETHING | Self::UNREADABLE | (reason as u64) << Self::REASON_SHIFT)
    }

    /// More VLAN tags than are parsed.
    #[inline(always)]
    pub(crate) const fn too_deep() -> Self {
        Self(Self::unreadable(Reason::Link).0 | Self::TOO_DEEP)
    }

    /// May be TCP to a filtered port, and hides it.
    #[inline(always)]
    pub(crate) const fn hidden(ip: Cursor, reason: Reason) -> Self {
        Self(Self::SOMETHING | Self::ip_header(ip) | (reason as u64) << Self::REASON_SHIFT)
    }

    /// TCP to or from a filtered port. `tcp` is where its header starts; `offset` and `flags` are its bytes 12 and 13.
    #[inline(always)]
    pub(crate) const fn tcp(ip: Cursor, tcp: Cursor, port: u16, offset: u8, flags: u8) -> Self {
        const SYN: u8 = 0x02;
        const RST: u8 = 0x04;
        const ACK: u8 = 0x10;
        let ip = Cursor { marks: ip.marks | tcp.marks & Cursor::NOT_FINAL, ..ip };
        let mut parsed = Self::SOMETHING | Self::ip_header(ip) | (port as u64) << Self::PORT_SHIFT;
        if tcp.has(Cursor::LIES) || offset >> 4 < 5 {
            return Self(parsed | (Reason::Malformed as u64) << Self::REASON_SHIFT);
        }
        if flags & (SYN | ACK) == SYN {
            parsed |= Self::OPENS;
        }
        // A reset answers no reset, and takes the place of headers that stand right behind each other.
        let header = if ip.has(Cursor::IPV6) { 40 } else { 20 };
        if flags & RST == 0
            && !tcp.has(Cursor::FRAGMENTED)
            && ip.marks & Cursor::INSIDE != Cursor::INSIDE
            && tcp.at == ip.at + header
        {
            parsed |= Self::ANSWERABLE;
        }
        Self(parsed)
    }

    #[inline(always)]
    const fn ip_header(ip: Cursor) -> u64 {
        (ip.at & OFFSET_MASK) as u64 | ((ip.marks & Self::MARKS) as u64) << Self::MARKS_SHIFT
    }

    /// The same with the place of the outer header, where that may say whose packet it is.
    #[inline(always)]
    pub(crate) const fn within(self, outer: Cursor) -> Self {
        if !self.is_tunnelled() {
            return self;
        }
        let family = if outer.has(Cursor::IPV6) { Self::OUTER_IPV6 } else { 0 };
        Self(self.0 | ((outer.at & Self::OUTER_MASK) as u64) << Self::OUTER_SHIFT | family)
    }

    /// The same, hidden by the outer header.
    #[inline(always)]
    pub(crate) const fn hides_outside(self) -> Self {
        Self(self.0 | Self::HIDES_OUTSIDE)
    }

    /// Offset of the IP header. Masked here, right where it is unpacked: an argument of a global function
    /// has no bounds for the verifier, and 6.1 loses those of a mask that was applied before a shift.
    #[inline(always)]
    #[must_use]
    pub fn ip<F: Frame + ?Sized>(self, frame: &F) -> usize {
        frame.opaque(self.0 as usize) & OFFSET_MASK
    }

    /// Offset of the outer IP header of what [`ParsedPacket::is_tunnelled`].
    #[inline(always)]
    #[must_use]
    pub fn outer<F: Frame + ?Sized>(self, frame: &F) -> usize {
        frame.opaque((self.0 >> Self::OUTER_SHIFT) as usize) & Self::OUTER_MASK
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_outer_ipv6(self) -> bool {
        self.0 & Self::OUTER_IPV6 != 0
    }

    /// Whether it is a packet inside another.
    #[inline(always)]
    #[must_use]
    pub const fn is_inside(self) -> bool {
        self.has(Cursor::INSIDE)
    }

    /// Whether the outer header hides it: a chain that is too long, or a first fragment that is too short.
    #[inline(always)]
    #[must_use]
    pub const fn is_hidden_outside(self) -> bool {
        self.0 & Self::HIDES_OUTSIDE != 0
    }

    /// Whether more than one header may say whose packet it is.
    #[inline(always)]
    #[must_use]
    pub const fn is_tunnelled(self) -> bool {
        self.is_inside() || self.is_hidden_outside()
    }

    /// The port that decides; 0, which nobody filters, if it is hidden.
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
    const fn has(self, mark: usize) -> bool {
        self.0 >> Self::MARKS_SHIFT & mark as u64 == mark as u64
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_ipv6(self) -> bool {
        self.has(Cursor::IPV6)
    }

    /// Whether a source route or routing header names further hops.
    #[inline(always)]
    #[must_use]
    pub const fn is_not_final(self) -> bool {
        self.has(Cursor::NOT_FINAL)
    }

    /// Bytes of PPP protocol directly in front of the IP header: 1 or 2, or 0 without PPPoE.
    #[inline(always)]
    #[must_use]
    pub const fn ppp_bytes(self) -> usize {
        (self.0 >> Self::MARKS_SHIFT) as usize & 3
    }

    /// SYN set and ACK clear, whatever the other flags are.
    #[inline(always)]
    #[must_use]
    pub const fn opens(self) -> bool {
        self.0 & Self::OPENS != 0
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_unreadable(self) -> bool {
        self.0 & Self::UNREADABLE != 0
    }

    /// Whether there are more VLAN tags than are parsed.
    #[inline(always)]
    #[must_use]
    pub const fn is_too_deep(self) -> bool {
        self.0 & Self::TOO_DEEP != 0
    }

    /// Whether a TCP reset can answer it: it is none itself, and its TCP header follows the outermost IP header.
    #[inline(always)]
    #[must_use]
    pub const fn is_answerable(self) -> bool {
        self.0 & Self::ANSWERABLE != 0
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_nothing(self) -> bool {
        self.0 == 0
    }
}
