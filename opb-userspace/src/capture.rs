//! Capture files for `opb replay`: pcap and pcapng, in either byte order.
//!
//! Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng, and the list of link types at
//! <https://www.tcpdump.org/linktypes.html>. `pcap-parser` parses the blocks; this
//! module interprets them.

use std::io::{self, Read};

use pcap_parser::{
    Block, LegacyPcapBlock, PcapError, PcapHeader,
    nom::{self, IResult},
    parse_block_be, parse_block_le, parse_pcap_frame, parse_pcap_frame_be,
    parse_pcap_frame_modified, parse_pcap_header, parse_sectionheaderblock,
    traits::PcapNGPacketBlock as _,
};

#[cfg(test)]
mod tests;

/// Maximum length of a padded packet: the largest IP packet after an Ethernet header.
pub const LONGEST: u32 = 65_550;

/// The first header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Ethernet,
    /// An IPv4 or IPv6 header, without a link layer.
    BareIp,
}

/// One packet of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Number of the packet in the file, from 1, as in other tools.
    pub number: u64,
    pub link: Link,
    /// The captured bytes. A packet that the capture cut short is padded with zeros to its original
    /// length, or to [`LONGEST`], because the verdict depends on the length.
    pub data: Vec<u8>,
    /// Length on the wire, in bytes.
    pub original_length: u32,
}

/// Why a capture, or the rest of it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("not a capture: expected pcap or pcapng")]
    NotACapture,
    #[error("packet {number} has link type {link_type} ({}): expected Ethernet or raw \
             IP", name(*link_type))]
    UnsupportedLink { number: u64, link_type: u32 },
    #[error("the capture ends in packet {number}, or before it")]
    Truncated { number: u64 },
    #[error(
        "packet {number} belongs to interface {interface}, which the capture does not describe"
    )]
    UnknownInterface { number: u64, interface: u32 },
    #[error(
        "packet {number} is in an obsolete packet block: rewrite the capture with a current tool"
    )]
    Obsolete { number: u64 },
    #[error("the capture is damaged at packet {number}, or before it")]
    Damaged { number: u64 },
    #[error("cannot read the capture")]
    Read(#[from] io::Error),
}

/// The packets of a capture, in the order of the file. The first error ends it.
pub struct Capture<R> {
    input: Input<R>,
    format: Format,
    /// Interfaces described so far in this section of the file. A pcap file has one.
    interfaces: Vec<Interface>,
    packets: u64,
    ended: bool,
}

impl<R: Read> Capture<R> {
    /// Reads the file header.
    pub fn new(reader: R) -> Result<Self, CaptureError> {
        let mut input = Input { reader, buffer: Vec::new(), start: 0 };
        let (format, interfaces) = loop {
            match Format::of(input.rest()) {
                Ok((format, header, interfaces)) => {
                    input.start += header;
                    break (format, interfaces);
                }
                Err(Stop::Damaged) => return Err(CaptureError::NotACapture),
                Err(Stop::Incomplete) if input.fill()? => {}
                Err(Stop::Incomplete) if input.rest().len() < 4 => {
                    return Err(CaptureError::NotACapture);
                }
                Err(Stop::Incomplete) => return Err(CaptureError::Truncated { number: 1 }),
            }
        };
        Ok(Self { input, format, interfaces, packets: 0, ended: false })
    }

    fn next_packet(&mut self) -> Result<Option<Packet>, CaptureError> {
        let number = self.packets + 1;
        loop {
            match self.format.next(self.input.rest()) {
                Ok((length, content)) => {
                    self.input.start += length;
                    match content {
                        Content::Packet(raw) => {
                            self.packets = number;
                            return self.packet(number, raw).map(Some);
                        }
                        Content::Interface(interface) => self.interfaces.push(interface),
                        Content::Section => self.interfaces.clear(),
                        Content::Obsolete => return Err(CaptureError::Obsolete { number }),
                        Content::Other => {}
                    }
                }
                Err(Stop::Damaged) => return Err(CaptureError::Damaged { number }),
                Err(Stop::Incomplete) if self.input.rest().len() > LONGEST_BLOCK => {
                    return Err(CaptureError::Damaged { number });
                }
                Err(Stop::Incomplete) if self.input.fill()? => {}
                Err(Stop::Incomplete) if self.input.rest().is_empty() => return Ok(None),
                Err(Stop::Incomplete) => return Err(CaptureError::Truncated { number }),
            }
        }
    }

    fn packet(&self, number: u64, raw: RawPacket) -> Result<Packet, CaptureError> {
        let RawPacket { interface, mut data, original_length, bounded } = raw;
        let Some(Interface { link_type, snap_length }) = self.interfaces.get(interface as usize)
        else {
            return Err(CaptureError::UnknownInterface { number, interface });
        };
        let link = match *link_type {
            1 => Link::Ethernet,
            101 | 228 | 229 => Link::BareIp,
            link_type => return Err(CaptureError::UnsupportedLink { number, link_type }),
        };
        if !bounded && *snap_length != 0 {
            data.truncate(*snap_length as usize);
        }
        let whole = original_length.min(LONGEST) as usize;
        if data.len() < whole {
            data.resize(whole, 0);
        }
        Ok(Packet { number, link, data, original_length })
    }
}

impl<R: Read> Iterator for Capture<R> {
    type Item = Result<Packet, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_packet().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// Maximum length of a block. Tools write shorter ones, so a longer one is damage.
const LONGEST_BLOCK: usize = 64 << 20;

/// The input, and the bytes that are not yet parsed.
struct Input<R> {
    reader: R,
    buffer: Vec<u8>,
    start: usize,
}

impl<R: Read> Input<R> {
    const STEP: u64 = 256 << 10;

    fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Reads more bytes. Returns whether there were any.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.start);
        self.start = 0;
        Ok(self.reader.by_ref().take(Self::STEP).read_to_end(&mut self.buffer)? > 0)
    }
}

/// The format of the file.
enum Format {
    Pcap(fn(&[u8]) -> Parsed<'_, LegacyPcapBlock<'_>>),
    PcapNg { big_endian: bool },
}

type Parsed<'a, T> = IResult<&'a [u8], T, PcapError<&'a [u8]>>;

/// An interface of a capture.
struct Interface {
    link_type: u32,
    /// Maximum number of captured bytes of a packet; 0 means unlimited.
    snap_length: u32,
}

/// The content of a block.
enum Content {
    Packet(RawPacket),
    Interface(Interface),
    /// A new section, which numbers its interfaces from 0.
    Section,
    Obsolete,
    Other,
}

struct RawPacket {
    interface: u32,
    data: Vec<u8>,
    original_length: u32,
    /// Whether the block gives the captured length. Otherwise the snap length limits it.
    bounded: bool,
}

/// Why no block can be parsed.
enum Stop {
    Incomplete,
    Damaged,
}

impl<E> From<nom::Err<E>> for Stop {
    fn from(error: nom::Err<E>) -> Self {
        match error {
            nom::Err::Incomplete(_) => Self::Incomplete,
            nom::Err::Error(_) | nom::Err::Failure(_) => Self::Damaged,
        }
    }
}

impl Format {
    /// Returns the format, the length of the header, and the interface that it describes. In pcapng
    /// the header is an ordinary block and is not skipped.
    fn of(bytes: &[u8]) -> Result<(Self, usize, Vec<Interface>), Stop> {
        const SECTION: [u8; 4] = 0x0a0d_0d0a_u32.to_be_bytes();
        if bytes.starts_with(&SECTION) {
            let (_, section) = parse_sectionheaderblock(bytes)?;
            return Ok((Self::PcapNg { big_endian: section.big_endian() }, 0, Vec::new()));
        }
        let (rest, header) = parse_pcap_header(bytes)?;
        let parse = match &header {
            header if header.is_modified_format() => parse_pcap_frame_modified,
            header if header.is_bigendian() => parse_pcap_frame_be,
            _ => parse_pcap_frame,
        };
        let PcapHeader { snaplen, network, .. } = header;
        // The upper bits describe a checksum at the end of frames.
        let interface = Interface { link_type: network.0 as u32 & 0xffff, snap_length: snaplen };
        Ok((Self::Pcap(parse), bytes.len() - rest.len(), vec![interface]))
    }

    /// Returns length and content of the block at the start of `bytes`.
    fn next(&mut self, bytes: &[u8]) -> Result<(usize, Content), Stop> {
        match self {
            Self::Pcap(parse) => {
                let (rest, LegacyPcapBlock { data, origlen, .. }) = parse(bytes)?;
                let packet = RawPacket {
                    interface: 0,
                    data: data.to_vec(),
                    original_length: origlen,
                    bounded: true,
                };
                Ok((bytes.len() - rest.len(), Content::Packet(packet)))
            }
            Self::PcapNg { big_endian } => {
                if is_too_short(bytes, *big_endian) {
                    return Err(Stop::Damaged);
                }
                let parse = if *big_endian { parse_block_be } else { parse_block_le };
                let (rest, block) = parse(bytes)?;
                if let Block::SectionHeader(section) = &block {
                    *big_endian = section.big_endian();
                }
                Ok((bytes.len() - rest.len(), content(&block)))
            }
        }
    }
}

/// Whether the block claims to be shorter than its own type and two lengths. `pcap-parser` 0.17
/// subtracts them from a process information block unchecked, and would then wait for 4 GiB.
fn is_too_short(bytes: &[u8], big_endian: bool) -> bool {
    const FRAME: u32 = 12;
    let Some(length) = bytes.get(4..8).and_then(|length| length.try_into().ok()) else {
        return false;
    };
    // The byte order of a section header is not known yet; in neither order is it this short.
    (if big_endian { u32::from_be_bytes(length) } else { u32::from_le_bytes(length) }) < FRAME
}

fn content(block: &Block<'_>) -> Content {
    /// The type of the packet block, which the enhanced packet block replaced.
    const PACKET_BLOCK: u32 = 2;
    match block {
        Block::SectionHeader(_) => Content::Section,
        Block::InterfaceDescription(interface) => Content::Interface(Interface {
            link_type: interface.linktype.0 as u32,
            snap_length: interface.snaplen,
        }),
        Block::EnhancedPacket(packet) => Content::Packet(RawPacket {
            interface: packet.if_id,
            data: packet.packet_data().to_vec(),
            original_length: packet.origlen,
            bounded: true,
        }),
        Block::SimplePacket(packet) => Content::Packet(RawPacket {
            interface: 0,
            data: packet.packet_data().to_vec(),
            original_length: packet.origlen,
            bounded: false,
        }),
        Block::Unknown(block) if block.block_type == PACKET_BLOCK => Content::Obsolete,
        _ => Content::Other,
    }
}

/// Returns the usual name of a link type.
fn name(link_type: u32) -> &'static str {
    match link_type {
        0 => "BSD loopback",
        9 => "PPP",
        50 => "PPP with HDLC framing",
        51 => "PPPoE without Ethernet",
        105 => "802.11",
        108 => "OpenBSD loopback",
        113 => "Linux cooked, as captured on \"any\"",
        127 => "802.11 with radiotap",
        239 => "NFLOG",
        276 => "Linux cooked v2, as captured on \"any\"",
        _ => "unknown",
    }
}
