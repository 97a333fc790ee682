//! Frames, byte by byte.
//!
//! A builder of our own, because hostile frames must be possible: every length, version and offset can be made
//! to lie after the rest was built right. What nobody touches is correct, checksums included.
//!
//! Built from the outside in:
//!
//! ```
//! use opb_lab::frames::{Ethernet, Ipv4, Tcp};
//! let packet = Ipv4::new([203, 0, 113, 9], [192, 0, 2, 25]).carrying(Tcp::syn_to(25));
//! let frame = Ethernet::new().tag(0x8100, 100).pppoe().carrying(&packet);
//! ```

use std::ops::{Bound, RangeBounds};

mod gre;
mod ipv4;
mod ipv6;
mod link;
mod transport;

pub use gre::Gre;
pub use ipv4::Ipv4;
pub use ipv6::Ipv6;
pub use link::Ethernet;
pub use transport::{Icmp, Raw, Tcp, Udp, flags};

/// An IP packet: what an Ethernet frame, a tunnel or a bare IP device carries.
pub trait Packet {
    /// In an Ethernet header.
    const ETHERTYPE: u16;
    /// In PPP (RFC 1332, RFC 5072).
    const PPP: u16;

    fn bytes(&self) -> Vec<u8>;
}

/// What an IP packet carries: a transport header with its data, or another IP packet.
pub trait Payload {
    /// In the IP header.
    fn protocol(&self) -> u8;

    /// `pseudo` holds the addresses that the checksum covers (RFC 9293, section 3.1; RFC 8200, section 8.1).
    fn bytes(&self, pseudo: &[u8]) -> Vec<u8>;
}

/// The Internet checksum (RFC 1071) over all `parts`, each of an even length but for the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A transport checksum: the pseudo-header's addresses, protocol and length, then `bytes`.
fn transport_checksum(addresses: &[u8], protocol: u8, bytes: &[u8]) -> u16 {
    let length = (bytes.len() as u32).to_be_bytes();
    checksum(&[addresses, &length, &[0, protocol], bytes])
}

/// The part of a payload that a fragment keeps: first byte, and the one behind the last.
#[derive(Clone, Copy)]
struct Kept(usize, usize);

impl Kept {
    const ALL: Self = Self(0, usize::MAX);

    fn of(range: impl RangeBounds<usize>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => usize::MAX,
        };
        Self(start, end)
    }

    fn cut(self, bytes: Vec<u8>) -> Vec<u8> {
        bytes.into_iter().take(self.1).skip(self.0).collect()
    }
}
