//! IPv4 addresses inside IPv6 addresses, as NAT64 translates them (RFC 6052, section 2.2).

use std::net::{IpAddr, Ipv6Addr};

use super::prefix::Prefix;

/// The lengths that a translation prefix may have.
pub(super) const LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];

/// Bits 64 to 71 of a translated address, which are always zero.
pub(super) const RESERVED: u128 = 0xff << 56;

/// The IPv6 addresses under `translation` that stand for those of `ipv4`. Bits after the IPv4
/// address do not matter.
#[must_use]
pub(super) fn translated(translation: Prefix, ipv4: Prefix) -> Option<Prefix> {
    let (length, inside) = (translation.length(), ipv4.length());
    if !translation.is_ipv6() || ipv4.is_ipv6() || !LENGTHS.contains(&length) {
        return None;
    }
    // Both from the highest bit on.
    let embedded = ipv4.bits() >> length;
    let (bits, end) = if length == 96 {
        (embedded, length + inside)
    } else {
        // The address is split around the reserved bits.
        let in_front = embedded & (u128::MAX << 64);
        let behind = (embedded & !(u128::MAX << 64)) >> 8;
        let end = length + inside;
        (in_front | behind, if end > 64 || inside == 32 { end + 8 } else { end })
    };
    let address = IpAddr::V6(Ipv6Addr::from_bits(translation.bits() | bits));
    Prefix::new(address, end).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(translation: &str, ipv4: &str) -> String {
        let prefix = |text: &str| text.parse().expect("a prefix");
        translated(prefix(translation), prefix(ipv4)).expect("it translates").to_string()
    }

    /// The table of RFC 6052, section 2.4.
    #[test]
    fn addresses_are_those_of_the_rfc() {
        for (translation, expected) in [
            ("2001:db8::/32", "2001:db8:c000:221::/72"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::/80"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::/88"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::/96"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::/104"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33/128"),
            ("64:ff9b::/96", "64:ff9b::192.0.2.33/128"),
        ] {
            let expected: Prefix = expected.parse().expect("a prefix");
            assert_eq!(text(translation, "192.0.2.33/32"), expected.to_string(), "{translation}");
        }
    }

    #[test]
    fn prefixes_stay_prefixes() {
        let expected: Prefix = "64:ff9b::198.51.100.0/120".parse().expect("a prefix");
        assert_eq!(text("64:ff9b::/96", "198.51.100.0/24"), expected.to_string());
        assert_eq!(text("2001:db8::/32", "198.51.100.0/24"), "2001:db8:c633:6400::/56");
        assert_eq!(text("2001:db8:100::/40", "198.51.100.0/24"), "2001:db8:1c6:3364::/64");
        assert_eq!(text("2001:db8:122::/48", "198.51.100.0/24"), "2001:db8:122:c633:64::/80");
    }

    #[test]
    fn every_address_of_a_prefix_is_covered_and_no_other() {
        let (inside, outside) = ("198.51.100.77/32", "198.51.101.1/32");
        for length in LENGTHS {
            let translation =
                Prefix::truncated("2001:db8:122:344::".parse().expect("IPv6"), length);
            let translation = translation.expect("a length").to_string();
            let wide: Prefix = text(&translation, "198.51.100.0/24").parse().expect("a prefix");
            let one = |ipv4| text(&translation, ipv4).parse::<Prefix>().expect("a prefix");
            assert!(wide.covers(&one(inside)), "{translation}");
            assert!(!wide.covers(&one(outside)), "{translation}");
        }
    }
}
