//! The packet to explain.

use std::{fmt, net::IpAddr};

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep, TcpHeader, ip_number};
use opb_common::outcome::{Direction, Line};

use crate::api::explain::{Flags, Query};

/// The default for the port that does not decide.
const ANY_PORT: u16 = 50_000;
const SMTP: u16 = 25;

/// Why no packet matches a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("invalid addresses {0} and {1}: expected two IPv4 or two IPv6 addresses")]
    MixedFamilies(IpAddr, IpAddr),
    #[error("incomplete outer addresses: expected both a source and a destination")]
    HalfOuter,
}

impl Query {
    /// Returns source and destination port.
    pub(super) fn ports(&self) -> (u16, u16) {
        let (source, destination) = match self.direction {
            Direction::Upstream => (ANY_PORT, SMTP),
            Direction::Downstream => (SMTP, ANY_PORT),
        };
        (self.sport.unwrap_or(source), self.dport.unwrap_or(destination))
    }

    /// Returns the subscriber's address and the address of the other end.
    pub(super) const fn ends(&self) -> (IpAddr, IpAddr) {
        match self.direction {
            Direction::Upstream => (self.src, self.dst),
            Direction::Downstream => (self.dst, self.src),
        }
    }

    /// Returns the address that names the line, as `line` selects it.
    pub(super) fn line(&self, line: Line) -> IpAddr {
        let (own, _) = self.ends();
        let outer = match self.direction {
            Direction::Upstream => self.outer_src,
            Direction::Downstream => self.outer_dst,
        };
        match (line, own) {
            (Line::Outer, _) => outer.unwrap_or(own),
            (Line::SixToFour, IpAddr::V6(address)) => {
                let [_, _, a, b, c, d, ..] = address.octets();
                IpAddr::from([a, b, c, d])
            }
            _ => own,
        }
    }

    /// Returns outer source and destination, if there are any.
    pub(super) fn outer(&self) -> Result<Option<(IpAddr, IpAddr)>, QueryError> {
        match (self.outer_src, self.outer_dst) {
            (None, None) => Ok(None),
            (Some(src), Some(dst)) => Ok(Some((src, dst))),
            _ => Err(QueryError::HalfOuter),
        }
    }

    /// Returns the packet in an Ethernet frame.
    pub(super) fn frame(&self) -> Result<Vec<u8>, QueryError> {
        let (source, destination) = self.ports();
        let header = self.flags.header(source, destination);
        let mut frame = Vec::new();
        let Some((src, dst)) = self.outer()? else {
            let tcp = ethernet(self.src, self.dst)?.tcp_header(header);
            written(tcp.write(&mut frame, &[]));
            return Ok(frame);
        };
        let mut inner = Vec::new();
        let packet = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                PacketBuilder::ipv4(src.octets(), dst.octets(), TTL)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                PacketBuilder::ipv6(src.octets(), dst.octets(), TTL)
            }
            (src, dst) => return Err(QueryError::MixedFamilies(src, dst)),
        };
        written(packet.tcp_header(header).write(&mut inner, &[]));
        let protocol = if self.src.is_ipv6() { ip_number::IPV6 } else { ip_number::IPV4 };
        written(ethernet(src, dst)?.write(&mut frame, protocol, &inner));
        Ok(frame)
    }
}

const TTL: u8 = 64;

fn ethernet(src: IpAddr, dst: IpAddr) -> Result<PacketBuilderStep<IpHeaders>, QueryError> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Ok(ethernet.ipv4(src.octets(), dst.octets(), TTL)),
        (IpAddr::V6(src), IpAddr::V6(dst)) => Ok(ethernet.ipv6(src.octets(), dst.octets(), TTL)),
        _ => Err(QueryError::MixedFamilies(src, dst)),
    }
}

fn written<E: fmt::Display>(result: Result<(), E>) {
    result.unwrap_or_else(|error| unreachable!("an empty segment fits: {error}"));
}

impl Flags {
    fn has(&self, letter: char) -> bool {
        self.0.contains(letter)
    }

    pub(super) fn opens(&self) -> bool {
        self.has('S') && !self.has('A')
    }

    fn header(&self, source: u16, destination: u16) -> TcpHeader {
        TcpHeader {
            syn: self.has('S'),
            ack: self.has('A'),
            fin: self.has('F'),
            rst: self.has('R'),
            psh: self.has('P'),
            urg: self.has('U'),
            ..TcpHeader::new(source, destination, 1, 64_240)
        }
    }
}
