//! The parser's state and its result.

use crate::{
    frame::{Frame, OFFSET_MASK},
    outcome::Reason,
};

/// The parser's position, in bytes from the start of the frame, and the marks collected so far.
#[derive(Clone, Copy)]
pub(crate) struct Cursor {
    /// Where the next header starts.
    pub(crate) at: usize,
    /// Where the packet ends, by all length fields read so far.
    pub(crate) end: usize,
    /// Marks (the constants below). The lowest two bits hold the number of bytes of PPP protocol.
    pub(crate) marks: usize,
}

impl Cursor {
    /// The packet is inside another packet. Takes the place of the number of PPP bytes.
    pub(crate) const INSIDE: usize = 3;
    pub(crate) const IPV6: usize = 1 << 2;
    /// A length field claims more bytes than there are.
    pub(crate) const BAD_LENGTH: usize = 1 << 3;
    /// The packet is a first fragment.
    pub(crate) const FRAGMENTED: usize = 1 << 4;
    /// A source route or routing header names further hops.
    pub(crate) const NOT_FINAL: usize = 1 << 5;
    /// The inner packet continues in later fragments of the outer one: it ends here because the
    /// first fragment does. Only the parser uses this mark.
    pub(crate) const CAPPED: usize = 1 << 6;
    const ALL: usize = (1 << 7) - 1;

    #[inline(always)]
    pub(crate) const fn has(self, mark: usize) -> bool {
        self.marks & mark == mark
    }

    /// Returns the same cursor, and makes the verifier forget everything it knows about it.
    ///
    /// Call this at the head of every loop, for every value that the loop carries. If one value is
    /// left out, its states multiply.
    #[inline(always)]
    pub(crate) fn opaque<F: Frame + ?Sized>(self, frame: &F) -> Self {
        Self {
            at: frame.opaque(self.at) & OFFSET_MASK,
            end: frame.opaque(self.end),
            marks: frame.opaque(self.marks) & Self::ALL,
        }
    }
}

/// The parser's result, packed into one scalar, because one global BPF function passes it to
/// another.
///
/// | bits | content |
/// |---|---|
/// | 0–12 | offset of the IP header whose addresses count |
/// | 13–28 | the deciding port: destination upstream, source downstream |
/// | 29–32 | the [`Reason`] why the packet cannot be read; 0 if it was read |
/// | 33–38 | the marks of the IP header (`Cursor`) |
/// | 39 | SYN is set and ACK is clear |
/// | 40 | the addresses cannot be read either |
/// | 41 | a TCP reset can be sent in response |
/// | 42 | more VLAN tags than the parser reads: subscribers may not send it |
/// | 43–48 | offset of the outer IP header, if the packet is or may be inside another |
/// | 49 | the outer header is IPv6 |
/// | 50 | the outer header hides the packet |
/// | 51 | the outer header may name further hops |
/// | 63 | set in every value but [`ParsedPacket::OTHER`] |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsedPacket(pub u64);

impl ParsedPacket {
    /// Not TCP to (or from) a filtered port.
    pub const OTHER: Self = Self(0);

    const PORT_SHIFT: u32 = 13;
    const REASON_SHIFT: u32 = 29;
    const MARKS_SHIFT: u32 = 33;
    const MARKS: usize = 63;
    const OPENS: u64 = 1 << 39;
    const UNREADABLE: u64 = 1 << 40;
    const RESETTABLE: u64 = 1 << 41;
    const TOO_MANY_TAGS: u64 = 1 << 42;
    const OUTER_SHIFT: u32 = 43;
    /// Link headers before an outer IP header take at most 54 bytes: Ethernet,
    /// [`MAX_TAGS`](crate::parse::MAX_TAGS) tags and PPPoE.
    const OUTER_MASK: usize = 63;
    const OUTER_IPV6: u64 = 1 << 49;
    const HIDDEN_BY_OUTER: u64 = 1 << 50;
    const OUTER_NOT_FINAL: u64 = 1 << 51;
    const RELEVANT: u64 = 1 << 63;

    /// A packet of which nothing can be read, not even its addresses.
    #[inline(always)]
    pub(crate) const fn unreadable(reason: Reason) -> Self {
        Self(Self::RELEVANT | Self::UNREADABLE | (reason as u64) << Self::REASON_SHIFT)
    }

    /// A frame with more VLAN tags than the parser reads.
    #[inline(always)]
    pub(crate) const fn too_many_tags() -> Self {
        Self(Self::unreadable(Reason::Link).0 | Self::TOO_MANY_TAGS)
    }

    /// A packet that may be TCP to a filtered port, but whose TCP header cannot be read.
    #[inline(always)]
    pub(crate) const fn hidden(ip: Cursor, reason: Reason) -> Self {
        Self(Self::RELEVANT | Self::ip_header(ip) | (reason as u64) << Self::REASON_SHIFT)
    }

    /// TCP to (or from) a filtered port.
    ///
    /// `tcp` is where the TCP header starts; `offset` and `flags` are its bytes 12 and 13.
    #[inline(always)]
    pub(crate) const fn tcp(ip: Cursor, tcp: Cursor, port: u16, offset: u8, flags: u8) -> Self {
        const SYN: u8 = 0x02;
        const RST: u8 = 0x04;
        const ACK: u8 = 0x10;
        let ip = Cursor { marks: ip.marks | tcp.marks & Cursor::NOT_FINAL, ..ip };
        let mut parsed = Self::RELEVANT | Self::ip_header(ip) | (port as u64) << Self::PORT_SHIFT;
        if tcp.has(Cursor::BAD_LENGTH) || offset >> 4 < 5 {
            return Self(parsed | (Reason::Malformed as u64) << Self::REASON_SHIFT);
        }
        if flags & (SYN | ACK) == SYN {
            parsed |= Self::OPENS;
        }
        // A reset never answers a reset, and its headers replace headers that are adjacent.
        let header = if ip.has(Cursor::IPV6) { 40 } else { 20 };
        if flags & RST == 0
            && !tcp.has(Cursor::FRAGMENTED)
            && ip.marks & Cursor::INSIDE != Cursor::INSIDE
            && tcp.at == ip.at + header
        {
            parsed |= Self::RESETTABLE;
        }
        Self(parsed)
    }

    #[inline(always)]
    const fn ip_header(ip: Cursor) -> u64 {
        (ip.at & OFFSET_MASK) as u64 | ((ip.marks & Self::MARKS) as u64) << Self::MARKS_SHIFT
    }

    /// Adds the position, family and hops of the outer header, if that header may name the line.
    #[inline(always)]
    pub(crate) const fn with_outer(self, outer: Cursor) -> Self {
        if !self.is_tunnelled() {
            return self;
        }
        let family = if outer.has(Cursor::IPV6) { Self::OUTER_IPV6 } else { 0 };
        let hops = if outer.has(Cursor::NOT_FINAL) { Self::OUTER_NOT_FINAL } else { 0 };
        Self(self.0 | ((outer.at & Self::OUTER_MASK) as u64) << Self::OUTER_SHIFT | family | hops)
    }

    /// Marks the packet as hidden by the outer header.
    #[inline(always)]
    pub(crate) const fn hidden_by_outer(self) -> Self {
        Self(self.0 | Self::HIDDEN_BY_OUTER)
    }

    /// Returns the offset of the IP header.
    ///
    /// It is masked here, in the expression that unpacks it: the verifier knows no bounds for an
    /// argument of a global function, and Linux 6.1 loses those of a mask applied before a shift.
    #[inline(always)]
    #[must_use]
    pub fn ip<F: Frame + ?Sized>(self, frame: &F) -> usize {
        frame.opaque(self.0 as usize) & OFFSET_MASK
    }

    /// Returns the offset of the outer IP header, if [`ParsedPacket::is_tunnelled`].
    #[inline(always)]
    #[must_use]
    pub fn outer<F: Frame + ?Sized>(self, frame: &F) -> usize {
        frame.opaque((self.0 >> Self::OUTER_SHIFT) as usize) & Self::OUTER_MASK
    }

    /// Returns whether the outer IP header is IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn is_outer_ipv6(self) -> bool {
        self.0 & Self::OUTER_IPV6 != 0
    }

    /// Returns whether the outer header may name further hops, any of which may be the end of the
    /// tunnel.
    #[inline(always)]
    #[must_use]
    pub const fn is_outer_not_final(self) -> bool {
        self.0 & Self::OUTER_NOT_FINAL != 0
    }

    /// Returns whether the packet is inside another packet.
    #[inline(always)]
    #[must_use]
    pub const fn is_inside(self) -> bool {
        self.has(Cursor::INSIDE)
    }

    /// Returns whether the outer header hides the packet: by a header chain that is too long, or by
    /// a first fragment that is too short.
    #[inline(always)]
    #[must_use]
    pub const fn is_hidden_by_outer(self) -> bool {
        self.0 & Self::HIDDEN_BY_OUTER != 0
    }

    /// Returns whether more than one header may name the line.
    #[inline(always)]
    #[must_use]
    pub const fn is_tunnelled(self) -> bool {
        self.is_inside() || self.is_hidden_by_outer()
    }

    /// Returns the deciding port; 0, which no group filters, if it is hidden.
    #[inline(always)]
    #[must_use]
    pub const fn port(self) -> u16 {
        (self.0 >> Self::PORT_SHIFT) as u16
    }

    /// Returns the number of the [`Reason`] why the packet cannot be read; 0 if it was read.
    #[inline(always)]
    #[must_use]
    pub const fn reason(self) -> u32 {
        (self.0 >> Self::REASON_SHIFT) as u32 & 15
    }

    #[inline(always)]
    const fn has(self, mark: usize) -> bool {
        self.0 >> Self::MARKS_SHIFT & mark as u64 == mark as u64
    }

    /// Returns whether the IP header whose addresses count is IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn is_ipv6(self) -> bool {
        self.has(Cursor::IPV6)
    }

    /// Returns whether a source route or routing header names further hops.
    #[inline(always)]
    #[must_use]
    pub const fn is_not_final(self) -> bool {
        self.has(Cursor::NOT_FINAL)
    }

    /// Returns the number of bytes of PPP protocol directly before the IP header: 1 or 2, or 0
    /// without PPPoE.
    #[inline(always)]
    #[must_use]
    pub const fn ppp_bytes(self) -> usize {
        (self.0 >> Self::MARKS_SHIFT) as usize & 3
    }

    /// Returns whether the packet opens a connection: SYN is set and ACK is clear, whatever the
    /// other flags are.
    #[inline(always)]
    #[must_use]
    pub const fn opens(self) -> bool {
        self.0 & Self::OPENS != 0
    }

    /// Returns whether not even the addresses can be read.
    #[inline(always)]
    #[must_use]
    pub const fn is_unreadable(self) -> bool {
        self.0 & Self::UNREADABLE != 0
    }

    /// Returns whether the frame has more VLAN tags than the parser reads.
    #[inline(always)]
    #[must_use]
    pub const fn has_too_many_tags(self) -> bool {
        self.0 & Self::TOO_MANY_TAGS != 0
    }

    /// Returns whether a TCP reset can be sent in response: the packet is not a reset itself, and
    /// its TCP header directly follows the outermost IP header.
    #[inline(always)]
    #[must_use]
    pub const fn is_resettable(self) -> bool {
        self.0 & Self::RESETTABLE != 0
    }

    /// Returns whether the packet is [`ParsedPacket::OTHER`].
    #[inline(always)]
    #[must_use]
    pub const fn is_other(self) -> bool {
        self.0 == 0
    }
}
