//! An address prefix as policies use it: an IPv4 or IPv6 network without host bits.

use std::cmp::Ordering;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};

/// An IPv4 or IPv6 prefix without host bits, ordered by family, address and length.
///
/// A policy may hold a million of these, hence bytes instead of an enum of `std` addresses: 18
/// bytes, no alignment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    ipv6: bool,
    /// In network order. An IPv4 address is in the first four bytes.
    bits: [u8; 16],
    length: u8,
}

impl Prefix {
    /// Builds a prefix. Refuses host bits and IPv4-mapped addresses, as a policy file does.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, PrefixError> {
        let prefix = Self::truncated(address, length)?;
        if prefix.network() == address {
            Ok(prefix)
        } else {
            Err(PrefixError::HostBits { address, length, network: prefix })
        }
    }

    /// The prefix that holds exactly one address.
    pub fn host(address: IpAddr) -> Result<Self, PrefixError> {
        Self::truncated(address, family_length(address.is_ipv6()))
    }

    /// The network of the given length that `address` lies in.
    pub fn truncated(address: IpAddr, length: u8) -> Result<Self, PrefixError> {
        let longest = family_length(address.is_ipv6());
        if length > longest {
            return Err(PrefixError::Length { text: length.to_string(), longest });
        }
        let mut bits = [0; 16];
        match address {
            IpAddr::V4(v4) => bits[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => bits = v6.octets(),
        }
        if let IpAddr::V6(v6) = address
            && length >= 96
            && let Some(v4) = v6.to_ipv4_mapped()
        {
            return Err(PrefixError::Mapped { address: v6, v4, length: length - 96 });
        }
        Ok(Self { ipv6: address.is_ipv6(), bits: masked(bits, length), length })
    }

    /// The lowest address, which is written in the prefix.
    pub fn network(&self) -> IpAddr {
        address(self.ipv6, self.bits)
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        let host_bits = u128::MAX.checked_shr(u32::from(self.length)).unwrap_or(0);
        address(self.ipv6, (u128::from_be_bytes(self.bits) | host_bits).to_be_bytes())
    }

    /// The bits of the lowest address, highest first. An IPv4 address is in the upper 32.
    pub fn bits(&self) -> u128 {
        u128::from_be_bytes(self.bits)
    }

    pub fn length(&self) -> u8 {
        self.length
    }

    pub fn is_ipv6(&self) -> bool {
        self.ipv6
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        Self::truncated(address, self.length).is_ok_and(|prefix| prefix == *self)
    }

    /// Whether every address of `other` is in this prefix.
    pub fn covers(&self, other: &Self) -> bool {
        self.ipv6 == other.ipv6
            && self.length <= other.length
            && masked(other.bits, self.length) == self.bits
    }

    /// The longest prefix that covers both. `None` for different families.
    pub fn common(&self, other: &Self) -> Option<Self> {
        let length = (self.bits() ^ other.bits()).leading_zeros().min(128) as u8;
        let length = length.min(self.length).min(other.length);
        (self.ipv6 == other.ipv6).then(|| Self { bits: masked(self.bits, length), length, ..*self })
    }

    /// The prefix itself and all the shorter ones that cover it, longest first.
    pub fn ancestors(self) -> impl Iterator<Item = Self> {
        let Self { ipv6, bits, length } = self;
        (0..=length).rev().map(move |length| Self { ipv6, bits: masked(bits, length), length })
    }

    /// Family, address and length as bytes: the form that digests are made over.
    pub(crate) fn to_bytes(self) -> [u8; 18] {
        let mut bytes = [0; 18];
        bytes[0] = u8::from(self.ipv6);
        bytes[1..17].copy_from_slice(&self.bits);
        bytes[17] = self.length;
        bytes
    }
}

impl Prefix {
    /// The reverse of [`Prefix::to_bytes`]. `None` for other bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&[family], rest) = bytes.split_first_chunk::<1>()?;
        let (&bits, rest) = rest.split_first_chunk::<16>()?;
        let &[length] = <&[u8; 1]>::try_from(rest).ok()?;
        let prefix = Self::new(address(family == 1, bits), length).ok()?;
        (prefix.to_bytes() == bytes).then_some(prefix)
    }
}

/// Compares addresses as whole numbers, which sorts faster than byte by byte.
impl Ord for Prefix {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |prefix: &Self| (prefix.ipv6, u128::from_be_bytes(prefix.bits), prefix.length);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Prefix {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The form of a policy file: `203.0.113.0/24`, or `2001:db8::25` for a single address.
impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        // ipnetwork also takes a netmask behind the slash, and "+24": neither belongs into a
        // policy.
        if let Some(slash) = text.bytes().rposition(|byte| byte == b'/') {
            let length = &text.as_bytes()[slash + 1..];
            if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
                return Err(explain(text));
            }
        }
        let network = if text.contains(':') {
            text.parse::<Ipv6Network>().map(IpNetwork::V6)
        } else {
            text.parse::<Ipv4Network>().map(IpNetwork::V4)
        };
        network.map_err(|_| explain(text)).and_then(Self::try_from)
    }
}

impl TryFrom<IpNetwork> for Prefix {
    type Error = PrefixError;

    fn try_from(network: IpNetwork) -> Result<Self, PrefixError> {
        Self::new(network.ip(), network.prefix())
    }
}

impl From<Prefix> for IpNetwork {
    fn from(prefix: Prefix) -> Self {
        // A length that does not fit the family cannot be built, so the fall-back to a host network
        // is never taken.
        Self::new(prefix.network(), prefix.length).unwrap_or_else(|_| prefix.network().into())
    }
}

impl TryFrom<String> for Prefix {
    type Error = PrefixError;

    fn try_from(text: String) -> Result<Self, PrefixError> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    #[error("host bits are set in `{address}/{length}`: the network is `{network}`")]
    HostBits { address: IpAddr, length: u8, network: Prefix },
    #[error("prefix length `{text}` is not between 0 and {longest}")]
    Length { text: String, longest: u8 },
    #[error("`{text}` has a netmask: write the prefix length, such as `/24`")]
    Netmask { text: String },
    #[error(
        "`{text}` has an IPv6 zone: zones name an interface of this host and mean nothing in a policy"
    )]
    Zone { text: String },
    #[error(
        "`{address}` is an IPv4-mapped IPv6 address, which no packet carries: write `{v4}/{length}`"
    )]
    Mapped { address: Ipv6Addr, v4: Ipv4Addr, length: u8 },
    #[error("`{text}` is not an IPv4 or IPv6 prefix")]
    NotAPrefix { text: String },
}

/// The most specific error for a text that did not parse.
fn explain(text: &str) -> PrefixError {
    let owned = || text.to_owned();
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    if address.contains('%') {
        return PrefixError::Zone { text: owned() };
    }
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) if length.parse::<Ipv4Addr>().is_ok() => {
            PrefixError::Netmask { text: owned() }
        }
        Ok(address) if !length.contains('/') => PrefixError::Length {
            text: length.to_owned(),
            longest: family_length(address.is_ipv6()),
        },
        _ => PrefixError::NotAPrefix { text: owned() },
    }
}

fn family_length(ipv6: bool) -> u8 {
    if ipv6 { 128 } else { 32 }
}

fn masked(bits: [u8; 16], length: u8) -> [u8; 16] {
    let mask = !u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
    (u128::from_be_bytes(bits) & mask).to_be_bytes()
}

fn address(ipv6: bool, bits: [u8; 16]) -> IpAddr {
    if ipv6 {
        Ipv6Addr::from(bits).into()
    } else {
        Ipv4Addr::new(bits[0], bits[1], bits[2], bits[3]).into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(text: &str) -> String {
        text.parse::<Prefix>().map_or_else(|error| error.to_string(), |ok| format!("ok: {ok}"))
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, expected) in [
            ("203.0.113.0/24", "ok: 203.0.113.0/24"),
            ("203.0.113.77", "ok: 203.0.113.77/32"),
            ("2001:DB8:0::/36", "ok: 2001:db8::/36"),
            ("0.0.0.0/0", "ok: 0.0.0.0/0"),
            ("::/0", "ok: ::/0"),
            (
                "203.0.113.1/24",
                "host bits are set in `203.0.113.1/24`: the network is `203.0.113.0/24`",
            ),
            ("10.0.0.0/33", "prefix length `33` is not between 0 and 32"),
            ("10.0.0.0/+8", "prefix length `+8` is not between 0 and 32"),
            ("10.0.0.0/", "prefix length `` is not between 0 and 32"),
            ("::/129", "prefix length `129` is not between 0 and 128"),
            (
                "10.0.0.0/255.0.0.0",
                "`10.0.0.0/255.0.0.0` has a netmask: write the prefix length, such as `/24`",
            ),
            (
                "fe80::1%eth0/64",
                "`fe80::1%eth0/64` has an IPv6 zone: zones name an interface of this host and mean nothing in a policy",
            ),
            (
                "::ffff:10.0.0.0/104",
                "`::ffff:10.0.0.0` is an IPv4-mapped IPv6 address, which no packet carries: write `10.0.0.0/8`",
            ),
            ("10.0.0/8", "`10.0.0/8` is not an IPv4 or IPv6 prefix"),
            ("010.0.0.0/8", "`010.0.0.0/8` is not an IPv4 or IPv6 prefix"),
            ("10.0.0.0/8/9", "`10.0.0.0/8/9` is not an IPv4 or IPv6 prefix"),
            ("", "`` is not an IPv4 or IPv6 prefix"),
        ] {
            assert_eq!(message(text), expected, "{text}");
        }
    }

    #[test]
    fn is_small_enough_for_a_million() {
        assert_eq!(size_of::<Prefix>(), 18);
    }

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        (any::<bool>(), any::<u128>(), 0..=128u8).prop_filter_map(
            "mapped",
            |(ipv6, bits, length)| {
                let bits = bits.to_be_bytes();
                let length = if ipv6 { length } else { length % 33 };
                Prefix::truncated(address(ipv6, bits), length).ok()
            },
        )
    }

    proptest! {
        #[test]
        fn text_and_ipnetwork_round_trip(prefix in any_prefix()) {
            prop_assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
            prop_assert_eq!(Prefix::try_from(IpNetwork::from(prefix)), Ok(prefix));
            prop_assert_eq!(IpNetwork::from(prefix).to_string(), prefix.to_string());
        }

        #[test]
        fn order_is_family_address_length(a in any_prefix(), b in any_prefix()) {
            let key = |p: &Prefix| (p.is_ipv6(), p.network(), p.length());
            prop_assert_eq!(a.cmp(&b), key(&a).cmp(&key(&b)));
        }

        #[test]
        fn covers_agrees_with_ipnetwork(a in any_prefix(), b in any_prefix()) {
            let inside = |p: &Prefix, ip| IpNetwork::from(*p).contains(ip);
            prop_assert_eq!(a.covers(&b), a.length() <= b.length() && inside(&a, b.network()));
            prop_assert_eq!(a.contains(b.network()), inside(&a, b.network()));
            prop_assert!(inside(&a, a.last()) && a.contains(a.last()));
            prop_assert!(a.ancestors().all(|ancestor| ancestor.covers(&a)));
        }

        #[test]
        fn never_panics(text in "[0-9a-f:./%+x-]{0,24}") {
            let _ = text.parse::<Prefix>();
        }
    }
}
