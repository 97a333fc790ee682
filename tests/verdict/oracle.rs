//! A judge that is not ours: the verdict contract once more, in the words of a foreign parser.
//!
//! It knows neither the walk nor the image: `etherparse` takes the frame apart, and every address is looked
//! up in the list of prefixes. It is asked only about frames that are what they say (see
//! [`Generator::plain`]); what ours does with all others the packet table says.
//!
//! Deliberate differences, which is why some frames are not generated:
//!
//! - `etherparse` walks an authentication header in IPv4 too; the contract names it for IPv6 alone;
//! - it takes 3 VLAN tags, and hop-by-hop options only in front; ours takes 8, and any order;
//! - it knows no PPPoE: the session header is taken off here.

use std::{env, net::IpAddr};

use etherparse::{IpSlice, Ipv6ExtensionSlice, SlicedPacket, TcpSlice, ether_type, ip_number};
use opb_common::{
    outcome::{Outcome, Reason, Verdict},
    settings::Settings,
};
use opb_lab::{
    generate::Generator,
    naive::{Action, Downstream, Match, Naive, Sample},
};

use crate::policy;

/// In a run of the lane. `cargo xtask fuzz --differential` asks for more.
const FRAMES: u32 = 200_000;

#[test]
fn oracle_agrees() {
    let frames =
        env::var("OPB_ORACLE_FRAMES").map_or(FRAMES, |count| count.parse().expect("a number"));
    let policy = policy();
    let mut generator = Generator::new(25);
    let mut judged = 0;
    for _ in 0..frames {
        let sample = generator.plain();
        let Outcome { verdict, reason, group } = policy.decide(&sample);
        let expected = oracle(&sample, &policy);
        assert_eq!((verdict, reason, policy.group(group)), expected, "{sample:02x?}");
        judged += u32::from(group != 0);
    }
    assert!(judged > frames / 5, "{judged} of {frames} belong to a group");
}

type Judgement<'a> = (Verdict, Reason, Option<&'a str>);

const OTHER: Judgement<'_> = (Verdict::Pass, Reason::Other, None);

fn oracle<'a>(sample: &Sample, policy: &'a Naive) -> Judgement<'a> {
    let settings = sample.settings;
    let packet =
        if settings.has(Settings::BARE_IP) { Some(&*sample.frame) } else { ip(&sample.frame) };
    match packet.and_then(segment) {
        Some(segment) if settings.has(Settings::DOWNSTREAM) => downstream(&segment, policy),
        Some(segment) => upstream(&segment, settings, policy),
        None => OTHER,
    }
}

fn upstream<'a>(segment: &Segment, settings: Settings, policy: &'a Naive) -> Judgement<'a> {
    if ![25, 2525].contains(&segment.destination_port) {
        return OTHER;
    }
    let class = policy.subscriber(segment.source);
    let group = policy.group(class.group());
    if class.is_exempt() {
        return (Verdict::Pass, Reason::Exempt, group);
    }
    let Some(rules) = group.and_then(|group| policy.rules(group)) else {
        let drops = settings.has(Settings::UNKNOWN_DROP);
        return (if drops { Verdict::Drop } else { Verdict::Pass }, Reason::Unknown, None);
    };
    let action = match rules.action {
        Action::Drop => Verdict::Drop,
        Action::Reject if segment.is_answerable => Verdict::Reject,
        Action::Reject => Verdict::Drop,
        Action::Monitor => Verdict::WouldDrop,
    };
    if !rules.ports.contains(&segment.destination_port) {
        (Verdict::Pass, Reason::NotFiltered, group)
    } else if rules.matches == Match::Syn && (!segment.syn || segment.ack) {
        (Verdict::Pass, Reason::NotSyn, group)
    } else if !policy.reached_by(segment.destination).iter().any(|name| Some(*name) == group) {
        (action, Reason::Policy, group)
    } else if segment.has_more_hops {
        (action, Reason::SourceRoute, group)
    } else {
        (Verdict::Pass, Reason::Relay, group)
    }
}

fn downstream<'a>(segment: &Segment, policy: &'a Naive) -> Judgement<'a> {
    if segment.source_port != 25 {
        return OTHER;
    }
    let class = policy.subscriber(segment.destination);
    let group = policy.group(class.group());
    if class.is_exempt() {
        return (Verdict::Pass, Reason::Exempt, group);
    }
    let Some(rules) = group.and_then(|group| policy.rules(group)) else {
        return (Verdict::Pass, Reason::Unknown, None);
    };
    if rules.downstream == Downstream::Off {
        (Verdict::Pass, Reason::NotFiltered, group)
    } else if policy.reached_by(segment.source).iter().any(|name| Some(*name) == group) {
        (Verdict::Pass, Reason::Relay, group)
    } else if rules.downstream == Downstream::Monitor {
        (Verdict::WouldDrop, Reason::Policy, group)
    } else {
        (Verdict::Drop, Reason::Policy, group)
    }
}

/// What decides.
struct Segment {
    source: IpAddr,
    destination: IpAddr,
    has_more_hops: bool,
    source_port: u16,
    destination_port: u16,
    syn: bool,
    ack: bool,
    /// A reset answers no reset, and nothing that has more in front of TCP than one plain IP header.
    is_answerable: bool,
}

/// The IP packet in an Ethernet frame.
fn ip(frame: &[u8]) -> Option<&[u8]> {
    const PPPOE_SESSION: u16 = 0x8864;
    let parsed = SlicedPacket::from_ethernet(frame).expect("honest frames have honest headers");
    let payload = parsed.ether_payload().expect("an Ethernet frame has a payload");
    match payload.ether_type.0 {
        PPPOE_SESSION => match payload.payload[6..] {
            [0x21 | 0x57, ..] => Some(&payload.payload[7..]),
            [0, 0x21 | 0x57, ..] => Some(&payload.payload[8..]),
            _ => None,
        },
        _ if [ether_type::IPV4, ether_type::IPV6].contains(&payload.ether_type) => {
            Some(payload.payload)
        }
        _ => None,
    }
}

/// The TCP segment in an IP packet, or in the packet of the other family inside it.
fn segment(packet: &[u8]) -> Option<Segment> {
    let outer = IpSlice::from_slice(packet).expect("honest packets have honest headers");
    let inside = outer.payload();
    match (&outer, inside.ip_number) {
        (_, ip_number::TCP) => Some(decisive(&outer)),
        (IpSlice::Ipv4(_), ip_number::IPV6) | (IpSlice::Ipv6(_), ip_number::IPV4) => {
            let inner = IpSlice::from_slice(inside.payload).expect("inner packets are honest too");
            (inner.payload().ip_number == ip_number::TCP)
                .then(|| Segment { is_answerable: false, ..decisive(&inner) })
        }
        _ => None,
    }
}

fn decisive(ip: &IpSlice<'_>) -> Segment {
    let tcp = TcpSlice::from_slice(ip.payload().payload).expect("honest TCP has an honest header");
    let (source, destination, has_more_hops, is_plain) = match ip {
        IpSlice::Ipv4(slice) => {
            let header = slice.header();
            let source = header.source_addr().into();
            let plain = header.options().is_empty();
            (source, header.destination_addr().into(), routes(header.options()), plain)
        }
        IpSlice::Ipv6(slice) => {
            let header = slice.header();
            let left = slice.extensions().clone().into_iter().any(|extension| match extension {
                // Type, then segments left.
                Ipv6ExtensionSlice::Routing(header) => header.payload()[1] != 0,
                _ => false,
            });
            let plain = slice.extensions().is_empty();
            (header.source_addr().into(), header.destination_addr().into(), left, plain)
        }
    };
    Segment {
        source,
        destination,
        has_more_hops,
        source_port: tcp.source_port(),
        destination_port: tcp.destination_port(),
        syn: tcp.syn(),
        ack: tcp.ack(),
        is_answerable: is_plain && !tcp.rst(),
    }
}

fn routes(options: &[u8]) -> bool {
    match options {
        [] | [0, ..] => false,
        [1, rest @ ..] => routes(rest),
        [131 | 137, ..] => true,
        [_, length, ..] => routes(&options[usize::from(*length)..]),
        [_] => unreachable!("honest options have a length"),
    }
}
