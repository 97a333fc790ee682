//! The instruments themselves: whether the lab's frames and its image are what they say.

use std::net::IpAddr;

use etherparse::{IpSlice, Ipv4HeaderSlice, SlicedPacket, TcpSlice, UdpSlice, ip_number};
use opb_common::image::{Header, SubscriberClass, lookup, read};
use opb_lab::{
    frames::{Ethernet, Ipv4, Ipv6, Packet, Tcp, Udp},
    generate::Generator,
    naive::Naive,
    packets::hosts::{DYNAMIC, EXEMPT, EXEMPT_ALONE, ISP, OUTSIDE, SHARED},
};

use crate::policy;

/// Written down by hand, and not by the builder.
#[test]
fn frames_are_exact() {
    let packet = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(Tcp::syn_to(25));
    let frame = Ethernet::new().tag(0x88a8, 7).tag(0x8100, 100).pppoe().carrying(&packet);
    #[rustfmt::skip]
    let expected = [
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xa8, // Ethernet
        0, 7, 0x81, 0, 0, 100, 0x88, 0x64, // tags
        0x11, 0, 0, 1, 0, 42, 0, 0x21, // PPPoE: 2 + 20 + 20 bytes, IPv4
        0x45, 0, 0, 40, 0x0b, 0x25, 0, 0, 64, 6, 0x71, 0x88, 203, 0, 113, 9, 192, 0, 2, 25, // IPv4
        0xc0, 0, 0, 25, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xfa, 0xf0, 0xf6, 0xb3, 0, 0, // TCP
    ];
    assert_eq!(frame, expected);
}

#[test]
fn lies_stand_where_they_should() {
    let packet = || Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(Tcp::syn_to(25).data_offset(4));
    let bytes = Packet::bytes(&packet().ihl(15).version(5).total_length(999).protocol(41));
    assert_eq!((bytes[0], &bytes[2..4], bytes[9]), (0x5f, &999u16.to_be_bytes()[..], 41));
    assert_eq!(bytes[32] >> 4, 4, "data offset");
    let bytes = Packet::bytes(&packet().fragment(185, true).keep(8..12));
    assert_eq!((&bytes[6..8], bytes.len()), (&[0x20, 185][..], 24));
    let packet = Ipv6::new(DYNAMIC.v6, OUTSIDE.v6).hop_by_hop(2).fragment(1, true);
    let bytes = Packet::bytes(&packet.carrying(Tcp::syn_to(25)).payload_length(7).keep(..26));
    assert_eq!((&bytes[4..7], bytes.len()), (&[0, 7, 0][..], 66));
    assert_eq!(&bytes[40..44], [44, 1, 1, 12], "hop-by-hop options with their padding");
    assert_eq!(&bytes[56..60], [6, 0, 0, 9], "fragment 1, more to come");
}

/// Nobody's checksum is wrong by accident, says a foreign parser.
#[test]
fn checksums_are_right() {
    const FLOOR: u32 = 1_500;
    let mut generator = Generator::new(4);
    let mut looked_at = 0;
    for _ in 0..20_000 {
        let frame = generator.plain();
        if let Ok(packet) = SlicedPacket::from_ip(&frame.frame)
            && let Some(etherparse::NetSlice::Ipv4(slice)) = packet.net
        {
            header_checksum(slice.header());
            looked_at += 1;
        }
    }
    assert!(looked_at > FLOOR, "{looked_at} headers were looked at");
    for (from, to) in [(DYNAMIC, OUTSIDE), (OUTSIDE, ISP), (SHARED, EXEMPT)] {
        for data in [&b""[..], b"a", b"EHLO dynamic.example\r\n"] {
            let tcp = Tcp::new(25, 2525, 0xc2).options(&[2, 4, 5, 180]).data(data);
            let udp = Udp::new(25, 2525, data);
            transport_checksum(&Packet::bytes(&Ipv4::new(from.v4, to.v4).carrying(tcp.clone())));
            transport_checksum(&Packet::bytes(&Ipv6::new(from.v6, to.v6).carrying(tcp)));
            transport_checksum(&Packet::bytes(&Ipv4::new(from.v4, to.v4).carrying(udp.clone())));
            transport_checksum(&Packet::bytes(&Ipv6::new(from.v6, to.v6).carrying(udp)));
        }
    }
}

fn header_checksum(header: Ipv4HeaderSlice<'_>) {
    assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
}

fn transport_checksum(packet: &[u8]) {
    let ip = IpSlice::from_slice(packet).expect("the builder makes IP packets");
    let payload = ip.payload();
    let (got, expected) = if payload.ip_number == ip_number::TCP {
        let tcp = TcpSlice::from_slice(payload.payload).expect("a TCP header");
        let expected = match &ip {
            IpSlice::Ipv4(ip) => {
                tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
            }
            IpSlice::Ipv6(ip) => {
                tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
            }
        };
        (tcp.checksum(), expected.expect("not too long"))
    } else {
        let udp = UdpSlice::from_slice(payload.payload).expect("a UDP header");
        let header = udp.to_header();
        let expected = match &ip {
            IpSlice::Ipv4(ip) => {
                let ip = ip.header();
                header.calc_checksum_ipv4_raw(ip.source(), ip.destination(), udp.payload())
            }
            IpSlice::Ipv6(ip) => {
                let ip = ip.header();
                header.calc_checksum_ipv6_raw(ip.source(), ip.destination(), udp.payload())
            }
        };
        (udp.checksum(), expected.expect("not too long"))
    };
    assert_eq!(got, expected, "{packet:02x?}");
}

/// A look into the image says what a look at every prefix says.
#[test]
fn image_and_prefixes_agree() {
    let policy = policy();
    let group = |name: &str| {
        let slot = (1..10).find(|slot| policy.group(*slot) == Some(name));
        slot.expect("the policy has that group")
    };
    let dynamic = group("dynamic");
    assert_eq!(policy.subscriber(DYNAMIC.v4.into()), SubscriberClass::new(dynamic, false));
    assert_eq!(policy.subscriber(EXEMPT.v6.into()), SubscriberClass::new(dynamic, true));
    assert_eq!(policy.subscriber(EXEMPT_ALONE.v4.into()), SubscriberClass::new(0, true));
    assert_eq!(policy.subscriber(OUTSIDE.v6.into()), SubscriberClass::new(0, false));
    assert_eq!(policy.reached_by(SHARED.v4.into()).last(), Some(&"wholesale"));
    assert_eq!(policy.reached_by(OUTSIDE.v4.into()), Vec::<&str>::new());

    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..50_000 {
        // Around the documentation prefixes, and anywhere.
        let v4 = [0xc612_0000, 0xc613_0000, 0xcb00_7100, 0xc633_6400, 0][random.usize(0..5)];
        let v4 = v4 ^ random.u32(..) >> random.u32(0..32);
        let v6 = [0x2001_0db8u128 << 96, 0x2001_0db8_0025u128 << 80, 0][random.usize(0..3)];
        let v6 = v6 ^ random.u128(..) >> random.u32(32..128);
        agree(&policy, IpAddr::V4(v4.into()));
        agree(&policy, IpAddr::V6(v6.into()));
    }
}

fn agree(policy: &Naive, address: IpAddr) {
    let (high, low) = match address {
        IpAddr::V4(address) => (u64::from(address.to_bits()) << 32, 0),
        IpAddr::V6(address) => ((address.to_bits() >> 64) as u64, address.to_bits() as u64),
    };
    let nodes = policy.nodes();
    let header = read::<Header, _>(nodes, 0).expect("an image has a header");
    let family = usize::from(address.is_ipv6());
    let class = lookup(nodes, header.subscribers[family], high, low);
    assert_eq!(SubscriberClass(class), policy.subscriber(address), "{address}");
    let relay = lookup(nodes, header.relays[family], high, low);
    let mut groups = nodes[(header.relay_groups + u32::from(relay)) as usize].0;
    // Group 0 stands for no group: its relays are the endpoints of softwires.
    assert_eq!(relay != 0 && groups[0] & 1 != 0, policy.is_endpoint(address), "{address}");
    groups[0] &= !1;
    let count = match relay {
        0 => 0,
        _ => groups.iter().map(|word| word.count_ones() as usize).sum(),
    };
    assert_eq!(count, policy.reached_by(address).len(), "{address}");
}
