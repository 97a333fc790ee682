//! Frames at random, for tests that compare two judges.
//!
//! Headers are nested at random, each with its own tricks; addresses and ports are mostly those that the
//! packet table's policy knows, so that a verdict hangs on most frames. [`Generator::plain`] makes what an honest
//! stack might send; [`Generator::hostile`] lets every length lie and then damages the bytes as well.
//!
//! One seed makes one sequence, on every machine.

use std::{
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use fastrand::Rng;
use opb_common::settings::Settings;

use crate::{
    frames::{Ethernet, Gre, Icmp, Ipv4, Ipv6, Packet, Payload, Raw, Tcp, Udp, flags},
    naive::Sample,
    packets::{Host, hosts},
};

/// A source of frames.
pub struct Generator {
    random: Rng,
}

impl Generator {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: Rng::with_seed(seed) }
    }

    /// A frame that is what it says: no fragment, no lie, nothing cut off, no limit exceeded.
    pub fn plain(&mut self) -> Sample {
        self.sample(false)
    }

    /// The first fragment of a tunnel's packet as an honest tunnel sends it (RFC 2473, section 7; RFC 6333, section 5.3), and the
    /// same packet whole. Both are bare IP packets; the fragment holds all headers, and ends anywhere behind them.
    pub fn first_fragment(&mut self) -> (Vec<u8>, Vec<u8>) {
        /// The longest headers that are generated: IPv4 with options or IPv6 with extensions, and TCP with options.
        const HEADERS: usize = 60 + 60;
        let data = vec![0x25; self.random.usize(600..1400)];
        let tcp = self.tcp(false).data(&data);
        let inner_v6 = self.random.bool();
        let from = self.host();
        let to = self.host();
        let (inside, protocol) = if inner_v6 {
            let inner = Ipv6::new(from.v6, to.v6);
            let inner = if self.one_in(4) { inner.destination_options(1) } else { inner };
            (Packet::bytes(&inner.carrying(tcp)), 41)
        } else {
            let inner = Ipv4::new(from.v4, to.v4);
            let inner = if self.one_in(4) { inner.options(&[1; 8]) } else { inner };
            (Packet::bytes(&inner.carrying(tcp)), 4)
        };
        let (protocol, payload) = if self.one_in(3) {
            let ethertype: u16 = if inner_v6 { 0x86dd } else { 0x0800 };
            (47, [&[0, 0], &ethertype.to_be_bytes()[..], &inside].concat())
        } else {
            (protocol, inside)
        };
        // Fragments are cut at multiples of 8 bytes.
        let kept = self.random.usize(HEADERS / 8..payload.len() / 8) * 8;
        let carried = || Raw(protocol, payload.clone());
        let (line, end) = (self.host(), self.host());
        if self.random.bool() {
            let outer = || Ipv6::new(line.v6, end.v6);
            let first = outer().fragment(0, true).carrying(carried()).keep(..8 + kept);
            (Packet::bytes(&first), Packet::bytes(&outer().carrying(carried())))
        } else {
            let outer = || Ipv4::new(line.v4, end.v4).carrying(carried());
            (Packet::bytes(&outer().fragment(0, true).keep(..kept)), Packet::bytes(&outer()))
        }
    }

    /// A frame of which nothing is sure.
    pub fn hostile(&mut self) -> Sample {
        let mut sample = self.sample(true);
        self.damage(&mut sample.frame);
        sample
    }

    /// Flips bits, writes numbers that mean something, cuts, and adds; none of it now and then.
    pub fn damage(&mut self, frame: &mut Vec<u8>) {
        for _ in 0..self.random.usize(0..4) {
            // Headers are at the front.
            let reach = if self.one_in(4) { frame.len() } else { frame.len().min(100) };
            if reach < 2 {
                return;
            }
            let at = self.random.usize(0..reach - 1);
            match self.random.u8(0..6) {
                0 | 1 => frame[at] ^= 1 << self.random.u8(0..8),
                2 => frame[at] = self.of(&[0, 1, 4, 5, 6, 17, 25, 41, 43, 44, 47, 51, 58, 60, 255]),
                3 => {
                    let word: u16 =
                        self.of(&[0, 1, 25, 0x2000, 0x2001, 0x0800, 0x8100, 0x8864, 0x86dd]);
                    frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
                }
                4 => frame.truncate(at),
                _ => frame.extend(iter::repeat_n(self.random.u8(..), self.random.usize(1..64))),
            }
        }
    }

    fn sample(&mut self, lies: bool) -> Sample {
        let mut settings = Settings(0);
        for bit in [Settings::DOWNSTREAM, Settings::UNKNOWN_DROP, Settings::SUBSCRIBER] {
            if self.random.bool() {
                settings = settings.with(bit);
            }
        }
        let bare = self.one_in(5);
        let frame = if self.random.bool() {
            let packet = self.ipv4(lies, 0);
            if bare { Packet::bytes(&packet) } else { self.ethernet(lies).carrying(&packet) }
        } else {
            let packet = self.ipv6(lies, 0);
            if bare { Packet::bytes(&packet) } else { self.ethernet(lies).carrying(&packet) }
        };
        if bare {
            settings = settings.with(Settings::BARE_IP);
        }
        let tags_out_of_band = usize::from(lies && !bare && self.one_in(8));
        Sample { frame, tags_out_of_band, settings }
    }

    fn ethernet(&mut self, lies: bool) -> Ethernet {
        let mut link = Ethernet::new();
        let most = if lies && self.one_in(4) { 11 } else { 4 };
        for _ in 0..self.random.usize(0..most) {
            let vlan = self.random.u16(0..4096);
            link = link.tag(self.of(&[0x8100, 0x88a8]), vlan);
        }
        if self.one_in(3) {
            link = link.pppoe();
            if self.one_in(3) {
                link = link.pppoe_one_byte();
            }
            if lies && self.one_in(6) {
                link = link.pppoe_length(self.length());
            }
            if lies && self.one_in(12) {
                link = link.pppoe_protocol(self.of(&[
                    &[0, 0x3d],
                    &[0xfd],
                    &[0xc0, 0x21],
                    &[0x21, 0x21],
                ]));
            }
        }
        if lies && self.one_in(30) {
            link = link.ethertype(self.of(&[0x0806, 0x8864, 0x0800, 0x86dd, 0x8100]));
        }
        link
    }

    fn ipv4(&mut self, lies: bool, depth: usize) -> Ipv4 {
        let most = if lies { 3 } else { 1 };
        let is_tunnel = depth < most && self.one_in(5);
        let (from, to) = self.ends(is_tunnel);
        let mut packet = Ipv4::new(from.v4, to.v4);
        match self.random.u8(0..8) {
            0 => {
                packet = packet.options(self.of(&[
                    &[1; 4],
                    &[148, 4, 0, 0],
                    &[7, 7, 4, 0, 0, 0, 0],
                    &[1; 40],
                ]))
            }
            1 => packet = packet.source_route(self.of(&[131, 137]), &[self.host().v4]),
            2 if lies => {
                let random = iter::repeat_with(|| self.random.u8(..)).take(8).collect::<Vec<_>>();
                packet = packet.options(&random);
            }
            _ => {}
        }
        if lies {
            if self.one_in(4) {
                packet = packet.fragment(self.of(&[0, 0, 0, 1, 2, 185]), self.random.bool());
            }
            if self.one_in(8) {
                packet = packet.keep(..self.random.usize(0..48));
            }
            if self.one_in(8) {
                packet = packet.total_length(self.length());
            }
            if self.one_in(12) {
                packet = packet.ihl(self.random.u8(0..16));
            }
            if self.one_in(24) {
                packet = packet.version(self.random.u8(0..16));
            }
        }
        if is_tunnel {
            return match self.random.u8(0..8) {
                0 => packet.carrying(self.ipv4(lies, depth + 1)),
                1 => {
                    let inner = self.ipv4(lies, depth + 1);
                    packet.carrying(self.gre(Gre::of(&inner), lies))
                }
                2 => {
                    let inner = self.ipv6(lies, depth + 1);
                    packet.carrying(self.gre(Gre::of(&inner), lies))
                }
                _ => packet.carrying(self.ipv6(lies, depth + 1)),
            };
        }
        match self.random.u8(0..10) {
            0 => packet.carrying(self.udp()),
            1 => packet.carrying(Icmp::V4),
            2 => packet.carrying(self.raw(lies)),
            _ => packet.carrying(self.tcp(lies)),
        }
    }

    fn ipv6(&mut self, lies: bool, depth: usize) -> Ipv6 {
        let most = if lies { 3 } else { 1 };
        let is_tunnel = depth < most && self.one_in(5);
        let (from, to) = self.ends(is_tunnel);
        let mut packet = Ipv6::new(from.v6, to.v6);
        if self.one_in(3) {
            let most = if lies && self.one_in(4) { 12 } else { 9 };
            for place in 0..self.random.usize(0..most) {
                packet = self.extended(packet, lies, place == 0);
            }
        }
        if lies {
            if self.one_in(8) {
                packet = packet.keep(..self.random.usize(0..80));
            }
            if self.one_in(8) {
                packet = packet.payload_length(self.length());
            }
            if self.one_in(24) {
                packet = packet.version(self.random.u8(0..16));
            }
            if self.one_in(24) {
                packet = packet.next_header(self.of(&[0, 4, 6, 41, 43, 44, 59]));
            }
        }
        if is_tunnel {
            return match self.random.u8(0..8) {
                0 => packet.carrying(self.ipv6(lies, depth + 1)),
                1 => {
                    let inner = self.ipv6(lies, depth + 1);
                    packet.carrying(self.gre(Gre::of(&inner), lies))
                }
                2 => {
                    let inner = self.ipv4(lies, depth + 1);
                    packet.carrying(self.gre(Gre::of(&inner), lies))
                }
                _ => packet.carrying(self.ipv4(lies, depth + 1)),
            };
        }
        match self.random.u8(0..10) {
            0 => packet.carrying(self.udp()),
            1 => packet.carrying(Icmp::V6),
            2 => packet.carrying(self.raw(lies)),
            _ => packet.carrying(self.tcp(lies)),
        }
    }

    /// One more extension header; hop-by-hop options only where they belong, unless it lies.
    fn extended(&mut self, packet: Ipv6, lies: bool, first: bool) -> Ipv6 {
        let units = if lies && self.one_in(20) { 250 } else { self.random.usize(1..5) };
        match self.random.u8(0..6) {
            0 if first || lies => packet.hop_by_hop(units),
            0 | 1 => packet.destination_options(units),
            2 => packet.routing(self.of(&[0, 4]), self.of(&[0, 1]), &[self.host().v6]),
            3 => packet.authentication(self.random.usize(1..8)),
            4 if lies => packet.fragment(self.of(&[0, 0, 0, 1, 2, 185]), self.random.bool()),
            4 => packet.fragment(0, false),
            _ if lies => {
                let mut bytes = vec![0; 8];
                bytes[1] = self.random.u8(..);
                packet.extension(self.of(&[0, 43, 51, 60, 135]), bytes)
            }
            _ => packet.destination_options(1),
        }
    }

    fn tcp(&mut self, lies: bool) -> Tcp {
        use flags::{ACK, FIN, RST, SYN};
        let (source, destination) = (self.port(), self.port());
        let flags = match self.random.u8(0..8) {
            0..4 => SYN,
            4 => ACK,
            5 => SYN | ACK,
            6 => self.of(&[SYN | FIN, SYN | RST, FIN | ACK, RST, 0]),
            _ => self.random.u8(..),
        };
        let mut tcp = Tcp::new(source, destination, flags);
        if self.one_in(3) {
            tcp = tcp.data(b"EHLO dynamic.example\r\n");
        }
        if self.one_in(3) {
            tcp = tcp.options(&[2, 4, 5, 180, 1, 3, 3, 7]);
        }
        if lies && self.one_in(8) {
            tcp = tcp.data_offset(self.random.u8(0..16));
        }
        tcp
    }

    fn udp(&mut self) -> Udp {
        Udp::new(self.port(), self.port(), b"mail")
    }

    /// A GRE header with any of its fields; one that no receiver takes, if it lies.
    fn gre(&mut self, mut gre: Gre, lies: bool) -> Gre {
        if self.one_in(3) {
            gre = gre.checksum();
        }
        if self.one_in(3) {
            gre = gre.key();
        }
        if self.one_in(3) {
            gre = gre.sequence();
        }
        if lies && self.one_in(8) {
            gre = gre.flags(self.of(&[0x4000, 0x8000, 0x2000, 0x0001, 0x0800, 0x0080]));
        }
        if lies && self.one_in(8) {
            gre = gre.protocol(self.of(&[0x6558, 0x880b, 0x0800, 0x86dd, 0x8847, 0x883e]));
        }
        gre
    }

    /// Any protocol that no parser of ours or of others goes into.
    fn raw(&mut self, lies: bool) -> impl Payload + 'static {
        let length = self.random.usize(0..40);
        let bytes = iter::repeat_with(|| self.random.u8(..)).take(length).collect();
        // Random bytes are not honest GRE.
        let protocols: &[u8] =
            if lies { &[33, 47, 50, 89, 132, 136, 255] } else { &[33, 50, 89, 132] };
        Raw(self.of(protocols), bytes)
    }

    /// Source and destination; of a tunnel, one of them is often an endpoint of the ISP's.
    fn ends(&mut self, is_tunnel: bool) -> (Host, Host) {
        let (from, to) = (self.host(), self.host());
        match self.random.u8(0..4) {
            0 if is_tunnel => (hosts::ENDPOINT, to),
            1 | 2 if is_tunnel => (from, hosts::ENDPOINT),
            _ => (from, to),
        }
    }

    /// Mostly somebody whom the policy knows, or somebody next door.
    fn host(&mut self) -> Host {
        let known = self.of(KNOWN);
        let IpAddr::V4(v4) = nearby(known.v4.into(), self.random.u8(..)) else { return known };
        let IpAddr::V6(v6) = nearby(known.v6.into(), self.random.u8(..)) else { return known };
        match self.random.u8(0..8) {
            0 => Host { v4, v6 },
            1 => Host { v4: self.random.u32(..).into(), v6: self.random.u128(..).into() },
            2 if self.one_in(2) => Host { v6: self.translated(known.v4), ..known },
            _ => known,
        }
    }

    /// An address that stands for an IPv4 address: 6to4, or in one of the policy's NAT64 prefixes (RFC
    /// 6052, section 2.2).
    fn translated(&mut self, v4: Ipv4Addr) -> Ipv6Addr {
        const BEHIND: u128 = u64::MAX as u128;
        let v4 = u128::from(v4.to_bits());
        let (prefix, length): (u128, u32) = self.of(&[
            (0x2002 << 112 | 9, 16),
            (0x0064_ff9b << 96, 96),
            (0x2001_0db8_0064 << 80, 48),
            (0x3fff_0032 << 96, 32),
            (0x3fff_0040 << 96, 40),
            (0x3fff_0056 << 96, 56),
            (0x3fff_0064 << 96, 64),
        ]);
        let v4 = v4 << (96 - length);
        // Bits 64 to 71 are not part of it.
        let v4 = if length == 96 { v4 } else { v4 & !BEHIND | (v4 & BEHIND) >> 8 };
        Ipv6Addr::from_bits(prefix | v4)
    }

    fn port(&mut self) -> u16 {
        match self.random.u8(0..10) {
            0..6 => 25,
            6 => 2525,
            7 => self.of(&[80, 443, 465, 587, 6400, 24, 26]),
            _ => self.random.u16(..),
        }
    }

    /// A length that somebody might believe.
    fn length(&mut self) -> u16 {
        match self.random.u8(0..4) {
            0 => self.of(&[0, 1, 19, 20, 21, 39, 40, 41, 1500, 65535]),
            1 => self.random.u16(..),
            _ => self.random.u16(0..128),
        }
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.random.u32(0..count) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.random.usize(0..choices.len())]
    }
}

/// Everybody twice who gets a verdict that others do not get.
const KNOWN: &[Host] = &[
    hosts::DYNAMIC,
    hosts::DYNAMIC,
    hosts::OUTSIDE,
    hosts::OUTSIDE,
    hosts::ISP,
    hosts::ISP,
    hosts::PARTNER,
    hosts::SHARED,
    hosts::MONITORED,
    hosts::ANY,
    hosts::REJECTING,
    hosts::MULTI,
    hosts::WHOLESALE,
    hosts::IN_BYPASS,
    hosts::NESTED,
    hosts::EXEMPT,
    hosts::EXEMPT_WIDE,
    hosts::FILTERED_AGAIN,
    hosts::EXEMPT_ALONE,
    hosts::ENDPOINT,
    hosts::ENDPOINT,
    hosts::PRIVATE,
];

/// `address` with one bit flipped: next door, or far away.
fn nearby(address: IpAddr, bit: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4((address.to_bits() ^ 1 << (bit % 32)).into()),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() ^ 1 << (bit % 128)).into()),
    }
}
