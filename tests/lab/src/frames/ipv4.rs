//! RFC 791.

use std::{net::Ipv4Addr, ops::RangeBounds};

use super::{Kept, Packet, Payload, checksum};

/// An IPv4 packet, or one fragment of it.
pub struct Ipv4 {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    /// Where a source route ends: the checksum of the payload covers this address.
    last_hop: Option<Ipv4Addr>,
    options: Vec<u8>,
    identification: u16,
    fragment: u16,
    protocol: Option<u8>,
    payload: Option<Box<dyn Payload>>,
    kept: Kept,
    version: u8,
    ihl: Option<u8>,
    total_length: Option<u16>,
}

impl Ipv4 {
    /// With nothing inside; the protocol number is then 59 ("no next header").
    #[must_use]
    pub fn new(source: impl Into<Ipv4Addr>, destination: impl Into<Ipv4Addr>) -> Self {
        Self {
            source: source.into(),
            destination: destination.into(),
            last_hop: None,
            options: Vec::new(),
            identification: 0x0b25,
            fragment: 0,
            protocol: None,
            payload: None,
            kept: Kept::ALL,
            version: 4,
            ihl: None,
            total_length: None,
        }
    }

    #[must_use]
    pub fn carrying(mut self, payload: impl Payload + 'static) -> Self {
        self.payload = Some(Box::new(payload));
        self
    }

    /// Padded to whole words with zeros, which end the list.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// A loose (131) or strict (137) source route with these hops still ahead.
    #[must_use]
    pub fn source_route(mut self, kind: u8, hops: &[Ipv4Addr]) -> Self {
        let mut options = vec![kind, 3 + 4 * hops.len() as u8, 4];
        options.extend(hops.iter().flat_map(|hop| hop.octets()));
        self.last_hop = hops.last().copied();
        self.options(&options)
    }

    /// What the fragments of one packet have in common.
    #[must_use]
    pub fn identification(mut self, identification: u16) -> Self {
        self.identification = identification;
        self
    }

    /// Fragment at `offset` × 8 bytes. What of the payload it holds is said by [`Ipv4::keep`].
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = offset | if more { 0x2000 } else { 0 };
        self
    }

    #[must_use]
    pub fn do_not_fragment(mut self) -> Self {
        self.fragment |= 0x4000;
        self
    }

    /// Keeps only these bytes of the payload, whose checksum covers all of it.
    #[must_use]
    pub fn keep(mut self, range: impl RangeBounds<usize>) -> Self {
        self.kept = Kept::of(range);
        self
    }

    /// Announces another protocol than the payload is.
    #[must_use]
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.protocol = Some(protocol);
        self
    }

    #[must_use]
    pub fn version(mut self, version: u8) -> Self {
        self.version = version;
        self
    }

    /// Claims `words` for the header, whatever it has.
    #[must_use]
    pub fn ihl(mut self, words: u8) -> Self {
        self.ihl = Some(words);
        self
    }

    /// Claims `length` for the packet, whatever it has.
    #[must_use]
    pub fn total_length(mut self, length: u16) -> Self {
        self.total_length = Some(length);
        self
    }

    fn payload_bytes(&self) -> Vec<u8> {
        let destination = self.last_hop.unwrap_or(self.destination);
        let pseudo = [self.source.octets(), destination.octets()].concat();
        let whole = self.payload.as_ref().map(|payload| payload.bytes(&pseudo)).unwrap_or_default();
        self.kept.cut(whole)
    }
}

impl Packet for Ipv4 {
    const ETHERTYPE: u16 = 0x0800;
    const PPP: u16 = 0x0021;

    fn bytes(&self) -> Vec<u8> {
        let payload = self.payload_bytes();
        let protocol = self.payload.as_ref().map_or(59, |payload| payload.protocol());
        let header = 20 + self.options.len();
        let mut bytes = vec![self.version << 4 | self.ihl.unwrap_or((header / 4) as u8), 0];
        let length = self.total_length.unwrap_or((header + payload.len()) as u16);
        bytes.extend(length.to_be_bytes());
        bytes.extend(self.identification.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, self.protocol.unwrap_or(protocol), 0, 0]); // hops, protocol, checksum
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.options);
        let sum = checksum(&[&bytes]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(payload);
        bytes
    }
}

impl Payload for Ipv4 {
    fn protocol(&self) -> u8 {
        4
    }

    fn bytes(&self, _pseudo: &[u8]) -> Vec<u8> {
        Packet::bytes(self)
    }
}
