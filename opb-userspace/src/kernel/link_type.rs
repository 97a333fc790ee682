//! The link type of an interface: what its frames start with. A program with the wrong link type
//! judges nothing and looks healthy, so nothing is guessed: an interface of a type that is not
//! listed here is refused.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::netlink::Attributes;

/// What a frame starts with, as programs on the interface see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// An Ethernet header.
    Ethernet,
    /// The header of an IP packet.
    BareIp,
}

/// Why packets of an interface cannot be judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error(
        "link type {number} is not supported: expected Ethernet (1) or bare IP, such as PPP (512) and tun (65534)"
    )]
    Type { number: u16 },
    #[error(
        "a `{kind}` device without a unicast `remote` address is not supported: \
         its packets begin with the tunnel's own header"
    )]
    Hub { kind: &'static str },
}

impl Unreadable {
    /// What the operator can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Type { .. } => {
                "filter where these packets are Ethernet frames or bare IP: on the interface by which they leave"
            }
            Self::Hub { .. } => {
                "give the device a `remote`, or filter where its packets leave: on the core interface"
            }
        }
    }
}

/// linux/if_arp.h; those that libc does not name.
const ARPHRD_RAWHDLC: u16 = 518;
const ARPHRD_RAWIP: u16 = 519;
const ARPHRD_IP6GRE: u16 = 823;

/// Frames of loopback interfaces have an Ethernet header of zeros.
const ETHERNET: [u16; 2] = [libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK];

const BARE_IP: [u16; 9] = [
    libc::ARPHRD_PPP,
    // tun, WireGuard, xfrm
    libc::ARPHRD_NONE,
    libc::ARPHRD_TUNNEL,
    libc::ARPHRD_TUNNEL6,
    libc::ARPHRD_SIT,
    libc::ARPHRD_IPGRE,
    ARPHRD_IP6GRE,
    // Modems: WWAN, rmnet.
    ARPHRD_RAWIP,
    // The name misleads: HDLC in its mode `raw` carries IP packets and no header
    // (drivers/net/wan/hdlc_raw.c).
    ARPHRD_RAWHDLC,
];

impl LinkType {
    pub(super) const ALL: [Self; 2] = [Self::Ethernet, Self::BareIp];

    /// The link type of a device of `ARPHRD_` type `number`. `kind` and `data` (IFLA_INFO_DATA) are
    /// its kind and settings, if it has some.
    pub(super) fn of(
        number: u16,
        kind: Option<&str>,
        data: Attributes<'_>,
    ) -> Result<Self, Unreadable> {
        match number {
            number if ETHERNET.contains(&number) => Ok(Self::Ethernet),
            number if BARE_IP.contains(&number) => match hub(kind, data) {
                Some(kind) => Err(Unreadable::Hub { kind }),
                None => Ok(Self::BareIp),
            },
            number => Err(Unreadable::Type { number }),
        }
    }
}

/// The kind of a GRE device without a remote address of its own. The kernel gives only these
/// devices a link header: the outer IP header, which programs see on transmit and, for `gre`, on
/// receive too (`header_ops` in net/ipv4/ip_gre.c, ip6_gre.c).
fn hub(kind: Option<&str>, data: Attributes<'_>) -> Option<&'static str> {
    /// linux/if_tunnel.h
    const IFLA_GRE_REMOTE: u16 = 7;
    let remote = data.get(IFLA_GRE_REMOTE);
    match kind? {
        "gre" => {
            let remote: Option<[u8; 4]> = remote.and_then(|bytes| bytes.try_into().ok());
            let remote = remote.map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from);
            (remote.is_unspecified() || remote.is_multicast()).then_some("gre")
        }
        "ip6gre" => {
            let remote: Option<[u8; 16]> = remote.and_then(|bytes| bytes.try_into().ok());
            let remote = remote.map_or(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from);
            remote.is_unspecified().then_some("ip6gre")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(number: u16, kind: Option<&str>, remote: &[u8]) -> Result<LinkType, Unreadable> {
        let mut data = ((4 + remote.len()) as u16).to_ne_bytes().to_vec();
        data.extend(7u16.to_ne_bytes());
        data.extend(remote);
        LinkType::of(number, kind, Attributes(&data))
    }

    #[test]
    fn nothing_is_taken_for_ethernet_that_is_not() {
        let ethernet: Vec<u16> = (0..=u16::MAX)
            .filter(|&number| of(number, None, &[]) == Ok(LinkType::Ethernet))
            .collect();
        assert_eq!(ethernet, [1, 772]);
        let bare: Vec<u16> = (0..=u16::MAX)
            .filter(|&number| of(number, None, &[]) == Ok(LinkType::BareIp))
            .collect();
        assert_eq!(bare, [512, 518, 519, 768, 769, 776, 778, 823, 65534]);
        // InfiniBand, Cisco HDLC, netlink monitor, 6LoWPAN.
        for number in [32, 513, 824, 825] {
            assert_eq!(of(number, None, &[]), Err(Unreadable::Type { number }));
        }
    }

    #[test]
    fn gre_needs_a_far_end() {
        let gre = |remote: [u8; 4]| of(778, Some("gre"), &remote);
        assert_eq!(gre([192, 0, 2, 1]), Ok(LinkType::BareIp));
        for remote in [[0; 4], [224, 0, 0, 5]] {
            assert_eq!(gre(remote), Err(Unreadable::Hub { kind: "gre" }));
        }
        let far = "2001:db8::1".parse::<Ipv6Addr>().expect("an address").octets();
        assert_eq!(of(823, Some("ip6gre"), &far), Ok(LinkType::BareIp));
        assert_eq!(of(823, Some("ip6gre"), &[0; 16]), Err(Unreadable::Hub { kind: "ip6gre" }));
        // Others have no link header, whatever their options say.
        assert_eq!(of(776, Some("sit"), &[0; 4]), Ok(LinkType::BareIp));
        assert_eq!(of(1, Some("gretap"), &[0; 4]), Ok(LinkType::Ethernet));
    }
}
