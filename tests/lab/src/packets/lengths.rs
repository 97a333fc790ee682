//! Length fields that lie, and packets that end too early: bounded by the real packet, never trusted.

use opb_common::{outcome::Reason, settings::Settings};

use super::{
    DOWN, Expected, Host, OTHER, Table, UP, drop,
    hosts::{ANY, DYNAMIC, EXEMPT, ISP, MONITORED, MULTI, OUTSIDE, REJECTING},
    pass, pass_ungrouped, would_drop,
};
use crate::frames::{Ethernet, Ipv4, Ipv6, Tcp, Udp, flags::ACK};

pub(super) fn add(table: &mut Table) {
    too_long(table);
    too_short(table);
    zero(table);
    headers(table);
    data_offset(table);
    pppoe(table);
    cut_frames(table);
}

const MALFORMED: Expected = drop(Reason::Malformed, "dynamic");
const DENIED: Expected = drop(Reason::Policy, "dynamic");

/// The claim exceeds the packet by one byte, in both families.
fn too_long(table: &mut Table) {
    let mut lie =
        |name: &str, description, (from, to): (Host, Host), tcp: Tcp, settings, expected| {
            let packet = Ipv4::new(from.v4, to.v4).carrying(tcp.clone()).total_length(41);
            let frame = Ethernet::new().carrying(&packet);
            table.row(format!("long-{name}-v4"), description, frame, settings, expected);
            let packet = Ipv6::new(from.v6, to.v6).carrying(tcp).payload_length(21);
            let frame = Ethernet::new().carrying(&packet);
            table.row(format!("long-{name}-v6"), description, frame, settings, expected);
        };
    let syn = || Tcp::syn_to(25);
    let answer = || Tcp::syn_ack_from(25);
    let claims = "claims more than there is";
    lie("syn", claims, (DYNAMIC, OUTSIDE), syn(), UP, MALFORMED);
    lie("relay", "a relay is no excuse", (DYNAMIC, ISP), syn(), UP, MALFORMED);
    lie(
        "ack",
        "not being a SYN does not help",
        (DYNAMIC, ISP),
        Tcp::new(1, 25, ACK),
        UP,
        MALFORMED,
    );
    lie("any", claims, (ANY, OUTSIDE), syn(), UP, drop(Reason::Malformed, "any"));
    let would = would_drop(Reason::Malformed, "monitored");
    lie("monitored", "the group's action", (MONITORED, OUTSIDE), syn(), UP, would);
    let rejected = drop(Reason::Malformed, "rejecting");
    lie("rejecting", "the group's action", (REJECTING, OUTSIDE), syn(), UP, rejected);
    let exempt = pass(Reason::Exempt, "dynamic");
    lie("exempt", "the source comes first", (EXEMPT, OUTSIDE), syn(), UP, exempt);
    let counted = pass_ungrouped(Reason::Malformed);
    lie("unknown", "from no group: counted", (OUTSIDE, ISP), syn(), UP, counted);
    lie(
        "port-443",
        "another port is another matter",
        (DYNAMIC, OUTSIDE),
        Tcp::syn_to(443),
        UP,
        OTHER,
    );
    let other_port = pass(Reason::NotFiltered, "dynamic");
    lie(
        "port-2525",
        "a port of other groups",
        (DYNAMIC, OUTSIDE),
        Tcp::syn_to(2525),
        UP,
        other_port,
    );
    lie("down", "downstream", (OUTSIDE, DYNAMIC), answer(), DOWN, MALFORMED);
    lie("down-relay", "a relay is no excuse", (ISP, DYNAMIC), answer(), DOWN, MALFORMED);
    let off = pass(Reason::NotFiltered, "multi");
    lie("down-off", "downstream is off", (OUTSIDE, MULTI), answer(), DOWN, off);

    let udp = Udp::new(25, 25, b"mail");
    let packet = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(udp.clone()).total_length(999);
    table.row("long-udp-v4", "UDP", Ethernet::new().carrying(&packet), UP, OTHER);
    let packet = Ipv6::new(DYNAMIC.v6, OUTSIDE.v6).carrying(udp).payload_length(999);
    table.row("long-udp-v6", "UDP", Ethernet::new().carrying(&packet), UP, OTHER);
    let longest = syn_v4().total_length(65535);
    table.row("longest-v4", claims, Ethernet::new().carrying(&longest), UP, MALFORMED);
    let longest = syn_v6().payload_length(65535);
    table.row("longest-v6", claims, Ethernet::new().carrying(&longest), UP, MALFORMED);
}

fn syn_v4() -> Ipv4 {
    Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(Tcp::syn_to(25))
}

fn syn_v6() -> Ipv6 {
    Ipv6::new(DYNAMIC.v6, OUTSIDE.v6).carrying(Tcp::syn_to(25))
}

/// The claim leaves a part of the packet out.
fn too_short(table: &mut Table) {
    let data = || Tcp::syn_to(25).data(b"EHLO dynamic.example\r\n");
    let packet = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(data()).total_length(40);
    let description = "missing data does not matter";
    table.row("short-data-v4", description, Ethernet::new().carrying(&packet), UP, DENIED);
    let packet = Ipv6::new(DYNAMIC.v6, OUTSIDE.v6).carrying(data()).payload_length(20);
    table.row("short-data-v6", description, Ethernet::new().carrying(&packet), UP, DENIED);

    for left in [0, 1, 4, 14, 19] {
        for port in [25, 443] {
            let description = "the claim leaves out a part of the TCP header";
            let packet = Ipv4::new(DYNAMIC.v4, ISP.v4).carrying(Tcp::syn_to(port));
            let frame = Ethernet::new().carrying(&packet.total_length(20 + left));
            let name = format!("short-tcp-{left}-port-{port}");
            table.row(format!("{name}-v4"), description, frame, UP, MALFORMED);
            let packet = Ipv6::new(DYNAMIC.v6, ISP.v6).carrying(Tcp::syn_to(port));
            let frame = Ethernet::new().carrying(&packet.payload_length(left));
            table.row(format!("{name}-v6"), description, frame, UP, MALFORMED);
        }
    }
    for length in [1, 16, 19] {
        let frame = Ethernet::new().carrying(&syn_v4().total_length(length));
        let description = "the claim leaves out a part of the IP header";
        table.row(format!("short-ip-{length}-v4"), description, frame, UP, MALFORMED);
    }
    let options = syn_v4().options(&[1; 8]).total_length(24);
    let description = "the claim leaves out a part of the options";
    table.row("short-options-v4", description, Ethernet::new().carrying(&options), UP, MALFORMED);
}

/// A claim of 0: a lie, but for packets longer than any length field.
fn zero(table: &mut Table) {
    let frame = Ethernet::new().carrying(&syn_v4().total_length(0));
    table.row("zero-v4", "no total length", frame, UP, MALFORMED);
    let jumbo = Ipv6::new(DYNAMIC.v6, OUTSIDE.v6)
        .extension(0, vec![0, 0, 0xc2, 4, 0, 1, 0, 0])
        .carrying(Tcp::syn_to(25))
        .payload_length(0);
    let description = "claims to be a jumbogram (RFC 2675), and is read to its end";
    table.row("zero-jumbo-v6", description, Ethernet::new().carrying(&jumbo), UP, DENIED);

    let description = "an aggregate of segments, longer than any length field (BIG TCP)";
    let big = || Tcp::syn_to(25).data(&[b'a'; 66_000]);
    let packet = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(big()).total_length(0);
    table.row("zero-big-v4", description, Ethernet::new().carrying(&packet), UP, DENIED);
    let packet = Ipv6::new(DYNAMIC.v6, OUTSIDE.v6).carrying(big()).payload_length(0);
    table.row("zero-big-v6", description, Ethernet::new().carrying(&packet), UP, DENIED);
    let relay = Ipv6::new(DYNAMIC.v6, ISP.v6).carrying(big()).payload_length(0);
    let passed = pass(Reason::Relay, "dynamic");
    table.row("zero-big-relay-v6", description, Ethernet::new().carrying(&relay), UP, passed);
}

/// Header length and version.
fn headers(table: &mut Table) {
    for words in [0, 1, 4] {
        let frame = Ethernet::new().carrying(&syn_v4().ihl(words));
        let description = "a header shorter than its fixed part";
        table.row(format!("ihl-{words}"), description, frame, UP, MALFORMED);
    }
    let frame = Ethernet::new().carrying(&syn_v4().ihl(15));
    table.row("ihl-15", "a header longer than the packet", frame, UP, MALFORMED);
    let frame = Ethernet::new().carrying(&syn_v4().ihl(6));
    table.row("ihl-6", "a header that takes a word of the TCP header", frame, UP, MALFORMED);
    for version in [0, 5, 6, 15] {
        let frame = Ethernet::new().carrying(&syn_v4().version(version));
        let description = "another version than the link layer says";
        table.row(format!("version-{version}-v4"), description, frame, UP, MALFORMED);
    }
    for version in [0, 4, 5, 15] {
        let frame = Ethernet::new().carrying(&syn_v6().version(version));
        let description = "another version than the link layer says";
        table.row(format!("version-{version}-v6"), description, frame, UP, MALFORMED);
    }
    let udp = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(Udp::new(25, 25, b"")).ihl(4);
    table.row("ihl-4-udp", "UDP", Ethernet::new().carrying(&udp), UP, OTHER);
}

fn data_offset(table: &mut Table) {
    let mut lie = |name: &str, description, (from, to), tcp: Tcp, settings, expected| {
        table.both(
            &format!("data-offset-{name}"),
            description,
            (from, to),
            tcp,
            settings,
            expected,
        );
    };
    let syn = |port, words| Tcp::syn_to(port).data_offset(words);
    let outside = (DYNAMIC, OUTSIDE);
    let short = "a TCP header shorter than its fixed part";
    for words in [0, 1, 4] {
        lie(&words.to_string(), short, outside, syn(25, words), UP, MALFORMED);
    }
    lie("4-relay", "a relay is no excuse", (DYNAMIC, ISP), syn(25, 4), UP, MALFORMED);
    let ack = Tcp::new(49152, 25, ACK).data_offset(4);
    lie("4-ack", "not being a SYN does not help", outside, ack, UP, MALFORMED);
    lie("4-port-443", "another port is another matter", outside, syn(443, 4), UP, OTHER);
    let other_port = pass(Reason::NotFiltered, "dynamic");
    lie("4-port-2525", "a port of other groups", outside, syn(2525, 4), UP, other_port);
    let multi = drop(Reason::Malformed, "multi");
    lie("4-port-2525-multi", short, (MULTI, OUTSIDE), syn(2525, 4), UP, multi);
    let would = would_drop(Reason::Malformed, "monitored");
    lie("4-monitored", "the group's action", (MONITORED, OUTSIDE), syn(25, 4), UP, would);
    let counted = pass_ungrouped(Reason::Malformed);
    lie("4-unknown", "from no group: counted", (OUTSIDE, ISP), syn(25, 4), UP, counted);
    let exempt = pass(Reason::Exempt, "dynamic");
    lie("4-exempt", "the source comes first", (EXEMPT, OUTSIDE), syn(25, 4), UP, exempt);
    let answer = Tcp::syn_ack_from(25).data_offset(4);
    lie("4-down", "downstream", (OUTSIDE, DYNAMIC), answer, DOWN, MALFORMED);
    let long = "options announced that are not there: the ports are, which is what counts";
    lie("15", long, outside, syn(25, 15), UP, DENIED);
    lie("15-relay", long, (DYNAMIC, ISP), syn(25, 15), UP, pass(Reason::Relay, "dynamic"));
}

/// The length of a PPPoE session: 2 bytes of protocol, 20 of IPv4, 20 of TCP.
fn pppoe(table: &mut Table) {
    let session = |length| Ethernet::new().pppoe_length(length);
    let mut row = |name: &str, description, frame, expected| {
        table.row(format!("pppoe-length-{name}"), description, frame, UP, expected);
    };
    let claims = "claims more than there is";
    row("43", claims, session(43).carrying(&syn_v4()), MALFORMED);
    row("65535", claims, session(65535).carrying(&syn_v4()), MALFORMED);
    row("63-v6", claims, session(63).carrying(&syn_v6()), MALFORMED);
    let leaves = "leaves out a part of the TCP header";
    row("41", leaves, session(41).carrying(&syn_v4()), MALFORMED);
    row("22", leaves, session(22).carrying(&syn_v4()), MALFORMED);
    row("61-v6", leaves, session(61).carrying(&syn_v6()), MALFORMED);
    let other_port = || Tcp::syn_to(443);
    let packet = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(other_port());
    row("41-port-443", leaves, session(41).carrying(&packet), MALFORMED);
    row("42-port-443", "right", session(42).carrying(&packet), OTHER);
    let packet = Ipv6::new(DYNAMIC.v6, OUTSIDE.v6).carrying(other_port());
    row("61-port-443-v6", leaves, session(61).carrying(&packet), MALFORMED);
    row("62-port-443-v6", "right", session(62).carrying(&packet), OTHER);
    let addresses = "leaves out the addresses, which are there all the same";
    row("0", addresses, session(0).carrying(&syn_v4()), MALFORMED);
    row("2", addresses, session(2).carrying(&syn_v4()), MALFORMED);
    row("21", addresses, session(21).carrying(&syn_v4()), MALFORMED);
    row("41-v6", addresses, session(41).carrying(&syn_v6()), MALFORMED);
    let short = |length| session(length).pppoe_one_byte();
    row("41-one-byte", "right, with one byte of protocol", short(41).carrying(&syn_v4()), DENIED);
    row("42-one-byte", claims, short(42).carrying(&syn_v4()), MALFORMED);
    row("40-one-byte", leaves, short(40).carrying(&syn_v4()), MALFORMED);
    let relay = Ipv4::new(DYNAMIC.v4, ISP.v4).carrying(Tcp::syn_to(25));
    row("43-relay", "a relay is no excuse", session(43).carrying(&relay), MALFORMED);
    let unknown = Ipv4::new(OUTSIDE.v4, ISP.v4).carrying(Tcp::syn_to(25));
    let counted = pass_ungrouped(Reason::Malformed);
    row("43-unknown", "from no group: counted", session(43).carrying(&unknown), counted);
    let udp = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(Udp::new(25, 25, b"mail"));
    row("999-udp", "UDP", session(999).carrying(&udp), OTHER);
    row("2-udp", "UDP", session(2).carrying(&udp), OTHER);
    let mut padded = session(42).carrying(&syn_v4());
    padded.resize(70, 0);
    row("padded", "right, with padding behind", padded, DENIED);
    let hidden = "leaves out the IP header: the port behind it is not believed";
    let packet = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(other_port());
    row("2-port-443", hidden, session(2).carrying(&packet), MALFORMED);
    let packet = Ipv6::new(DYNAMIC.v6, OUTSIDE.v6).carrying(other_port());
    row("2-port-443-v6", hidden, session(2).carrying(&packet), MALFORMED);
}

/// The frame ends before the packet that it carries does.
fn cut_frames(table: &mut Table) {
    let counted = pass_ungrouped(Reason::Malformed);
    let whole = Ethernet::new().carrying(&syn_v4());
    for (length, expected) in [
        (15, counted),
        (26, counted),
        (33, counted),
        (34, MALFORMED),
        (38, MALFORMED),
        (53, MALFORMED),
    ] {
        let description = "the frame ends before the TCP header does";
        table.row(format!("cut-{length}-v4"), description, whole[..length].to_vec(), UP, expected);
    }
    let whole = Ethernet::new().carrying(&syn_v6());
    for (length, expected) in
        [(15, counted), (53, counted), (54, MALFORMED), (58, MALFORMED), (73, MALFORMED)]
    {
        let description = "the frame ends before the TCP header does";
        table.row(format!("cut-{length}-v6"), description, whole[..length].to_vec(), UP, expected);
    }
    let udp = Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(Udp::new(25, 25, b"mail"));
    let udp = Ethernet::new().carrying(&udp);
    table.row("cut-34-udp", "the frame ends before the UDP header", udp[..34].to_vec(), UP, OTHER);
    let subscriber = Settings::SUBSCRIBER;
    let name = "cut-15-subscriber";
    table.row(name, "what cannot be read passes, counted", udp[..15].to_vec(), subscriber, counted);
}
