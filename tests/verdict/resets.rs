//! The reset that answers a rejected packet, and how often a source gets one.

use opb_common::{
    settings::Settings,
    tcp_reset::{HEADERS4, HEADERS6, next_arrival, reset4, reset6},
};
use opb_lab::{
    frames::{Ethernet, Ipv4, Ipv6, Tcp, flags},
    reset,
};

const REQUESTS: u32 = 200_000;
const ETHERNET: usize = 14;
/// Of the checksum, from the start of the TCP header.
const CHECKSUM: usize = 16;

/// Of any request: addresses, ports, sequence numbers and their wrap, flags, options and data.
#[test]
fn a_reset_is_what_a_foreign_library_builds() {
    let mut random = fastrand::Rng::with_seed(0x5254);
    for number in 0..REQUESTS {
        let request = request(&mut random, number % 2 == 0);
        let expected = reset::of(&request, ETHERNET, 0);
        assert_eq!(answer(&request, Settings(0)), expected[ETHERNET..], "{request:02x?}");
        // One in 65,536 of a socket's looks like the next test's.
        let (tcp, pseudo) = partial(&request);
        if request[tcp + CHECKSUM..][..2] != pseudo {
            let answer = answer(&request, Settings::SOCKET_BUFFER);
            assert_eq!(answer, expected[ETHERNET..], "{request:02x?}");
        }
    }
}

/// A request whose checksum the stack or the device still completes holds the sum of its pseudo-header. It will be
/// completed in our answer as well, which must be right after that and not before.
#[test]
fn a_checksum_that_is_still_to_come_is_left_to_come() {
    let mut random = fastrand::Rng::with_seed(0x5255);
    for number in 0..REQUESTS {
        let mut request = request(&mut random, number % 2 == 0);
        let expected = reset::of(&request, ETHERNET, 0).split_off(ETHERNET);
        let (tcp, pseudo) = partial(&request);
        request[tcp + CHECKSUM..][..2].copy_from_slice(&pseudo);

        let mut answer = answer(&request, Settings::SOCKET_BUFFER);
        let tcp = tcp - ETHERNET;
        let left = u16::from_be_bytes([answer[tcp + CHECKSUM], answer[tcp + CHECKSUM + 1]]);
        assert_eq!(left, pseudo_header(&answer, answer.len() - tcp), "{request:02x?}");
        // As skb_checksum_help (net/core/dev.c) does it: over everything, what is there included.
        let completed = !fold(sum(&answer[tcp..]));
        answer[tcp + CHECKSUM..][..2].copy_from_slice(&completed.to_be_bytes());
        assert_eq!(answer, expected, "{request:02x?}");
    }
}

/// Ten in a row and then one every tenth of a second; a pause earns them back, but never more than ten.
#[test]
fn a_source_gets_ten_resets_and_then_ten_a_second() {
    const SECOND: u64 = 1_000_000_000;
    let mut previous = 0;
    let mut answers = |from: u64, until: u64, step: u64| {
        let mut count = 0;
        for now in (from..until).step_by(step as usize) {
            if let Some(next) = next_arrival(previous, now) {
                (previous, count) = (next, count + 1);
            }
        }
        count
    };
    let start = 3_600 * SECOND;
    assert_eq!(answers(start, start + 100, 1), 10, "in a row");
    assert_eq!(answers(start + 100, start + 5 * SECOND, SECOND / 1_000), 49, "sustained");
    assert_eq!(
        answers(start + 3_000 * SECOND, start + 3_000 * SECOND + 100, 1),
        10,
        "after a pause"
    );
}

/// A frame with TCP behind an IP header without options.
fn request(random: &mut fastrand::Rng, is_v4: bool) -> Vec<u8> {
    // No reset is answered.
    let flags = random.u8(..) & !flags::RST;
    let options: Vec<u8> = (0..random.usize(..=40)).map(|_| random.u8(..)).collect();
    let data: Vec<u8> = (0..random.usize(..=64)).map(|_| random.u8(..)).collect();
    let near = [0, 1, u32::MAX, u32::MAX - 1, 1 << 31];
    let mut number = || match random.usize(..2 * near.len()) {
        at if at < near.len() => near[at],
        _ => random.u32(..),
    };
    let (sequence, acknowledgement) = (number(), number());
    let tcp = Tcp::new(random.u16(..), random.u16(..), flags)
        .numbers(sequence, acknowledgement)
        .options(&options)
        .data(&data);
    if is_v4 {
        let packet = Ipv4::new(random.u32(..), random.u32(..)).carrying(tcp);
        Ethernet::new().carrying(&packet)
    } else {
        let packet = Ipv6::new(random.u128(..), random.u128(..)).carrying(tcp);
        Ethernet::new().carrying(&packet)
    }
}

/// IP and TCP header of ours.
fn answer(request: &[u8], settings: Settings) -> Vec<u8> {
    let packet = &request[ETHERNET..];
    if packet[0] >> 4 == 4 {
        let mut headers: [u8; HEADERS4] = packet[..HEADERS4].try_into().expect("as long");
        reset4(&mut headers, settings);
        headers.to_vec()
    } else {
        let mut headers: [u8; HEADERS6] = packet[..HEADERS6].try_into().expect("as long");
        reset6(&mut headers, settings);
        headers.to_vec()
    }
}

/// Where the TCP header of the frame is, and the checksum with which the stack leaves the rest to the device.
fn partial(frame: &[u8]) -> (usize, [u8; 2]) {
    let tcp = ETHERNET + if frame[ETHERNET] >> 4 == 4 { 20 } else { 40 };
    (tcp, pseudo_header(&frame[ETHERNET..], frame.len() - tcp).to_be_bytes())
}

/// Sum over addresses, protocol and length (RFC 9293, section 3.1; RFC 8200, section 8.1), not complemented.
fn pseudo_header(packet: &[u8], length: usize) -> u16 {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    fold(sum(addresses) + 6 + length as u64)
}

fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
