//! The TCP reset that answers a rejected packet.
//!
//! RFC 9293, section 3.10.7.1: what a closed port answers. The headers are built in place of those of the packet,
//! at the same offsets; all in front of them (Ethernet, VLAN tags, PPPoE) goes back the way it came.

use crate::{frame::Frame, settings::Settings, walk::Found};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const TCP: u8 = 6;
const HOP_LIMIT: u8 = 64;

/// The most resets that one source gets in a row, and then one every [`INTERVAL`].
const BURST: u64 = 10;
/// In nanoseconds.
const INTERVAL: u64 = 100_000_000;

/// The rate limit of one source: `previous` is what this returned for its last answer, 0 if there was none, `now` the
/// time in nanoseconds. `None` if there is no answer now. (The generic cell rate algorithm of ITU-T I.371.)
#[inline(always)]
#[must_use]
pub fn next_arrival(previous: u64, now: u64) -> Option<u64> {
    let expected = if previous > now { previous } else { now };
    if expected - now > (BURST - 1) * INTERVAL { None } else { Some(expected + INTERVAL) }
}

/// What a rate limit is kept for: an IPv4 address, or the /64 that one IPv6 subscriber has at the least.
#[inline(always)]
pub fn limited_source<F: Frame + ?Sized>(frame: &F, found: Found) -> Option<u64> {
    let ip = found.ip(frame);
    if found.is_ipv6() {
        frame.header::<8>(ip + 8).map(|network| u64::from_be_bytes(*network))
    } else {
        frame.header::<4>(ip + 12).map(|address| u64::from(u32::from_be_bytes(*address)))
    }
}

/// IPv4 and TCP header, 40 bytes.
pub type Reset4 = [u8; 40];
/// IPv6 and TCP header, 60 bytes.
pub type Reset6 = [u8; 60];

/// The reset for an IPv4 packet whose TCP header follows the IP header directly.
#[inline(always)]
pub fn reset4<F: Frame + ?Sized>(frame: &F, found: Found, settings: Settings) -> Option<Reset4> {
    let request = frame.header::<40>(found.ip(frame))?;
    let total = u32::from(u16::from_be_bytes([request[2], request[3]]));
    let payload = total.wrapping_sub(20 + data_offset(request[32]));

    let mut reset = [0; 40];
    reset[0] = 0x45;
    reset[3] = 40;
    reset[6] = 0x40; // don't fragment
    reset[8] = HOP_LIMIT;
    reset[9] = TCP;
    copy::<4, 40, 40>(&mut reset, 12, request, 16);
    copy::<4, 40, 40>(&mut reset, 16, request, 12);
    segment(&mut reset, 20, request, payload);

    let header = !fold(sum(&reset, 0, 20));
    reset[10..12].copy_from_slice(&header.to_be_bytes());
    let addresses = sum(&reset, 12, 20);
    let is_partial = is_partial(settings, request, 36, addresses, total - 20);
    checksum(&mut reset, 20, addresses, is_partial);
    Some(reset)
}

/// The reset for an IPv6 packet without extension headers.
#[inline(always)]
pub fn reset6<F: Frame + ?Sized>(frame: &F, found: Found, settings: Settings) -> Option<Reset6> {
    let request = frame.header::<60>(found.ip(frame))?;
    let total = u32::from(u16::from_be_bytes([request[4], request[5]]));
    let payload = total.wrapping_sub(data_offset(request[52]));

    let mut reset = [0; 60];
    reset[0] = 0x60;
    reset[5] = 20;
    reset[6] = TCP;
    reset[7] = HOP_LIMIT;
    copy::<16, 60, 60>(&mut reset, 8, request, 24);
    copy::<16, 60, 60>(&mut reset, 24, request, 8);
    segment(&mut reset, 40, request, payload);

    let addresses = sum(&reset, 8, 40);
    let is_partial = is_partial(settings, request, 56, addresses, total);
    checksum(&mut reset, 40, addresses, is_partial);
    Some(reset)
}

/// The TCP header at `at`, without its checksum. `payload` is the length of the request's data.
#[inline(always)]
fn segment<const N: usize>(reset: &mut [u8; N], at: usize, request: &[u8; N], payload: u32) {
    copy::<2, N, N>(reset, at, request, at + 2);
    copy::<2, N, N>(reset, at + 2, request, at);
    let flags = request[at + 13];
    if flags & ACK != 0 {
        copy::<4, N, N>(reset, at + 4, request, at + 8);
        reset[at + 13] = RST;
    } else {
        let sequence = u32::from_be_bytes([
            request[at + 4],
            request[at + 5],
            request[at + 6],
            request[at + 7],
        ]);
        let length = payload
            .wrapping_add(u32::from(flags & SYN != 0))
            .wrapping_add(u32::from(flags & FIN != 0));
        let acknowledged = sequence.wrapping_add(length).to_be_bytes();
        copy::<4, N, 4>(reset, at + 8, &acknowledged, 0);
        reset[at + 13] = RST | ACK;
    }
    reset[at + 12] = 5 << 4;
}

/// Whether the stack still owes the request its checksum, so that it will add it to what we send as well.
///
/// A packet from a local stack or a virtual machine may carry only the sum of its pseudo-header. A program
/// is not told, but it can see: a complete checksum with just that value is one in 65,536.
#[inline(always)]
fn is_partial<const N: usize>(
    settings: Settings,
    request: &[u8; N],
    at: usize,
    addresses: u32,
    length: u32,
) -> bool {
    settings.has(Settings::SOCKET_BUFFER)
        && u16::from_be_bytes([request[at], request[at + 1]])
            == fold(addresses + u32::from(TCP) + length)
}

/// Fills in the checksum of the TCP header at `at`, or the part of it that the stack completes.
#[inline(always)]
fn checksum<const N: usize>(reset: &mut [u8; N], at: usize, addresses: u32, is_partial: bool) {
    let pseudo_header = addresses + u32::from(TCP) + 20;
    let checksum = if is_partial {
        fold(pseudo_header)
    } else {
        !fold(pseudo_header + sum(reset, at, at + 20))
    };
    [reset[at + 16], reset[at + 17]] = checksum.to_be_bytes();
}

#[inline(always)]
fn data_offset(byte: u8) -> u32 {
    u32::from(byte >> 4) * 4
}

/// Sum of 16-bit words (RFC 1071), not yet folded: 30 words at the most.
#[inline(always)]
fn sum<const N: usize>(bytes: &[u8; N], from: usize, to: usize) -> u32 {
    let mut sum = 0;
    let mut at = from;
    while at < to {
        sum += u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        at += 2;
    }
    sum
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// `slice::copy_from_slice` would be a call for lengths that the compiler does not see.
#[inline(always)]
fn copy<const LENGTH: usize, const TO: usize, const FROM: usize>(
    to: &mut [u8; TO],
    at: usize,
    from: &[u8; FROM],
    start: usize,
) {
    let mut byte = 0;
    while byte < LENGTH {
        to[at + byte] = from[start + byte];
        byte += 1;
    }
}
