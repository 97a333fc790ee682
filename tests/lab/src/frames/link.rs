//! Ethernet, IEEE 802.1Q tags, and PPPoE sessions (RFC 2516).

use super::Packet;

const PPPOE_SESSION: u16 = 0x8864;

/// The link layer of a frame.
#[derive(Clone, Debug, Default)]
pub struct Ethernet {
    tags: Vec<(u16, u16)>,
    pppoe: Option<Pppoe>,
    ethertype: Option<u16>,
}

#[derive(Clone, Debug, Default)]
struct Pppoe {
    one_byte_protocol: bool,
    protocol: Option<Vec<u8>>,
    length: Option<u16>,
}

impl Ethernet {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more tag, inside those before it: 0x8100 (802.1Q) or 0x88a8 (802.1ad), and a VLAN.
    #[must_use]
    pub fn tag(mut self, ethertype: u16, vlan: u16) -> Self {
        self.tags.push((ethertype, vlan));
        self
    }

    #[must_use]
    pub fn tags(self, count: usize) -> Self {
        (0..count).fold(self, |frame, _| frame.tag(0x8100, 100))
    }

    /// A PPPoE session, the PPP protocol in two bytes.
    #[must_use]
    pub fn pppoe(mut self) -> Self {
        self.pppoe.get_or_insert_default();
        self
    }

    /// A PPPoE session, the PPP protocol compressed to one byte (RFC 1661, section 6.5).
    #[must_use]
    pub fn pppoe_one_byte(mut self) -> Self {
        self.pppoe.get_or_insert_default().one_byte_protocol = true;
        self
    }

    /// A PPPoE session with another PPP protocol than the packet is, as it stands on the wire.
    #[must_use]
    pub fn pppoe_protocol(mut self, protocol: &[u8]) -> Self {
        self.pppoe.get_or_insert_default().protocol = Some(protocol.to_vec());
        self
    }

    /// A PPPoE session that claims `length`, whatever it has.
    #[must_use]
    pub fn pppoe_length(mut self, length: u16) -> Self {
        self.pppoe.get_or_insert_default().length = Some(length);
        self
    }

    /// Announces something else than a PPPoE session or the packet that it carries.
    #[must_use]
    pub fn ethertype(mut self, ethertype: u16) -> Self {
        self.ethertype = Some(ethertype);
        self
    }

    /// The whole frame.
    #[must_use]
    pub fn carrying<P: Packet>(&self, packet: &P) -> Vec<u8> {
        let packet = packet.bytes();
        let Some(pppoe) = &self.pppoe else {
            return self.frame(P::ETHERTYPE, &packet);
        };
        let protocol = match &pppoe.protocol {
            Some(protocol) => protocol.clone(),
            None if pppoe.one_byte_protocol => vec![P::PPP as u8],
            None => P::PPP.to_be_bytes().to_vec(),
        };
        let length = pppoe.length.unwrap_or((protocol.len() + packet.len()) as u16);
        let mut session = vec![0x11, 0, 0, 1]; // version, type, code, session
        session.extend(length.to_be_bytes());
        session.extend(protocol);
        session.extend(packet);
        self.frame(PPPOE_SESSION, &session)
    }

    /// A frame of these tags around any bytes; without PPPoE.
    #[must_use]
    pub fn frame(&self, ethertype: u16, inside: &[u8]) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for (ethertype, vlan) in &self.tags {
            bytes.extend(ethertype.to_be_bytes());
            bytes.extend(vlan.to_be_bytes());
        }
        bytes.extend(self.ethertype.unwrap_or(ethertype).to_be_bytes());
        bytes.extend(inside);
        bytes
    }
}
