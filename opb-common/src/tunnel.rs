//! The headers between an outer IP header and the packet inside it.
//!
//! Formats: RFC 2003 (IPv4 in IPv4), RFC 2473 (anything in IPv6), RFC 4213 (IPv6 in IPv4), RFC 2784
//! and 2890 (GRE), and WCCP in GRE as Linux reads it (net/ipv4/gre_demux.c, `gre_parse_header`).

use crate::{
    frame::Frame,
    parsed::Cursor,
    protocol::{ETH_IPV4, ETH_IPV6, ETH_WCCP, GRE, IPV6_INSIDE, be16},
};

/// The content of a tunnel.
pub(crate) enum Tunnel {
    /// An IP packet.
    Ip(Cursor),
    /// Not an IP packet, or one that no receiver would accept.
    Other,
    /// The packet ends before the content is known.
    CutOff,
}

/// Reads the tunnel header, if there is one, up to the packet inside it.
///
/// `payload` is where the outer header ends; `protocol` is the protocol number in that header.
#[inline(always)]
pub(crate) fn tunnel<F: Frame + ?Sized>(frame: &F, payload: Cursor, protocol: u8) -> Tunnel {
    let mut inner = payload;
    let is_ipv6 = if protocol == GRE {
        let Some(gre) = frame.header::<4>(inner.at) else { return Tunnel::CutOff };
        if inner.at + 4 > inner.end {
            return Tunnel::CutOff;
        }
        // Linux discards a packet with routing (RFC 1701) or with another version.
        const ROUTING_OR_VERSION: u16 = 0x4007;
        let flags = be16(gre, 0);
        if flags & ROUTING_OR_VERSION != 0 {
            return Tunnel::Other;
        }
        // Linux reads WCCP without flags as a packet of the outer family.
        let protocol = be16(gre, 2);
        let is_wccp = protocol == ETH_WCCP && flags == 0;
        let is_ipv6 = match protocol {
            ETH_IPV4 => false,
            ETH_IPV6 => true,
            _ if is_wccp => inner.has(Cursor::IPV6),
            _ => return Tunnel::Other,
        };
        // Checksum, key and sequence number, 4 bytes each (RFC 2784, RFC 2890). Summed without a
        // branch: the verifier would follow both sides of each.
        let mut fields = (flags >> 15 & 1) + (flags >> 13 & 1) + (flags >> 12 & 1);
        if is_wccp {
            // Linux skips the four bytes of version 2 unless an IPv4 header seems to stand there.
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
