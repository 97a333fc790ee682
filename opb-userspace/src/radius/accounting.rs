//! From an Accounting-Request to a report on a session.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::packet::{Attribute, Packet};
use crate::{
    node::GroupAttribute,
    policy::Prefix,
    subscribers::sessions::{
        Assignment, Key, Subscriber,
        event::{Address, Event, Kind, MOST_ADDRESSES, Moment, Source},
    },
    text,
};

/// Numbers of attributes: RFC 2865, 2866 (40 to 46), 2869 (55, 85), 3162 (95 to 99), 4818 (123) and
/// 6911 (168).
mod number {
    pub(super) const USER_NAME: u8 = 1;
    pub(super) const NAS_IP_ADDRESS: u8 = 4;
    pub(super) const FRAMED_IP_ADDRESS: u8 = 8;
    pub(super) const FILTER_ID: u8 = 11;
    pub(super) const FRAMED_ROUTE: u8 = 22;
    pub(super) const VENDOR_SPECIFIC: u8 = 26;
    pub(super) const CALLING_STATION_ID: u8 = 31;
    pub(super) const NAS_IDENTIFIER: u8 = 32;
    pub(super) const ACCT_STATUS_TYPE: u8 = 40;
    pub(super) const ACCT_DELAY_TIME: u8 = 41;
    pub(super) const ACCT_SESSION_ID: u8 = 44;
    pub(super) const ACCT_SESSION_TIME: u8 = 46;
    pub(super) const EVENT_TIMESTAMP: u8 = 55;
    pub(super) const ACCT_INTERIM_INTERVAL: u8 = 85;
    pub(super) const NAS_IPV6_ADDRESS: u8 = 95;
    pub(super) const FRAMED_IPV6_PREFIX: u8 = 97;
    pub(super) const FRAMED_IPV6_ROUTE: u8 = 99;
    pub(super) const DELEGATED_IPV6_PREFIX: u8 = 123;
    pub(super) const FRAMED_IPV6_ADDRESS: u8 = 168;
}

/// ADSL-Agent-Circuit-Id (RFC 4679, section 3.3.1): vendor and type.
const CIRCUIT_ID: (u32, u8) = (3561, 1);
/// What a value of the group attribute starts with. Other values are somebody else's, such as a
/// shaper's.
const OURS: &str = "opb:";

/// How to read the requests of this node.
#[derive(Clone, Debug)]
pub struct Reading {
    pub group_attribute: GroupAttribute,
    pub default_group: Option<Arc<str>>,
}

/// An authentic request.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    Report {
        event: Box<Event>,
        /// The addresses that no session may own, or that are too many.
        refused: usize,
    },
    /// A request that says nothing about sessions of ours, such as one about tunnels (RFC 2867). It
    /// is answered.
    Other,
}

/// Why a request is not answered: it lacks what RFC 2866 demands, or what it has cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("no Acct-Status-Type")]
    StatusType,
    #[error("no Acct-Session-Id")]
    SessionId,
    #[error("attribute {0} has a wrong length")]
    Length(u8),
}

/// Reads a request from `source` that arrived at `arrival`, in milliseconds since 1970.
pub fn read(
    packet: &Packet<'_>,
    source: IpAddr,
    arrival: i64,
    reading: &Reading,
) -> Result<Request, Malformed> {
    let found = Found::collect(packet, reading)?;
    let kind = match found.status.ok_or(Malformed::StatusType)? {
        1 => Kind::Start,
        2 => Kind::Stop,
        3 => Kind::Interim,
        7 => Kind::On,
        8 => Kind::Off,
        _ => return Ok(Request::Other),
    };
    let nas = found.identifier.or(found.nas_address.map(|address| address.to_string().into()));
    let nas = nas.unwrap_or_else(|| source.to_canonical().to_string().into());
    let is_of_nas = matches!(kind, Kind::On | Kind::Off);
    let id = match found.session {
        _ if is_of_nas => "".into(),
        Some(id) if !id.is_empty() => id,
        _ => return Err(Malformed::SessionId),
    };
    let at = Moment {
        here: arrival.saturating_sub(i64::from(found.delay) * 1000),
        there: found.event_time.map(i64::from),
    };
    let (mut addresses, refused): (Vec<_>, Vec<_>) =
        found.addresses.into_iter().partition(Address::is_acceptable);
    let excess = addresses.len().saturating_sub(MOST_ADDRESSES);
    addresses.truncate(MOST_ADDRESSES);
    let default_group = reading.default_group.clone();
    let event = Event {
        kind,
        key: Key { nas, id },
        at,
        duration: found.duration,
        subscriber: found.subscriber,
        assignment: found.assignment,
        default_assignment: default_group.map_or(Assignment::Files, Assignment::Group),
        addresses,
        interim: found.interim,
    };
    Ok(Request::Report { event: Box::new(event), refused: refused.len() + excess })
}

/// What a request has.
#[derive(Default)]
struct Found {
    status: Option<u32>,
    session: Option<Arc<str>>,
    identifier: Option<Arc<str>>,
    nas_address: Option<IpAddr>,
    delay: u32,
    event_time: Option<u32>,
    duration: Option<u32>,
    interim: Option<u32>,
    subscriber: Subscriber,
    assignment: Option<Assignment>,
    addresses: BTreeSet<Address>,
}

impl Found {
    fn collect(packet: &Packet<'_>, reading: &Reading) -> Result<Self, Malformed> {
        let mut found = Self::default();
        let mut framed = None;
        for attribute in packet.attributes() {
            let Attribute { number, value } = attribute;
            match number {
                number::USER_NAME => found.subscriber.user = name(value),
                number::CALLING_STATION_ID => found.subscriber.calling_station = name(value),
                number::NAS_IDENTIFIER => found.identifier = name(value),
                number::ACCT_SESSION_ID => found.session = name(value),
                number::NAS_IP_ADDRESS => {
                    found.nas_address = Some(Ipv4Addr::from(integer(attribute)?).into());
                }
                number::NAS_IPV6_ADDRESS => found.nas_address = Some(ipv6(attribute)?.into()),
                number::ACCT_STATUS_TYPE => found.status = Some(integer(attribute)?),
                number::ACCT_DELAY_TIME => found.delay = integer(attribute)?,
                number::ACCT_SESSION_TIME => found.duration = Some(integer(attribute)?),
                number::EVENT_TIMESTAMP => found.event_time = Some(integer(attribute)?),
                number::ACCT_INTERIM_INTERVAL => found.interim = Some(integer(attribute)?),
                // Alone: Framed-IP-Netmask is that of the user's network where the user is a router
                // (RFC 2865, section 5.9), but many servers send that of their pool. A network
                // behind the user comes as Framed-Route.
                number::FRAMED_IP_ADDRESS => framed = Some(integer(attribute)?),
                number::FRAMED_IPV6_ADDRESS => {
                    found.add(ipv6(attribute)?.into(), 128, Source::Ipv6);
                }
                number::FRAMED_IPV6_PREFIX | number::DELEGATED_IPV6_PREFIX => {
                    let (address, length) = ipv6_prefix(attribute)?;
                    let is_delegated = number == number::DELEGATED_IPV6_PREFIX;
                    let from = if is_delegated { Source::Delegated } else { Source::Ipv6Prefix };
                    found.add(address.into(), length, from);
                }
                number::FRAMED_ROUTE | number::FRAMED_IPV6_ROUTE => found.route(value),
                number::FILTER_ID if reading.group_attribute == GroupAttribute::FilterId => {
                    found.assign(value);
                }
                number::VENDOR_SPECIFIC => found.vendor(value, reading),
                _ => {}
            }
        }
        if let Some(address) = framed {
            found.add(Ipv4Addr::from(address).into(), 32, Source::Ipv4);
        }
        Ok(found)
    }

    fn add(&mut self, address: IpAddr, length: u8, from: Source) {
        if let Ok(prefix) = Prefix::truncated(address, length) {
            self.addresses.insert(Address { prefix, from });
        }
    }

    /// `PREFIX GATEWAY METRIC…` (RFC 2865, section 5.22; RFC 3162, section 2.5). An IPv4 address
    /// without a length is the network of its class.
    fn route(&mut self, value: &[u8]) {
        let text = String::from_utf8_lossy(value);
        let Some(first) = text.split_whitespace().next() else { return };
        let (address, length) = first.split_once('/').unwrap_or((first, ""));
        let Ok(address) = address.parse::<IpAddr>() else { return };
        let length = match (address, length) {
            (IpAddr::V4(address), "") => match address.octets()[0] {
                0..=127 => 8,
                128..=191 => 16,
                192..=223 => 24,
                224.. => 32,
            },
            (IpAddr::V6(_), "") => 128,
            (_, length) => match length.parse() {
                Ok(length) => length,
                Err(_) => return,
            },
        };
        let from = if address.is_ipv4() { Source::Ipv4Route } else { Source::Ipv6Route };
        self.add(address, length, from);
    }

    /// The first value that is ours counts.
    fn assign(&mut self, value: &[u8]) {
        let text = String::from_utf8_lossy(value);
        let Some(group) = text.trim_end_matches('\0').strip_prefix(OURS) else { return };
        self.assignment.get_or_insert_with(|| match group {
            "exempt" => Assignment::Exempt,
            group => Assignment::Group(text::line(group).into()),
        });
    }

    /// RFC 2865, section 5.26: attributes of a vendor, each with a type and a length of one byte.
    /// Vendors that use another form are left alone.
    fn vendor(&mut self, value: &[u8], reading: &Reading) {
        let Some((&vendor, mut rest)) = value.split_first_chunk::<4>() else { return };
        let vendor = u32::from_be_bytes(vendor);
        while let Some((&[number, length], _)) = rest.split_first_chunk::<2>() {
            let Some((attribute, behind)) = rest.split_at_checked(length.into()) else { return };
            let Some(value) = attribute.get(2..) else { return };
            if (vendor, number) == CIRCUIT_ID {
                self.subscriber.circuit = name(value);
            }
            if reading.group_attribute == (GroupAttribute::Vendor { enterprise: vendor, number }) {
                self.assign(value);
            }
            rest = behind;
        }
    }
}

fn integer(Attribute { number, value }: Attribute<'_>) -> Result<u32, Malformed> {
    value.try_into().map(u32::from_be_bytes).map_err(|_| Malformed::Length(number))
}

fn ipv6(Attribute { number, value }: Attribute<'_>) -> Result<Ipv6Addr, Malformed> {
    <[u8; 16]>::try_from(value).map(Ipv6Addr::from).map_err(|_| Malformed::Length(number))
}

/// A reserved byte, the length, and as many bytes of the prefix as the sender likes (RFC 3162,
/// section 2.3).
fn ipv6_prefix(attribute: Attribute<'_>) -> Result<(Ipv6Addr, u8), Malformed> {
    let wrong = Malformed::Length(attribute.number);
    let Some((&[_, length], prefix)) = attribute.value.split_first_chunk::<2>() else {
        return Err(wrong);
    };
    let mut bytes = [0; 16];
    let Some(target) = bytes.get_mut(..prefix.len()).filter(|_| length <= 128) else {
        return Err(wrong);
    };
    target.copy_from_slice(prefix);
    Ok((bytes.into(), length))
}

/// A text of a server as one line without control characters. `None` if it is empty.
fn name(value: &[u8]) -> Option<Arc<str>> {
    if value.is_empty() {
        return None;
    }
    Some(match std::str::from_utf8(value) {
        Ok(text) => text::line(text).into(),
        Err(_) => value.escape_ascii().to_string().into(),
    })
}

#[cfg(test)]
mod tests;
