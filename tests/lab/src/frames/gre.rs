//! RFC 2784 and 2890.

use super::{Packet, Payload};

/// A GRE header and what it carries.
pub struct Gre {
    flags: u16,
    fields: usize,
    protocol: u16,
    payload: Vec<u8>,
}

impl Gre {
    /// With no more than the first four bytes of header.
    #[must_use]
    pub fn of<P: Packet>(packet: &P) -> Self {
        Self { flags: 0, fields: 0, protocol: P::ETHERTYPE, payload: packet.bytes() }
    }

    /// With a checksum, which is not right: nobody in between looks at it.
    #[must_use]
    pub fn checksum(self) -> Self {
        self.field(0x8000)
    }

    #[must_use]
    pub fn key(self) -> Self {
        self.field(0x2000)
    }

    #[must_use]
    pub fn sequence(self) -> Self {
        self.field(0x1000)
    }

    /// Sets bits of the first two bytes, and adds nothing.
    #[must_use]
    pub fn flags(self, flags: u16) -> Self {
        Self { flags: self.flags | flags, ..self }
    }

    /// The EtherType of what it carries.
    #[must_use]
    pub fn protocol(self, protocol: u16) -> Self {
        Self { protocol, ..self }
    }

    fn field(self, flag: u16) -> Self {
        Self { flags: self.flags | flag, fields: self.fields + 1, ..self }
    }
}

impl Payload for Gre {
    fn protocol(&self) -> u8 {
        47
    }

    fn bytes(&self, _pseudo: &[u8]) -> Vec<u8> {
        let mut bytes = self.flags.to_be_bytes().to_vec();
        bytes.extend(self.protocol.to_be_bytes());
        bytes.extend([0x25, 0, 0, 1].repeat(self.fields));
        bytes.extend(&self.payload);
        bytes
    }
}
