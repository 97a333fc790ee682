//! What stands between an outer IP header and the packet inside it.
//!
//! Formats: RFC 2003 (IPv4 in IPv4), RFC 2473 (anything in IPv6), RFC 4213 (IPv6 in IPv4), RFC 2784
//! and 2890 (GRE), and WCCP in GRE as Linux reads it (net/ipv4/gre_demux.c, `gre_parse_header`).

use super::{ETH_IPV4, ETH_IPV6, GRE, IPV6_INSIDE, be16};
use crate::{frame::Frame, parsed::Cursor};

/// Web Cache Communication Protocol. Its version 2 has four bytes in front of the packet.
const ETH_WCCP: u16 = 0x883e;

/// What a tunnel carries.
pub(crate) enum Tunnel {
    /// An IP packet.
    Ip(Cursor),
    /// No IP packet, or one that no receiver would take.
    Other,
    /// It ends before that is known.
    CutOff,
}

/// Reads the header of the tunnel, if it has one, up to the packet inside it. `payload` stands behind
/// the outer header and is of IP protocol `protocol`.
#[inline(always)]
pub(crate) fn tunnel<F: Frame + ?Sized>(frame: &F, payload: Cursor, protocol: u8) -> Tunnel {
    let mut inner = payload;
    let is_ipv6 = if protocol == GRE {
        let Some(gre) = frame.header::<4>(inner.at) else { return Tunnel::CutOff };
        if inner.at + 4 > inner.end {
            return Tunnel::CutOff;
        }
        // Linux discards a packet with routing (RFC 1701) or of another version.
        const ROUTING_OR_VERSION: u16 = 0x4007;
        let flags = be16(gre, 0);
        if flags & ROUTING_OR_VERSION != 0 {
            return Tunnel::Other;
        }
        // Linux reads WCCP as a packet of the outer family, unless any flag is set.
        let protocol = be16(gre, 2);
        let is_wccp = protocol == ETH_WCCP && flags == 0;
        let is_ipv6 = match protocol {
            ETH_IPV4 => false,
            ETH_IPV6 => true,
            _ if is_wccp => inner.has(Cursor::IPV6),
            _ => return Tunnel::Other,
        };
        // RFC 2784 and 2890: checksum, key and sequence number, 4 bytes each. Without a branch, for
        // the verifier's sake.
        let mut fields = (flags >> 15 & 1) + (flags >> 13 & 1) + (flags >> 12 & 1);
        if is_wccp {
            let Some(next) = frame.header::<2>(inner.at + 4) else { return Tunnel::CutOff };
            if inner.at + 6 > inner.end {
                return Tunnel::CutOff;
            }
            fields = u16::from(next[0] >> 4 != 4);
        }
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
