//! Protocol numbers, header lengths, and the fields that both [`classify`](crate::classify) and
//! [`parse`](crate::parse) read.

use crate::settings::Settings;

/// EtherTypes (linux/if_ether.h).
pub(crate) const ETH_IPV4: u16 = 0x0800;
pub(crate) const ETH_IPV6: u16 = 0x86dd;
/// Web Cache Communication Protocol, in GRE.
pub(crate) const ETH_WCCP: u16 = 0x883e;
/// IEEE 802.1Q: a VLAN tag.
const ETH_VLAN: u16 = 0x8100;
/// IEEE 802.1ad: an outer VLAN tag.
const ETH_QINQ: u16 = 0x88a8;
/// RFC 2516.
pub(crate) const ETH_PPPOE_SESSION: u16 = 0x8864;

/// PPP protocol of IPv4 (RFC 1332).
pub(crate) const PPP_IPV4: u16 = 0x0021;
/// PPP protocol of IPv6 (RFC 5072).
pub(crate) const PPP_IPV6: u16 = 0x0057;
/// PPP protocols that may carry TCP in a form that cannot be read: TCP compressed by Van Jacobson's
/// scheme (RFC 1144), multilink (RFC 1990), compressed datagrams (RFC 1962).
pub(crate) const PPP_UNREADABLE: [u16; 5] = [0x002d, 0x002f, 0x003d, 0x00fb, 0x00fd];

/// IP protocol numbers and IPv6 extension headers (linux/in.h, linux/in6.h).
pub(crate) const HOP_BY_HOP: u8 = 0;
/// `IPPROTO_IPIP`: an IPv4 packet in another packet (RFC 2003, RFC 2473).
pub(crate) const IPV4_INSIDE: u8 = 4;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
/// `IPPROTO_IPV6`: an IPv6 packet in another packet (RFC 4213, RFC 2473).
pub(crate) const IPV6_INSIDE: u8 = 41;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const GRE: u8 = 47;
pub(crate) const AUTHENTICATION: u8 = 51;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;

/// Header lengths in bytes, without options.
pub(crate) const ETHERNET_HEADER: usize = 14;
pub(crate) const IPV4_HEADER: usize = 20;
pub(crate) const IPV6_HEADER: usize = 40;
pub(crate) const TCP_HEADER: usize = 20;

/// Returns the port that a rule compares: the destination port upstream, the source port
/// downstream.
///
/// `tcp` is the offset of the TCP header in `bytes`.
#[inline(always)]
pub(crate) fn deciding_port<const N: usize>(
    bytes: &[u8; N],
    tcp: usize,
    settings: Settings,
) -> u16 {
    be16(bytes, if settings.has(Settings::DOWNSTREAM) { tcp } else { tcp + 2 })
}

/// Returns whether the EtherType `protocol` announces a VLAN tag.
#[inline(always)]
pub(crate) fn is_tag(protocol: u16) -> bool {
    protocol == ETH_VLAN || protocol == ETH_QINQ
}

/// Returns the big-endian number in the two bytes at `at`.
#[inline(always)]
pub(crate) fn be16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
