//! A judge that is not ours: the verdict contract once more, in the words of a foreign parser.
//!
//! It knows neither the parser nor the image: `etherparse` takes the frame apart, and every address is looked
//! up in the list of prefixes. It is asked only about frames that are what they say (see
//! [`Generator::plain`]); what ours does with all others the packet table says.
//!
//! Deliberate differences, which is why some frames are not generated:
//!
//! - `etherparse` reads an authentication header in IPv4 too; opb reads it in IPv6 only;
//! - it takes 3 VLAN tags, and hop-by-hop options only in front; ours takes 8, and any order;
//! - it knows no PPPoE: the session header is taken off here.

use std::{env, net::IpAddr};

use etherparse::{IpSlice, Ipv6ExtensionSlice, SlicedPacket, TcpSlice, ether_type, ip_number};
use opb_common::{
    image::SubscriberClass,
    outcome::{Line, Outcome, Reason, Verdict},
    settings::Settings,
};
use opb_lab::{
    generate::Generator,
    naive::{Action, Downstream, Match, Naive, Sample},
    packets::BYPASSED,
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
    let (mut judged, mut by_line) = (0, 0);
    for _ in 0..frames {
        let sample = generator.plain();
        let Outcome { verdict, reason, group, line } = policy.decide(&sample);
        let expected = oracle(&sample, &policy);
        assert_eq!((verdict, reason, policy.group(group)), expected, "{sample:02x?}");
        judged += u32::from(group != 0);
        by_line += u32::from(line != Line::Own);
    }
    assert!(judged > frames / 6, "{judged} of {frames} belong to a group");
    assert!(by_line > frames / 200, "{by_line} of {frames} are judged by another address");
}

/// What an honest tunnel does to large packets changes no verdict: the first fragment gets that of the whole packet.
#[test]
fn first_fragments_are_judged_like_whole_packets() {
    let policy = policy();
    let mut generator = Generator::new(0x6333);
    let mut judged = 0;
    for number in 0..FRAMES {
        let (first, whole) = generator.first_fragment();
        let bits = [Settings::DOWNSTREAM, Settings::SUBSCRIBER, Settings::UNKNOWN_DROP];
        let set = (0..3).filter(|bit| number >> bit & 1 != 0).map(|bit| bits[bit]);
        let settings = set.fold(Settings::BARE_IP, Settings::with);
        let [first, whole] =
            [first, whole].map(|frame| Sample { frame, settings, tags_out_of_band: 0 });
        let outcome = policy.decide(&first);
        assert_eq!(outcome, policy.decide(&whole), "{first:02x?}");
        let Outcome { verdict, reason, group, .. } = outcome;
        assert_eq!((verdict, reason, policy.group(group)), oracle(&whole, &policy), "{whole:02x?}");
        judged += u32::from(group != 0);
    }
    assert!(judged > FRAMES / 5, "{judged} of {FRAMES} belong to a group");
}

type Judgement<'a> = (Verdict, Reason, Option<&'a str>);

const OTHER: Judgement<'_> = (Verdict::Pass, Reason::Other, None);

fn oracle<'a>(sample: &Sample, policy: &'a Naive) -> Judgement<'a> {
    let settings = sample.settings;
    let packet =
        if settings.has(Settings::BARE_IP) { Some(&*sample.frame) } else { ip(&sample.frame) };
    let judgement = match packet.and_then(segment) {
        Some(segment) if settings.has(Settings::DOWNSTREAM) => downstream(&segment, policy),
        Some(segment) => upstream(&segment, settings, policy),
        None => OTHER,
    };
    match judgement {
        (Verdict::Drop | Verdict::Reject, _, group @ Some(BYPASSED)) => {
            (Verdict::Pass, Reason::Bypass, group)
        }
        other => other,
    }
}

fn upstream<'a>(segment: &Segment, settings: Settings, policy: &'a Naive) -> Judgement<'a> {
    if ![25, 2525].contains(&segment.destination_port) {
        return OTHER;
    }
    let class = line(policy, segment.source, segment.outer, segment.outer_may_have_more_hops);
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
    let outer = segment.outer.map(|(source, destination)| (destination, source));
    let class = line(policy, segment.destination, outer, false);
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

/// The class of the line of a subscriber whose address is `own`, in a tunnel between the addresses `outer`: the
/// subscriber's first. `leads_on`: the far one may not be the last.
fn line(
    policy: &Naive,
    own: IpAddr,
    outer: Option<(IpAddr, IpAddr)>,
    leads_on: bool,
) -> SubscriberClass {
    let class = |address| Some(policy.subscriber(address)).filter(|class| class.0 != 0);
    let Some((near, far)) = outer else { return policy.subscriber(own) };
    let softwire = (leads_on || policy.is_endpoint(far)).then_some(near);
    let six_to_four = match own {
        IpAddr::V6(own) => match own.octets() {
            [0x20, 0x02, a, b, c, d, ..] => Some(IpAddr::from([a, b, c, d])),
            _ => None,
        },
        IpAddr::V4(_) => None,
    };
    let named = [softwire, six_to_four, Some(own)].into_iter().flatten().find_map(class);
    named.unwrap_or(SubscriberClass(0))
}

/// What decides.
struct Segment {
    /// Source and destination of the packet around it.
    outer: Option<(IpAddr, IpAddr)>,
    outer_may_have_more_hops: bool,
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

/// The TCP segment in an IP packet, or in the one packet inside it.
fn segment(packet: &[u8]) -> Option<Segment> {
    let outer = IpSlice::from_slice(packet).expect("honest packets have honest headers");
    let payload = outer.payload();
    let inside = match payload.ip_number {
        ip_number::TCP => return Some(decisive(&outer)),
        ip_number::IPV6 | ip_number::IPV4 => payload.payload,
        ip_number::GRE => gre(payload.payload),
        _ => return None,
    };
    let inner = IpSlice::from_slice(inside).expect("inner packets are honest too");
    let addresses = Some((outer.source_addr(), outer.destination_addr()));
    (inner.payload().ip_number == ip_number::TCP).then(|| Segment {
        outer: addresses,
        outer_may_have_more_hops: may_have_more_hops(&outer),
        is_answerable: false,
        ..decisive(&inner)
    })
}

/// What an honest GRE header is followed by. `etherparse` knows none.
fn gre(bytes: &[u8]) -> &[u8] {
    let fields = (bytes[0] & 0b1011_0000).count_ones() as usize;
    &bytes[4 + 4 * fields..]
}

fn decisive(ip: &IpSlice<'_>) -> Segment {
    let tcp = TcpSlice::from_slice(ip.payload().payload).expect("honest TCP has an honest header");
    let is_plain = match ip {
        IpSlice::Ipv4(slice) => slice.header().options().is_empty(),
        IpSlice::Ipv6(slice) => slice.extensions().is_empty(),
    };
    Segment {
        outer: None,
        outer_may_have_more_hops: false,
        source: ip.source_addr(),
        destination: ip.destination_addr(),
        has_more_hops: has_more_hops(ip),
        source_port: tcp.source_port(),
        destination_port: tcp.destination_port(),
        syn: tcp.syn(),
        ack: tcp.ack(),
        is_answerable: is_plain && !tcp.rst(),
    }
}

fn has_more_hops(ip: &IpSlice<'_>) -> bool {
    match ip {
        IpSlice::Ipv4(slice) => routes(slice.header().options()),
        IpSlice::Ipv6(slice) => slice.extensions().clone().into_iter().any(|it| match it {
            // Type, then segments left.
            Ipv6ExtensionSlice::Routing(header) => header.payload()[1] != 0,
            _ => false,
        }),
    }
}

/// Whether an outer header may name further hops: any IPv4 options count.
fn may_have_more_hops(ip: &IpSlice<'_>) -> bool {
    match ip {
        IpSlice::Ipv4(slice) => !slice.header().options().is_empty(),
        IpSlice::Ipv6(_) => has_more_hops(ip),
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
