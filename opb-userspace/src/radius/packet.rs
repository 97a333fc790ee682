//! The form of packets (RFC 2865, section 3) and their authentication. Nothing here allocates for a
//! packet that is not authentic.

use hmac::{Hmac, Mac as _};
use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq as _;

/// Codes of packets.
pub const ACCOUNTING_REQUEST: u8 = 4;
pub const ACCOUNTING_RESPONSE: u8 = 5;
/// RFC 5997: whether the server is alive.
pub const STATUS_SERVER: u8 = 12;

pub const MESSAGE_AUTHENTICATOR: u8 = 80;
const PROXY_STATE: u8 = 33;

/// The length of the header, which is the shortest packet, and that of the longest one.
const HEADER: usize = 20;
pub const LONGEST: usize = 4096;

/// A packet whose lengths are right. Nothing else in it is checked.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a>(&'a [u8]);

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    pub number: u8,
    pub value: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Returns the packet in a datagram. Octets behind its length are padding (RFC 2865, section
    /// 3). `None` if any length is wrong.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let length = usize::from(u16::from_be_bytes([*datagram.get(2)?, *datagram.get(3)?]));
        if !(HEADER..=LONGEST).contains(&length) {
            return None;
        }
        let bytes = datagram.get(..length)?;
        let mut rest = &bytes[HEADER..];
        while let Some((&[_, length], _)) = rest.split_first_chunk::<2>() {
            rest = rest.get(usize::from(length)..).filter(|_| length >= 2)?;
        }
        rest.is_empty().then_some(Self(bytes))
    }

    pub fn code(&self) -> u8 {
        self.0[0]
    }

    pub fn identifier(&self) -> u8 {
        self.0[1]
    }

    pub fn authenticator(&self) -> [u8; 16] {
        self.0[4..HEADER].try_into().unwrap_or_default()
    }

    /// All attributes, in order.
    pub fn attributes(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        let mut rest = &self.0[HEADER..];
        std::iter::from_fn(move || {
            let (&[number, length], _) = rest.split_first_chunk::<2>()?;
            let (attribute, behind) = rest.split_at_checked(length.into())?;
            rest = behind;
            Some(Attribute { number, value: attribute.get(2..)? })
        })
    }

    /// Whether a client that knows `secret` has sent this Accounting-Request: its Request
    /// Authenticator (RFC 2866, section 3), and its Message-Authenticator where it has one, which
    /// is made first, over a Request Authenticator of zeros.
    pub fn is_accounting_of(&self, secret: &[u8]) -> bool {
        let [head, attributes] = [&self.0[..4], &self.0[HEADER..]];
        let expected = digest(&[head, &[0; 16], attributes, secret]);
        let is_authentic = bool::from(expected.ct_eq(&self.authenticator()));
        is_authentic && self.signature(secret, [0; 16]) != Some(false)
    }

    /// Whether a client that knows `secret` has sent this Status-Server, which must have a
    /// Message-Authenticator (RFC 5997, section 3).
    pub fn is_status_of(&self, secret: &[u8]) -> bool {
        self.signature(secret, self.authenticator()) == Some(true)
    }

    /// Whether the Message-Authenticator (RFC 3579, section 3.2) is right, with `authenticator` in
    /// place of the Request Authenticator. `None` without one; two of them are wrong.
    fn signature(&self, secret: &[u8], authenticator: [u8; 16]) -> Option<bool> {
        let mut found = None;
        let mut at = HEADER;
        for Attribute { number, value } in self.attributes() {
            if number == MESSAGE_AUTHENTICATOR {
                if found.is_some() || value.len() != 16 {
                    return Some(false);
                }
                found = Some((at + 2, value));
            }
            at += 2 + value.len();
        }
        let (at, value) = found?;
        let mut mac = Hmac::<Md5>::new_from_slice(secret).ok()?;
        mac.update(&self.0[..4]);
        mac.update(&authenticator);
        mac.update(&self.0[HEADER..at]);
        mac.update(&[0; 16]);
        mac.update(&self.0[at + 16..]);
        // Compares in constant time.
        Some(mac.verify_slice(value).is_ok())
    }

    /// The Accounting-Response to this request (RFC 2866, section 4.2), with its Proxy-State
    /// attributes as they came (RFC 2865, section 5.33).
    pub fn response(&self, secret: &[u8]) -> Vec<u8> {
        let mut response = vec![ACCOUNTING_RESPONSE, self.identifier(), 0, 0];
        response.extend(self.authenticator());
        for Attribute { number, value } in self.attributes().filter(|it| it.number == PROXY_STATE) {
            response.extend([number, value.len() as u8 + 2]);
            response.extend(value);
        }
        // Never longer than the request.
        let length = (response.len() as u16).to_be_bytes();
        response[2..4].copy_from_slice(&length);
        let authenticator = digest(&[&response, secret]);
        response[4..HEADER].copy_from_slice(&authenticator);
        response
    }
}

fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut digest = Md5::new();
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize().into()
}

/// Builds an Accounting-Request, for tests and for generators of load.
pub fn request(identifier: u8, attributes: &[(u8, Vec<u8>)], secret: &[u8]) -> Vec<u8> {
    let mut request = vec![ACCOUNTING_REQUEST, identifier, 0, 0];
    request.extend([0; 16]);
    let mut signature = None;
    for (number, value) in attributes {
        if *number == MESSAGE_AUTHENTICATOR {
            signature = Some(request.len() + 2);
        }
        request.extend([*number, value.len() as u8 + 2]);
        request.extend(value);
    }
    let length = (request.len() as u16).to_be_bytes();
    request[2..4].copy_from_slice(&length);
    if let Some(at) = signature
        && let Ok(mut mac) = Hmac::<Md5>::new_from_slice(secret)
    {
        mac.update(&request);
        request[at..at + 16].copy_from_slice(&mac.finalize().into_bytes());
    }
    let authenticator = digest(&[&request, secret]);
    request[4..HEADER].copy_from_slice(&authenticator);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"testing123";

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.chars().filter_map(|it| it.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    /// RFC 5997, section 6.1: a Status-Server to the secret "xyzzy5461".
    #[test]
    fn the_example_of_the_rfc_is_authentic() {
        let bytes = hex("0c da 00 26 8a 54 f4 68 6f b3 94 c5 28 66 e3 02 \
             18 5d 06 23 50 12 5a 66 5e 2e 1e 84 11 f3 e2 43 82 20 97 c8 4f a3");
        let packet = Packet::parse(&bytes).expect("well formed");
        assert_eq!(packet.code(), STATUS_SERVER);
        assert!(packet.is_status_of(b"xyzzy5461") && !packet.is_status_of(b"xyzzy5462"));
        let response = packet.response(b"xyzzy5461");
        // RFC 5997, section 6.3 has the same answer from an accounting port, with another request.
        assert_eq!((response[0], response[1], response.len()), (5, 0xda, 20));
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let attributes = [(1, b"user".to_vec()), (MESSAGE_AUTHENTICATOR, vec![0; 16])];
        let good = request(7, &attributes, SECRET);
        let is_authentic = |bytes: &[u8]| {
            Packet::parse(bytes).is_some_and(|packet| packet.is_accounting_of(SECRET))
        };
        assert!(is_authentic(&good));
        assert!(is_authentic(&[&good[..], b"padding"].concat()));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_authentic(&bad), "bit {bit}");
        }
        assert!(!is_authentic(&good[..good.len() - 1]));
    }

    /// The Request Authenticator is right, the Message-Authenticator is not.
    #[test]
    fn a_wrong_message_authenticator_is_refused() {
        let sign = |bytes: &mut Vec<u8>| {
            bytes[4..HEADER].fill(0);
            let authenticator = digest(&[bytes, SECRET]);
            bytes[4..HEADER].copy_from_slice(&authenticator);
        };
        let mut bytes = request(1, &[(MESSAGE_AUTHENTICATOR, vec![0; 16])], SECRET);
        bytes[HEADER + 2] ^= 1;
        sign(&mut bytes);
        assert!(!Packet::parse(&bytes).expect("well formed").is_accounting_of(SECRET));
        let two = [(MESSAGE_AUTHENTICATOR, vec![0; 16]), (MESSAGE_AUTHENTICATOR, vec![0; 16])];
        let bytes = request(1, &two, SECRET);
        assert!(!Packet::parse(&bytes).expect("well formed").is_accounting_of(SECRET));
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let good = request(1, &[(1, b"user".to_vec())], SECRET);
        assert!(Packet::parse(&good).is_some());
        for length in 0..good.len() {
            assert!(Packet::parse(&good[..length]).is_none(), "{length} bytes");
        }
        for (at, byte) in [(3, 19), (2, 255), (HEADER + 1, 0), (HEADER + 1, 1), (HEADER + 1, 7)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(Packet::parse(&bad).is_none(), "{byte} at {at}");
        }
    }

    #[test]
    fn responses_repeat_the_proxy_state() {
        let attributes = [(33, b"one".to_vec()), (1, b"user".to_vec()), (33, b"two".to_vec())];
        let bytes = request(9, &attributes, SECRET);
        let packet = Packet::parse(&bytes).expect("well formed");
        let response = packet.response(SECRET);
        let states: Vec<_> = Packet::parse(&response).expect("well formed").attributes().collect();
        let state = |value| Attribute { number: 33, value };
        assert_eq!(states, [state(b"one"), state(b"two")]);
        // RFC 2866, section 3: over the request's authenticator.
        let mut signed = response.clone();
        signed[4..HEADER].copy_from_slice(&packet.authenticator());
        assert_eq!(response[4..HEADER], digest(&[&signed, SECRET]));
    }
}
