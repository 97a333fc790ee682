//! The event of a denied packet, and its addresses.

use crate::{
    frame::Frame,
    line::{address_by, is_ipv6},
    outcome::Line,
    parsed::ParsedPacket,
};

/// An IPv6 address, or an IPv4 address mapped into one (RFC 4291, section 2.5.5.2), as two numbers,
/// upper half first. All zero means none.
pub type Address = [u64; 2];

/// The prefix of mapped IPv4 addresses, `::ffff:0:0/96`, in the lower half of an [`Address`].
const MAPPED: u64 = 0xffff << 32;

/// One denied packet, as it is written to the event ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Event {
    pub subscriber: Address,
    /// The other end.
    pub peer: Address,
    /// The subscriber's address inside a tunnel, if another address names the line.
    pub inner: Address,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// A packed outcome: see [`crate::outcome::Outcome::pack`].
    pub outcome: u32,
    /// Interface index.
    pub interface: u32,
    /// The filtered port, 0 if it is hidden.
    pub port: u16,
    /// 1 downstream, 0 upstream.
    pub downstream: u16,
    /// Length of the frame.
    pub bytes: u32,
}

/// The addresses of one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The address that names the line.
    pub subscriber: Address,
    /// The other end; in a tunnel, that of the inner header.
    pub peer: Address,
    /// The subscriber's address in the inner header, if another address names the line.
    pub inner: Address,
}

/// Reads the addresses of a parsed packet. `line` tells which of them names the subscriber's line.
///
/// Returns `None` if they cannot be read.
#[inline(always)]
pub fn addresses<F: Frame + ?Sized>(
    frame: &F,
    parsed: ParsedPacket,
    line: Line,
    downstream: bool,
) -> Option<Addresses> {
    if parsed.is_unreadable() {
        return None;
    }
    let read = |line: Line, destination: bool| {
        let halves = address_by(frame, parsed, line, destination)?;
        Some(if is_ipv6(parsed, line) { halves } else { [0, MAPPED | halves[0] >> 32] })
    };
    let own = read(Line::Own, downstream)?;
    let peer = read(Line::Own, !downstream)?;
    Some(match line {
        Line::Own => Addresses { subscriber: own, peer, inner: [0; 2] },
        _ => Addresses { subscriber: read(line, downstream)?, peer, inner: own },
    })
}
