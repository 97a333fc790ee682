//! How a subscriber's address is stored and shown.
//!
//! Secrecy of communications is law where this runs, so nothing more than needed is kept.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

use hmac::{Hmac, Mac as _};
use opb_common::observation::Address;
use sha2::Sha256;

use crate::{node::Addresses, private};

/// The key of the pseudonyms, in the state directory. Deleting it makes all pseudonyms unlinkable.
const KEY_FILE: &str = "privacy.key";

/// The privacy rule of this node.
#[derive(Clone, Debug)]
pub enum Privacy {
    Full,
    Truncate,
    Hash(Vec<u8>),
    None,
}

impl Privacy {
    /// Reads the key of the pseudonyms if the rule needs it, or makes one.
    pub fn open(addresses: Addresses, state: &Path) -> io::Result<Self> {
        Ok(match addresses {
            Addresses::Full => Self::Full,
            Addresses::Truncate => Self::Truncate,
            Addresses::Hash => Self::Hash(key(state)?),
            Addresses::None => Self::None,
        })
    }

    /// The part of `address` that may be kept; all zero for none.
    #[must_use]
    pub fn keep(&self, address: Address) -> Address {
        match self {
            Self::Full | Self::Hash(_) => address,
            Self::Truncate if is_ipv4(address) => [0, address[1] & !0xff],
            Self::Truncate => [address[0] & !0xffff, 0],
            Self::None => [0, 0],
        }
    }

    /// The text that may be shown for `address`; empty for none.
    #[must_use]
    pub fn show(&self, address: Address) -> String {
        let Some(address) = ip(self.keep(address)) else { return String::new() };
        match self {
            Self::Full => address.to_string(),
            Self::Truncate if address.is_ipv4() => format!("{address}/24"),
            Self::Truncate => format!("{address}/48"),
            Self::Hash(key) => pseudonym(key, address),
            Self::None => String::new(),
        }
    }
}

/// A pseudonym: 64 bits of a keyed hash, which is enough to distinguish subscribers.
fn pseudonym(key: &[u8], address: IpAddr) -> String {
    let mut hash = Hmac::<Sha256>::new_from_slice(key)
        .unwrap_or_else(|error| unreachable!("a key of any length will do: {error}"));
    match address {
        IpAddr::V4(address) => hash.update(&address.octets()),
        IpAddr::V6(address) => hash.update(&address.octets()),
    }
    let bytes = hash.finalize().into_bytes();
    bytes[..8].iter().fold("~".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// The address as `std` has it; `None` if it is all zero.
#[must_use]
pub fn ip(address: Address) -> Option<IpAddr> {
    if address == [0, 0] {
        return None;
    }
    let bits = u128::from(address[0]) << 64 | u128::from(address[1]);
    Some(Ipv6Addr::from_bits(bits).to_canonical())
}

fn is_ipv4(address: Address) -> bool {
    address[0] == 0 && address[1] >> 32 == 0xffff
}

fn key(state: &Path) -> io::Result<Vec<u8>> {
    fs::create_dir_all(state)?;
    let mut file = private::file(&state.join(KEY_FILE)).map_err(io::Error::other)?;
    let mut key = Vec::new();
    file.read_to_end(&mut key)?;
    if key.len() >= 32 {
        return Ok(key);
    }
    key = vec![0; 32];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&key)?;
    file.sync_all()?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Address = [0, 0xffff_cb00_7109];
    const V6: Address = [0x2001_0db8_1000_0001, 9];

    #[test]
    fn each_rule_keeps_what_it_says() {
        let state = tempfile::tempdir().expect("a directory");
        let open = |rule| Privacy::open(rule, state.path()).expect("opens");
        let show = |rule| [V4, V6].map(|address| open(rule).show(address));
        assert_eq!(show(Addresses::Full), ["203.0.113.9", "2001:db8:1000:1::9"]);
        assert_eq!(show(Addresses::Truncate), ["203.0.113.0/24", "2001:db8:1000::/48"]);
        assert_eq!(open(Addresses::Truncate).keep(V4), [0, 0xffff_cb00_7100]);
        assert_eq!(show(Addresses::None), ["", ""]);
        assert_eq!(open(Addresses::None).keep(V6), [0, 0]);
    }

    #[test]
    fn pseudonyms_are_this_nodes_own_and_stay() {
        let (one, other) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
        let show = |state: &tempfile::TempDir| {
            Privacy::open(Addresses::Hash, state.path()).expect("opens").show(V4)
        };
        assert_eq!(show(&one), show(&one), "the key is kept");
        assert_ne!(show(&one), show(&other), "and differs from another node's");
        assert!(show(&one).starts_with('~') && show(&one).len() == 17 && !show(&one).contains('.'));
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(one.path().join(KEY_FILE)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    /// All 128 bits are in use, so that a mask of the wrong width shows.
    #[test]
    fn truncation_leaves_the_network_and_nothing_else() {
        let truncate = Privacy::Truncate;
        let full = [0x2001_0db8_1234_abcd, 0x0123_4567_89ab_cdef];
        assert_eq!(truncate.keep(full), [0x2001_0db8_1234_0000, 0]);
        assert_eq!(truncate.show(full), "2001:db8:1234::/48");
        assert_eq!(truncate.keep([0, 0xffff_cb00_71ff]), [0, 0xffff_cb00_7100]);
    }

    #[test]
    fn a_key_that_is_too_short_is_replaced() {
        let state = tempfile::tempdir().expect("a directory");
        let path = state.path().join(KEY_FILE);
        for short in [&b""[..], b"short", &[7; 31]] {
            fs::write(&path, short).expect("writes");
            let Privacy::Hash(key) = Privacy::open(Addresses::Hash, state.path()).expect("opens")
            else {
                panic!("another rule");
            };
            assert_eq!((key.len(), &fs::read(&path).expect("a key")), (32, &key));
            assert_ne!(key, [0; 32]);
        }
    }
}
