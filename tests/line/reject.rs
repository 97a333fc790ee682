//! `action: reject`: what the subscriber gets back.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};
use opb_common::outcome::Direction;
use opb_lab::{
    frames::{Ethernet, Ipv4, Ipv6, Tcp, flags},
    line::{Ends, LINE, Way, is_of_the_lab},
    packets::{
        Host,
        hosts::{ANY, OUTSIDE, REJECTING},
    },
    process, reset,
};
use opb_userspace::node::Role;

use crate::gate::{EGRESS, Gate, INGRESS, moved};

const POLICY: &str = "\
version: 1
groups:
  syn: {prefixes: [198.19.2.0/24, 2001:db8:4000::/36], action: reject}
  any: {prefixes: [198.19.1.0/24, 2001:db8:3000::/36], action: reject, match: any, downstream: drop}
";

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn connect_is_refused_at_once() -> Result<()> {
    for hook in INGRESS {
        let mut gate = Gate::with(POLICY)?;
        gate.attach(Role::Subscriber, Direction::Upstream, hook)?;
        let subscriber = &gate.line.subscriber;
        for (own, other) in [
            (IpAddr::from(REJECTING.v4), IpAddr::from(OUTSIDE.v4)),
            (REJECTING.v6.into(), OUTSIDE.v6.into()),
        ] {
            let length = if own.is_ipv4() { 32 } else { 128 };
            subscriber.address(LINE, &format!("{own}/{length}"))?;
            subscriber.ip(&format!("route add {other}/{length} dev {LINE} src {own}"))?;
            let neighbour = "lladdr 02:00:00:00:00:99 nud permanent";
            subscriber.ip(&format!("neigh add {other} dev {LINE} {neighbour}"))?;
        }
        // A local stack leaves checksums to the device if it may; then a packet carries half of one.
        for offload in ["off", "on"] {
            process::check(subscriber.command("ethtool").args(["-K", LINE, "tx", offload]))?;
            for to in [IpAddr::from(OUTSIDE.v4), OUTSIDE.v6.into()] {
                let before = gate.counts()?;
                let to = SocketAddr::from((to, 25));
                let refused = subscriber.enter(|| {
                    let result = TcpStream::connect_timeout(&to, Duration::from_secs(5));
                    Ok(result.expect_err("rejected").kind())
                })?;
                assert_eq!(refused, ErrorKind::ConnectionRefused, "{hook:?}, tx {offload}, {to}");
                // At once: the first SYN was answered, and there was no second.
                let counted = moved(&before, &gate.counts()?);
                let expected = [("syn upstream reject policy".to_owned(), 1)];
                assert!(counted.into_iter().eq(expected), "{hook:?}, tx {offload}, {to}");
            }
        }
    }
    Ok(())
}

/// Byte by byte, for every encapsulation that goes back the way it came. The group's own downstream rule, which stands
/// on the same interface, lets nothing of port 25 down but this.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn answers_are_exact() -> Result<()> {
    for hook in INGRESS {
        let mut gate = Gate::with(POLICY)?;
        gate.attach(Role::Subscriber, Direction::Upstream, hook)?;
        gate.attach(Role::Subscriber, Direction::Downstream, EGRESS[0])?;
        let mut number = 0;
        for (name, link, headers, pppoe) in links() {
            for (what, tcp) in segments() {
                // Hosts of their own, so that none has had too many resets.
                number += 1;
                let host = nth(ANY, number);
                let v4 = link.carrying(&Ipv4::new(host.v4, OUTSIDE.v4).carrying(tcp.clone()));
                let v6 = link.carrying(&Ipv6::new(host.v6, OUTSIDE.v6).carrying(tcp.clone()));
                for request in [v4, v6] {
                    let answer = answer(&gate.ends, &request)?
                        .with_context(|| format!("{hook:?}, {name}, {what}: no answer"))?;
                    let expected = reset::of(&request, headers, pppoe);
                    let (answer, padding) = answer.split_at(expected.len().min(answer.len()));
                    assert_eq!(
                        hex(answer),
                        hex(&expected),
                        "{hook:?}, {name}, {what}: got, expected"
                    );
                    assert!(padding.iter().all(|byte| *byte == 0), "{hook:?}, {name}: {padding:?}");
                    assert!(answer.len() + padding.len() <= expected.len().max(60));
                }
            }
        }
    }
    Ok(())
}

/// A reset would answer a reset for ever; and what no reset can be built in place of is dropped.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn what_cannot_be_answered_is_dropped_and_counted_so() -> Result<()> {
    let v4 = |host: Host| Ipv4::new(host.v4, OUTSIDE.v4);
    let v6 = |host: Host| Ipv6::new(host.v6, OUTSIDE.v6);
    let rst = |more| Tcp::new(49152, 25, flags::RST | more);
    let plain = Ethernet::new();
    let silent = [
        ("rst", "policy", plain.carrying(&v4(ANY).carrying(rst(0)))),
        ("rst, v6", "policy", plain.carrying(&v6(ANY).carrying(rst(0)))),
        ("rst with syn", "policy", plain.carrying(&v4(ANY).carrying(rst(flags::SYN)))),
        ("rst with ack", "policy", plain.carrying(&v6(ANY).carrying(rst(flags::ACK)))),
        ("options", "policy", plain.carrying(&v4(ANY).options(&[1; 4]).carrying(Tcp::syn_to(25)))),
        (
            "extension header",
            "policy",
            plain.carrying(&v6(ANY).hop_by_hop(1).carrying(Tcp::syn_to(25))),
        ),
        (
            "first fragment",
            "policy",
            plain.carrying(&v4(ANY).fragment(0, true).carrying(Tcp::syn_to(25))),
        ),
        (
            "short fragment",
            "fragment",
            plain.carrying(&v4(ANY).fragment(0, true).carrying(Tcp::syn_to(25)).keep(..8)),
        ),
        (
            "tunnel",
            "policy",
            plain.carrying(
                &v6(OUTSIDE).carrying(Ipv4::new(ANY.v4, OUTSIDE.v4).carrying(Tcp::syn_to(25))),
            ),
        ),
    ];
    for hook in INGRESS {
        let mut gate = Gate::with(POLICY)?;
        gate.attach(Role::Subscriber, Direction::Upstream, hook)?;
        for (what, reason, frame) in &silent {
            let before = gate.counts()?;
            assert_eq!(answer(&gate.ends, frame)?, None, "{hook:?}: {what}");
            let counted = moved(&before, &gate.counts()?);
            let expected = [(format!("any upstream drop {reason}"), 1)];
            assert!(counted.clone().into_iter().eq(expected), "{hook:?}: {what}: {counted:?}");
        }
    }
    Ok(())
}

/// Ten in a row, and then ten a second, for each IPv4 address and each IPv6 /64; the rest is dropped in silence.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn answers_are_limited_for_each_source() -> Result<()> {
    const SYNS: u64 = 100;
    let v4 = |host: Host, _| Ipv4::new(host.v4, OUTSIDE.v4).carrying(Tcp::syn_to(25));
    let v6 = |host: Host, last: u64| {
        let source = host.v6.to_bits() & !0xffff | u128::from(last);
        Ipv6::new(source, OUTSIDE.v6).carrying(Tcp::syn_to(25))
    };
    let plain = Ethernet::new();
    for hook in INGRESS {
        let mut gate = Gate::with(POLICY)?;
        gate.attach(Role::Subscriber, Direction::Upstream, hook)?;
        for number in 1..=2 {
            let host = nth(REJECTING, number);
            let frames = [
                (0..SYNS).map(|last| plain.carrying(&v4(host, last))).collect::<Vec<_>>(),
                (0..SYNS).map(|last| plain.carrying(&v6(host, last))).collect(),
            ];
            for frames in frames {
                let before = gate.counts()?;
                let start = std::time::Instant::now();
                for frame in &frames {
                    gate.ends.subscriber.send(frame)?;
                }
                let mut answers = 0;
                let last = gate.ends.arriving(Way::Up, &frames[0])?;
                let most = 10 + start.elapsed().as_millis() as u64 / 100 + 1;
                assert_eq!(last, Vec::<Vec<u8>>::new());
                let limit = Duration::from_millis(200);
                while gate.ends.subscriber.receive(limit, is_of_the_lab)?.is_some() {
                    answers += 1;
                }
                assert!((10..=most).contains(&answers), "{hook:?}: {answers} answers");
                let counted = moved(&before, &gate.counts()?);
                let expected = [
                    ("syn upstream drop policy".to_owned(), SYNS + 1 - answers),
                    ("syn upstream reject policy".to_owned(), answers),
                ];
                assert!(counted.clone().into_iter().eq(expected), "{hook:?}: {counted:?}");
            }
        }
    }
    Ok(())
}

/// With the number of bytes in front of the IP header, and of those the bytes of PPP protocol.
fn links() -> [(&'static str, Ethernet, usize, usize); 6] {
    let qinq = || Ethernet::new().tag(0x88a8, 7).tag(0x8100, 100);
    [
        ("Ethernet", Ethernet::new(), 14, 0),
        ("VLAN 0", Ethernet::new().tag(0x8100, 0), 18, 0),
        ("QinQ", qinq(), 22, 0),
        ("PPPoE", Ethernet::new().pppoe(), 22, 2),
        ("QinQ and PPPoE", qinq().pppoe(), 30, 2),
        ("QinQ and PPPoE, short", qinq().pppoe_one_byte(), 29, 1),
    ]
}

/// What a closed port answers (RFC 9293, section 3.10.7.1) is different for each.
fn segments() -> [(&'static str, Tcp); 6] {
    use flags::{ACK, CWR, ECE, FIN, PSH, SYN};
    let options = [2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
    [
        ("SYN", Tcp::syn_to(25)),
        ("SYN with options", Tcp::syn_to(25).options(&options)),
        ("SYN with data", Tcp::syn_to(25).options(&options).data(b"EHLO dynamic.example\r\n")),
        ("SYN and FIN, ECN", Tcp::new(49152, 25, SYN | FIN | ECE | CWR)),
        ("ACK", Tcp::new(49152, 25, ACK | PSH).data(&[0x25; 1200])),
        ("FIN, one byte", Tcp::new(49152, 25, FIN).data(b"x")),
    ]
}

/// Another host of the same group, in a /64 of its own.
fn nth(host: Host, number: u8) -> Host {
    let mut v6 = host.v6.segments();
    v6[3] = u16::from(number);
    let [a, b, c, _] = host.v4.octets();
    Host { v4: [a, b, c, number].into(), v6: v6.into() }
}

/// What comes back when `frame` is sent. It must not arrive at the far end.
fn answer(ends: &Ends, frame: &[u8]) -> Result<Option<Vec<u8>>> {
    assert_eq!(ends.arriving(Way::Up, frame)?, Vec::<Vec<u8>>::new());
    // Behind the marker an answer is already on its way, or never will be.
    let mut answers = Vec::new();
    ends.subscriber.receive(Duration::from_millis(20), |frame| {
        answers.extend(is_of_the_lab(frame).then(|| frame.to_vec()));
        !answers.is_empty()
    })?;
    Ok(answers.pop())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
