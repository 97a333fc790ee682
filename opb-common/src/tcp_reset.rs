//! The TCP reset that is sent for a rejected packet.
//!
//! It is the reset that a closed port sends (RFC 9293, section 3.10.7.1). Its headers replace those
//! of the packet at the same offsets. The link headers before them (Ethernet, VLAN tags, PPPoE) are
//! kept and lead back to the sender.

use crate::{
    frame::Frame,
    parsed::ParsedPacket,
    protocol::{self, TCP_HEADER, be16},
    rate,
    settings::Settings,
};

const TCP: u16 = protocol::TCP as u16;
const HOP_LIMIT: u8 = 64;

/// The most resets that one source gets in a row; after them, one every [`INTERVAL`].
const BURST: u64 = 10;
/// In nanoseconds.
const INTERVAL: u64 = 100_000_000;

/// Applies the rate limit for one source (see [`rate::next_arrival`]).
///
/// `previous` is the value that this returned for the source's last reset, 0 if there was none.
/// `now` is in nanoseconds. Returns `None` if no reset may be sent now.
#[inline(always)]
#[must_use]
pub fn next_arrival(previous: u64, now: u64) -> Option<u64> {
    rate::next_arrival(previous, now, BURST, INTERVAL)
}

/// Returns the key of the source's rate limit: its IPv4 address, or its IPv6 /64, the smallest
/// network of a subscriber.
#[inline(always)]
pub fn rate_limit_key<F: Frame + ?Sized>(frame: &F, parsed: ParsedPacket) -> Option<u64> {
    let ip = parsed.ip(frame);
    if parsed.is_ipv6() {
        frame.address6(ip + 8).map(|[network, _]| network)
    } else {
        frame.address4(ip + 12).map(u64::from)
    }
}

/// Length of an IPv4 and a TCP header without options, in bytes.
pub const HEADERS4: usize = 40;
/// Length of an IPv6 and a TCP header without options or extension headers, in bytes.
pub const HEADERS6: usize = 60;

/// Turns the headers of an IPv4 packet into those of the reset sent in response.
#[inline(always)]
pub fn reset4(headers: &mut [u8; HEADERS4], settings: Settings) {
    let length = u32::from(be16(headers, 2)) - 20;
    let addresses = sum(headers, 12, 20);
    let is_partial = is_partial(settings, headers, 20, addresses, length);

    put16(headers, 0, 0x4500);
    put16(headers, 2, HEADERS4 as u16);
    put16(headers, 4, 0);
    put16(headers, 6, 0x4000); // don't fragment
    put16(headers, 8, u16::from(HOP_LIMIT) << 8 | TCP);
    put16(headers, 10, 0);
    swap::<4, HEADERS4>(headers, 12, 16);
    put16(headers, 10, !fold(sum(headers, 0, 20)));
    segment(headers, 20, length, addresses, is_partial);
}

/// Turns the headers of an IPv6 packet into those of the reset sent in response.
#[inline(always)]
pub fn reset6(headers: &mut [u8; HEADERS6], settings: Settings) {
    let length = u32::from(be16(headers, 4));
    let addresses = sum(headers, 8, 40);
    let is_partial = is_partial(settings, headers, 40, addresses, length);

    put16(headers, 0, 0x6000);
    put16(headers, 2, 0);
    put16(headers, 4, TCP_HEADER as u16);
    put16(headers, 6, TCP << 8 | u16::from(HOP_LIMIT));
    swap::<16, HEADERS6>(headers, 8, 24);
    segment(headers, 40, length, addresses, is_partial);
}

/// Turns the TCP header at `at` into that of the reset.
///
/// `length` is the length of the request's TCP header and data. `addresses` is the sum of both
/// addresses, which is the same in both directions.
#[inline(always)]
fn segment<const N: usize>(
    headers: &mut [u8; N],
    at: usize,
    length: u32,
    addresses: u32,
    is_partial: bool,
) {
    const FIN: u16 = 0x01;
    const SYN: u16 = 0x02;
    const RST: u16 = 0x04;
    const ACK: u16 = 0x10;
    const DATA_OFFSET: u16 = 5 << 12;
    let request = be16(headers, at + 12);
    let (sequence, acknowledged, flags) = if request & ACK != 0 {
        (be32(headers, at + 8), 0, RST)
    } else {
        let data = length.wrapping_sub(u32::from(request >> 12) * 4);
        let length =
            data.wrapping_add(u32::from(request & SYN != 0) + u32::from(request & FIN != 0));
        (0, be32(headers, at + 4).wrapping_add(length), RST | ACK)
    };
    swap::<2, N>(headers, at, at + 2);
    put32(headers, at + 4, sequence);
    put32(headers, at + 8, acknowledged);
    put16(headers, at + 12, DATA_OFFSET | flags);
    put32(headers, at + 14, 0);
    put16(headers, at + 18, 0);
    let pseudo_header = addresses + u32::from(TCP) + TCP_HEADER as u32;
    let checksum = if is_partial {
        fold(pseudo_header)
    } else {
        !fold(pseudo_header + sum(headers, at, at + TCP_HEADER))
    };
    put16(headers, at + 16, checksum);
}

/// Returns whether the request's checksum is partial (`CHECKSUM_PARTIAL`): the stack will complete
/// the checksum of the reset as well.
///
/// A packet from a local stack or a virtual machine may carry only the sum of its pseudo-header.
/// Programs cannot query this state, but they can recognise the value: one complete checksum in
/// 65,536 equals it.
#[inline(always)]
fn is_partial<const N: usize>(
    settings: Settings,
    headers: &[u8; N],
    at: usize,
    addresses: u32,
    length: u32,
) -> bool {
    settings.has(Settings::SOCKET_BUFFER)
        && be16(headers, at + 16) == fold(addresses + u32::from(TCP) + length)
}

/// Returns the unfolded sum of the 16-bit words in `from..to` (RFC 1071): at most 30 words.
#[inline(always)]
fn sum<const N: usize>(bytes: &[u8; N], from: usize, to: usize) -> u32 {
    let mut sum = 0;
    let mut at = from;
    while at < to {
        sum += u32::from(be16(bytes, at));
        at += 2;
    }
    sum
}

/// Folds a sum into 16 bits (RFC 1071).
#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Swaps two fields byte by byte. A slice operation would be a call.
#[inline(always)]
fn swap<const LENGTH: usize, const N: usize>(bytes: &mut [u8; N], one: usize, other: usize) {
    let mut byte = 0;
    while byte < LENGTH {
        (bytes[one + byte], bytes[other + byte]) = (bytes[other + byte], bytes[one + byte]);
        byte += 1;
    }
}

#[inline(always)]
fn be32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline(always)]
fn put16<const N: usize>(bytes: &mut [u8; N], at: usize, value: u16) {
    [bytes[at], bytes[at + 1]] = value.to_be_bytes();
}

#[inline(always)]
fn put32<const N: usize>(bytes: &mut [u8; N], at: usize, value: u32) {
    [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]] = value.to_be_bytes();
}
