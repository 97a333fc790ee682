//! RFC 8200 and its extension headers.

use std::{net::Ipv6Addr, ops::RangeBounds};

use super::{Kept, Packet, Payload};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;

/// An IPv6 packet, or one fragment of it.
pub struct Ipv6 {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    /// Where a routing header ends: the checksum of the payload covers this address.
    last_hop: Option<Ipv6Addr>,
    /// Number and bytes of each extension header; the first byte of each is filled in when all are known.
    extensions: Vec<(u8, Vec<u8>)>,
    next_header: Option<u8>,
    payload: Option<Box<dyn Payload>>,
    kept: Kept,
    version: u8,
    payload_length: Option<u16>,
}

impl Ipv6 {
    /// With nothing inside: no next header.
    #[must_use]
    pub fn new(source: impl Into<Ipv6Addr>, destination: impl Into<Ipv6Addr>) -> Self {
        Self {
            source: source.into(),
            destination: destination.into(),
            last_hop: None,
            extensions: Vec::new(),
            next_header: None,
            payload: None,
            kept: Kept::ALL,
            version: 6,
            payload_length: None,
        }
    }

    #[must_use]
    pub fn carrying(mut self, payload: impl Payload + 'static) -> Self {
        self.payload = Some(Box::new(payload));
        self
    }

    /// Hop-by-hop options: `units` × 8 bytes of padding.
    #[must_use]
    pub fn hop_by_hop(self, units: usize) -> Self {
        self.extension(HOP_BY_HOP, options(units))
    }

    /// Destination options: `units` × 8 bytes of padding.
    #[must_use]
    pub fn destination_options(self, units: usize) -> Self {
        self.extension(DESTINATION_OPTIONS, options(units))
    }

    /// A routing header of `kind` (0 RFC 2460, 2 RFC 6275, 4 RFC 8754) with `left` segments still ahead.
    #[must_use]
    pub fn routing(mut self, kind: u8, left: u8, hops: &[Ipv6Addr]) -> Self {
        let mut bytes = vec![0, 2 * hops.len() as u8, kind, left, 0, 0, 0, 0];
        bytes.extend(hops.iter().flat_map(|hop| hop.octets()));
        if left > 0 {
            // Segment routing lists its segments backwards.
            self.last_hop = if kind == 4 { hops.first() } else { hops.last() }.copied();
        }
        self.extension(ROUTING, bytes)
    }

    /// RFC 4302, with `words` × 4 bytes behind its first 8.
    #[must_use]
    pub fn authentication(self, words: usize) -> Self {
        let mut bytes = vec![0; 8 + 4 * words];
        bytes[1] = words as u8;
        self.extension(AUTHENTICATION, bytes)
    }

    /// Fragment at `offset` × 8 bytes. What it holds is said by [`Ipv6::keep`].
    #[must_use]
    pub fn fragment(self, offset: u16, more: bool) -> Self {
        let mut bytes = vec![0; 8];
        bytes[2..4].copy_from_slice(&(offset << 3 | u16::from(more)).to_be_bytes());
        bytes[4..8].copy_from_slice(&0x0b25_0b25_u32.to_be_bytes());
        self.extension(FRAGMENT, bytes)
    }

    /// Any extension header; its first byte is overwritten with the number of what follows it.
    #[must_use]
    pub fn extension(mut self, number: u8, bytes: Vec<u8>) -> Self {
        self.extensions.push((number, bytes));
        self
    }

    /// Keeps only these bytes of what stands behind the fixed header, extension headers included.
    #[must_use]
    pub fn keep(mut self, range: impl RangeBounds<usize>) -> Self {
        self.kept = Kept::of(range);
        self
    }

    /// Announces another protocol behind the last extension header than the payload is.
    #[must_use]
    pub fn next_header(mut self, number: u8) -> Self {
        self.next_header = Some(number);
        self
    }

    #[must_use]
    pub fn version(mut self, version: u8) -> Self {
        self.version = version;
        self
    }

    /// Claims `length` behind the fixed header, whatever it has.
    #[must_use]
    pub fn payload_length(mut self, length: u16) -> Self {
        self.payload_length = Some(length);
        self
    }

    /// Number of the first header, and all that stands behind the fixed one.
    fn chain(&self) -> (u8, Vec<u8>) {
        let destination = self.last_hop.unwrap_or(self.destination);
        let pseudo = [self.source.octets(), destination.octets()].concat();
        let (mut next, payload) = match &self.payload {
            Some(payload) => (payload.protocol(), payload.bytes(&pseudo)),
            None => (NO_NEXT_HEADER, Vec::new()),
        };
        next = self.next_header.unwrap_or(next);
        let mut parts = vec![payload];
        for (number, bytes) in self.extensions.iter().rev() {
            let mut bytes = bytes.clone();
            bytes[0] = next;
            parts.push(bytes);
            next = *number;
        }
        parts.reverse();
        (next, self.kept.cut(parts.concat()))
    }
}

/// An options header that holds nothing but one PadN option.
fn options(units: usize) -> Vec<u8> {
    let mut bytes = vec![0; units * 8];
    bytes[1] = (units - 1) as u8;
    if units * 8 - 4 <= 255 {
        bytes[2..4].copy_from_slice(&[1, (units * 8 - 4) as u8]);
    }
    bytes
}

impl Packet for Ipv6 {
    const ETHERTYPE: u16 = 0x86dd;
    const PPP: u16 = 0x0057;

    fn bytes(&self) -> Vec<u8> {
        let (next, chain) = self.chain();
        let mut bytes = vec![self.version << 4, 0, 0, 0];
        bytes.extend(self.payload_length.unwrap_or(chain.len() as u16).to_be_bytes());
        bytes.extend([next, 64]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(chain);
        bytes
    }
}

impl Payload for Ipv6 {
    fn protocol(&self) -> u8 {
        41
    }

    fn bytes(&self, _pseudo: &[u8]) -> Vec<u8> {
        Packet::bytes(self)
    }
}
