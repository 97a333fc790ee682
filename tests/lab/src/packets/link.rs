//! The link layer: VLAN tags, PPPoE sessions, and devices without an Ethernet header.

use opb_common::{outcome::Reason, settings::Settings};

use super::{
    DOWN, OTHER, OUT_OF_BAND, Table, UP, drop, drop_ungrouped,
    hosts::{DYNAMIC, ISP, MONITORED, OUTSIDE},
    pass, pass_ungrouped, would_drop,
};
use crate::frames::{Ethernet, Ipv4, Ipv6, Packet, Raw, Tcp, Udp};

const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;
const BARE: Settings = Settings::BARE_IP;
const SUBSCRIBER: Settings = Settings::SUBSCRIBER;

pub(super) fn add(table: &mut Table) {
    tags(table);
    too_many_tags(table);
    pppoe(table);
    ppp_protocols(table);
    other_ethertypes(table);
    short_frames(table);
    bare_ip(table);
}

fn syn_v4() -> Ipv4 {
    Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(Tcp::syn_to(25))
}

fn syn_v6() -> Ipv6 {
    Ipv6::new(DYNAMIC.v6, OUTSIDE.v6).carrying(Tcp::syn_to(25))
}

fn udp() -> Ipv4 {
    Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(Udp::new(25, 25, b"mail"))
}

/// The SYN of both families and a UDP packet in one link layer.
fn carried(table: &mut Table, name: &str, description: &'static str, link: &Ethernet) {
    let denied = drop(Reason::Policy, "dynamic");
    table.row(format!("{name}-v4"), description, link.carrying(&syn_v4()), UP, denied);
    table.row(format!("{name}-v6"), description, link.carrying(&syn_v6()), UP, denied);
    table.row(format!("{name}-udp"), description, link.carrying(&udp()), UP, OTHER);
}

fn tags(table: &mut Table) {
    for count in 1..=8 {
        let link = Ethernet::new().tags(count);
        carried(table, &format!("tags-{count}"), "up to 8 VLAN tags", &link);
    }
    let tag = |ethertype, vlan| Ethernet::new().tag(ethertype, vlan);
    carried(table, "tag-qinq", "an 802.1ad tag", &tag(QINQ, 7));
    carried(table, "tag-qinq-vlan", "802.1ad around 802.1Q", &tag(QINQ, 7).tag(VLAN, 100));
    carried(table, "tag-vlan-qinq", "802.1Q around 802.1ad", &tag(VLAN, 7).tag(QINQ, 100));
    carried(table, "tag-priority", "VLAN 0: only a priority", &tag(VLAN, 0xe000));
    let zeros = tag(VLAN, 0).tag(VLAN, 0).tag(VLAN, 0);
    carried(table, "tag-zeros", "VLAN 0 again and again, which Linux strips in a loop", &zeros);

    let relay = Ipv4::new(DYNAMIC.v4, ISP.v4).carrying(Tcp::syn_to(25));
    table.row(
        "tag-relay",
        "a relay, tagged",
        Ethernet::new().tags(2).carrying(&relay),
        UP,
        pass(Reason::Relay, "dynamic"),
    );
    let answer = Ipv6::new(OUTSIDE.v6, DYNAMIC.v6).carrying(Tcp::syn_ack_from(25));
    table.row(
        "tag-down",
        "downstream, tagged",
        Ethernet::new().tags(2).carrying(&answer),
        DOWN,
        drop(Reason::Policy, "dynamic"),
    );
    for (in_band, expected) in [
        (0, drop(Reason::Policy, "dynamic")),
        (7, drop(Reason::Policy, "dynamic")),
        (8, drop_ungrouped(Reason::Link)),
    ] {
        let row = table.row(
            format!("tag-out-of-band-and-{in_band}"),
            "a tag that the hook holds beside the frame counts",
            Ethernet::new().tags(in_band).carrying(&syn_v4()),
            SUBSCRIBER,
            expected,
        );
        (row.tags_out_of_band, row.host_only) = (1, Some(OUT_OF_BAND));
    }
}

fn too_many_tags(table: &mut Table) {
    let counted = pass_ungrouped(Reason::Link);
    let dropped = drop_ungrouped(Reason::Link);
    let nine = Ethernet::new().tags(9);
    for (name, frame, settings, expected) in [
        ("subscriber-v4", nine.carrying(&syn_v4()), SUBSCRIBER, dropped),
        ("subscriber-v6", nine.carrying(&syn_v6()), SUBSCRIBER, dropped),
        ("subscriber-udp", nine.carrying(&udp()), SUBSCRIBER, dropped),
        ("subscriber-20", Ethernet::new().tags(20).carrying(&syn_v4()), SUBSCRIBER, dropped),
        ("subscriber-down", nine.carrying(&syn_v4()), SUBSCRIBER.with(DOWN), dropped),
        ("core-v4", nine.carrying(&syn_v4()), UP, counted),
        ("core-v6", nine.carrying(&syn_v6()), UP, counted),
        ("core-down", nine.carrying(&syn_v4()), DOWN, counted),
    ] {
        table.row(
            format!("tags-9-{name}"),
            "more than 8 tags: nobody knows what is inside",
            frame,
            settings,
            expected,
        );
    }
}

fn pppoe(table: &mut Table) {
    let session = || Ethernet::new().pppoe();
    let short = || Ethernet::new().pppoe_one_byte();
    carried(table, "pppoe", "a PPPoE session", &session());
    carried(table, "pppoe-one-byte", "the PPP protocol in one byte", &short());
    carried(table, "pppoe-tag", "PPPoE in a VLAN", &session().tag(VLAN, 100));
    carried(table, "pppoe-tags", "PPPoE in two VLANs", &session().tag(QINQ, 7).tag(VLAN, 100));
    carried(table, "pppoe-tags-8", "PPPoE in 8 VLANs", &session().tags(8));
    carried(table, "pppoe-one-byte-tags", "one byte, in two VLANs", &short().tags(2));

    let relay = Ipv4::new(DYNAMIC.v4, ISP.v4).carrying(Tcp::syn_to(25));
    let passed = pass(Reason::Relay, "dynamic");
    table.row("pppoe-relay", "a relay", session().carrying(&relay), UP, passed);
    table.row("pppoe-one-byte-relay", "a relay", short().carrying(&relay), UP, passed);
    let monitored = Ipv6::new(MONITORED.v6, OUTSIDE.v6).carrying(Tcp::syn_to(25));
    table.row(
        "pppoe-monitor",
        "the group's action",
        session().carrying(&monitored),
        UP,
        would_drop(Reason::Policy, "monitored"),
    );
    let answer = Ipv4::new(OUTSIDE.v4, DYNAMIC.v4).carrying(Tcp::syn_ack_from(25));
    let denied = drop(Reason::Policy, "dynamic");
    table.row("pppoe-down", "downstream", session().carrying(&answer), DOWN, denied);
    table.row("pppoe-one-byte-down", "downstream", short().carrying(&answer), DOWN, denied);
    let other_port = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(Tcp::syn_to(443));
    table.row("pppoe-port-443", "another port", session().carrying(&other_port), UP, OTHER);
    table.row("pppoe-one-byte-port-443", "another", short().carrying(&other_port), UP, OTHER);
}

fn ppp_protocols(table: &mut Table) {
    let counted = pass_ungrouped(Reason::Link);
    for (name, description, protocol, expected) in [
        ("lcp", "link control", &[0xc0, 0x21][..], OTHER),
        ("ipcp", "IPv4 control", &[0x80, 0x21], OTHER),
        ("ccp", "compression control", &[0x80, 0xfd], OTHER),
        ("pap", "authentication", &[0xc0, 0x23], OTHER),
        ("multilink", "a fragment that nobody can read", &[0x00, 0x3d], counted),
        ("multilink-one-byte", "a fragment that nobody can read", &[0x3d], counted),
        ("compressed", "compressed: nobody can read it", &[0x00, 0xfd], counted),
        ("compressed-one-byte", "compressed: nobody can read it", &[0xfd], counted),
        ("compressed-link", "compressed on one link of several", &[0x00, 0xfb], counted),
        ("vj-compressed", "TCP with a compressed header (RFC 1144)", &[0x00, 0x2d], counted),
        (
            "vj-uncompressed",
            "whole TCP, a connection number for its protocol (RFC 1144)",
            &[0x00, 0x2f],
            counted,
        ),
    ] {
        let frame = Ethernet::new().pppoe_protocol(protocol).carrying(&syn_v4());
        table.row(format!("ppp-{name}"), description, frame.clone(), UP, expected);
        table.row(format!("ppp-{name}-subscriber"), description, frame, SUBSCRIBER, expected);
    }
}

fn other_ethertypes(table: &mut Table) {
    let packet = Packet::bytes(&syn_v4());
    for (name, description, ethertype) in [
        ("arp", "ARP", 0x0806),
        ("lldp", "LLDP", 0x88cc),
        ("pppoe-discovery", "PPPoE discovery", 0x8863),
        ("mpls", "MPLS", 0x8847),
        ("qinq-9100", "a TPID that no standard knows", 0x9100),
        ("length", "a length instead of a type (IEEE 802.3)", 60),
        ("swapped", "the type of IPv4 in the wrong byte order", 0x0008),
    ] {
        let link = Ethernet::new();
        table.row(format!("type-{name}"), description, link.frame(ethertype, &packet), UP, OTHER);
        let link = link.tags(1);
        let frame = link.frame(ethertype, &packet);
        table.row(format!("type-{name}-tagged"), description, frame, UP, OTHER);
    }
}

/// Frames that end inside the link layer, and frames that go on behind the packet.
fn short_frames(table: &mut Table) {
    let malformed = pass_ungrouped(Reason::Malformed);
    let plain = Ethernet::new().carrying(&syn_v4());
    let tagged = Ethernet::new().tags(2).carrying(&syn_v4());
    let session = Ethernet::new().pppoe().carrying(&syn_v4());
    for (name, frame) in [
        ("empty", &plain[..0]),
        ("one-byte", &plain[..1]),
        ("ethernet-13", &plain[..13]),
        ("ethernet-14", &plain[..14]),
        ("tag-15", &tagged[..15]),
        ("tag-17", &tagged[..17]),
        ("tag-18", &tagged[..18]),
        ("tag-22", &tagged[..22]),
        ("pppoe-14", &session[..14]),
        ("pppoe-20", &session[..20]),
        ("pppoe-22", &session[..22]),
    ] {
        table.row(
            format!("short-{name}"),
            "a frame that ends before its addresses",
            frame.to_vec(),
            SUBSCRIBER,
            malformed,
        );
    }
    let mut padded = plain.clone();
    padded.resize(60, 0);
    let denied = drop(Reason::Policy, "dynamic");
    table.row("padded", "padded to the shortest Ethernet frame", padded, UP, denied);
    let mut trailed = plain;
    trailed.extend([0xa5; 200]);
    table.row("trailer", "bytes behind the packet", trailed, UP, denied);
}

fn bare_ip(table: &mut Table) {
    let denied = drop(Reason::Policy, "dynamic");
    let (v4, v6) = (Packet::bytes(&syn_v4()), Packet::bytes(&syn_v6()));
    table.row("bare-v4", "the frame starts at the IP header", v4.clone(), BARE, denied);
    table.row("bare-v6", "the frame starts at the IP header", v6.clone(), BARE, denied);
    let relay = Ipv6::new(DYNAMIC.v6, ISP.v6).carrying(Tcp::syn_to(25));
    let passed = pass(Reason::Relay, "dynamic");
    table.row("bare-relay", "a relay", Packet::bytes(&relay), BARE, passed);
    table.row("bare-udp", "UDP", Packet::bytes(&udp()), BARE, OTHER);
    let other_port = Ipv6::new(DYNAMIC.v6, OUTSIDE.v6).carrying(Tcp::syn_to(443));
    table.row("bare-port-443", "another port", Packet::bytes(&other_port), BARE, OTHER);
    let answer = Ipv4::new(OUTSIDE.v4, DYNAMIC.v4).carrying(Tcp::syn_ack_from(25));
    let down = BARE.with(DOWN);
    table.row("bare-down", "downstream", Packet::bytes(&answer), down, denied);
    let sctp = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(Raw(132, vec![25; 20]));
    table.row("bare-sctp", "another protocol", Packet::bytes(&sctp), BARE, OTHER);

    let mut version_5 = v4.clone();
    version_5[0] = 0x55;
    table.row("bare-version-5", "neither IPv4 nor IPv6", version_5, BARE, OTHER);
    let framed = Ethernet::new().carrying(&syn_v4());
    table.row("bare-ethernet", "an Ethernet header where none belongs", framed, BARE, OTHER);
    let ethernet = "a bare packet where an Ethernet header belongs";
    table.row("ethernet-bare", ethernet, v4.clone(), UP, OTHER);
    let malformed = pass_ungrouped(Reason::Malformed);
    table.row("bare-empty", "nothing at all", Vec::new(), BARE, malformed);
    table.row("bare-one-byte", "the version and nothing else", v4[..1].to_vec(), BARE, malformed);
    table.row("bare-short-v4", "no destination", v4[..19].to_vec(), BARE, malformed);
    table.row("bare-short-v6", "no destination", v6[..39].to_vec(), BARE, malformed);
}
