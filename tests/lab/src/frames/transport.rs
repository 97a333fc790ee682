//! TCP, UDP, ICMP, and whatever else an IP header may announce.

use super::{Payload, transport_checksum};

/// Bits of the TCP header (RFC 9293, RFC 3168).
pub mod flags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const ECE: u8 = 0x40;
    pub const CWR: u8 = 0x80;
}

/// RFC 9293.
#[derive(Clone, Debug)]
pub struct Tcp {
    source: u16,
    destination: u16,
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
    data_offset: Option<u8>,
    options: Vec<u8>,
    data: Vec<u8>,
}

impl Tcp {
    #[must_use]
    pub fn new(source: u16, destination: u16, flags: u8) -> Self {
        let (options, data) = (Vec::new(), Vec::new());
        Self {
            source,
            destination,
            flags,
            sequence: 1,
            acknowledgement: 0,
            data_offset: None,
            options,
            data,
        }
    }

    /// The first packet of a connection to `port`, from a port that nobody filters.
    #[must_use]
    pub fn syn_to(port: u16) -> Self {
        Self::new(49152, port, flags::SYN)
    }

    /// The answer of a server on `port` to a port that nobody filters.
    #[must_use]
    pub fn syn_ack_from(port: u16) -> Self {
        Self::new(port, 49152, flags::SYN | flags::ACK)
    }

    #[must_use]
    pub fn data(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self
    }

    /// For a segment of a connection that there really is.
    #[must_use]
    pub fn numbers(mut self, sequence: u32, acknowledgement: u32) -> Self {
        (self.sequence, self.acknowledgement) = (sequence, acknowledgement);
        self
    }

    /// Padded to whole words with zeros, which end the list.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// Claims `words` for the header, whatever it has.
    #[must_use]
    pub fn data_offset(mut self, words: u8) -> Self {
        self.data_offset = Some(words);
        self
    }
}

impl Payload for Tcp {
    fn protocol(&self) -> u8 {
        6
    }

    fn bytes(&self, pseudo: &[u8]) -> Vec<u8> {
        let Self {
            source,
            destination,
            flags,
            sequence,
            acknowledgement,
            data_offset,
            options,
            data,
        } = self;
        let words = data_offset.unwrap_or(5 + (options.len() / 4) as u8);
        let mut bytes = Vec::new();
        bytes.extend(source.to_be_bytes());
        bytes.extend(destination.to_be_bytes());
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(acknowledgement.to_be_bytes());
        bytes.extend([words << 4, *flags]);
        bytes.extend(64240u16.to_be_bytes()); // window
        bytes.extend([0; 4]); // checksum, urgent pointer
        bytes.extend(options);
        bytes.extend(data);
        let sum = transport_checksum(pseudo, self.protocol(), &bytes);
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// RFC 768.
#[derive(Clone, Debug)]
pub struct Udp {
    source: u16,
    destination: u16,
    data: Vec<u8>,
}

impl Udp {
    #[must_use]
    pub fn new(source: u16, destination: u16, data: &[u8]) -> Self {
        Self { source, destination, data: data.to_vec() }
    }
}

impl Payload for Udp {
    fn protocol(&self) -> u8 {
        17
    }

    fn bytes(&self, pseudo: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source.to_be_bytes());
        bytes.extend(self.destination.to_be_bytes());
        bytes.extend((8 + self.data.len() as u16).to_be_bytes());
        bytes.extend([0; 2]);
        bytes.extend(&self.data);
        let sum = match transport_checksum(pseudo, self.protocol(), &bytes) {
            0 => 0xffff,
            sum => sum,
        };
        bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// An echo request (RFC 792, RFC 4443).
#[derive(Clone, Copy, Debug)]
pub enum Icmp {
    V4,
    V6,
}

impl Payload for Icmp {
    fn protocol(&self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 58,
        }
    }

    fn bytes(&self, pseudo: &[u8]) -> Vec<u8> {
        let kind = match self {
            Self::V4 => 8,
            Self::V6 => 128,
        };
        let mut bytes = vec![kind, 0, 0, 0];
        // Long enough for a TCP header, and full of 25.
        bytes.extend([0, 25].repeat(10));
        let sum = match self {
            Self::V4 => super::checksum(&[&bytes]),
            Self::V6 => transport_checksum(pseudo, self.protocol(), &bytes),
        };
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// Any bytes under any protocol number.
#[derive(Clone, Debug)]
pub struct Raw(pub u8, pub Vec<u8>);

impl Payload for Raw {
    fn protocol(&self) -> u8 {
        self.0
    }

    fn bytes(&self, _pseudo: &[u8]) -> Vec<u8> {
        self.1.clone()
    }
}
