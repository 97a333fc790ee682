//! Packets that the filter does not judge cause no map lookup.

use opb_common::{
    image::ImageNode,
    judge::{Tables, decide},
    outcome::{Direction, Outcome, Reason, Verdict},
    settings::{PortSet, Settings},
};
use opb_lab::{
    frames::{Ethernet, Icmp, Ipv4, Ipv6, Packet, Payload, Tcp, Udp, flags},
    packets::hosts::{DYNAMIC, OUTSIDE},
};
use opb_userspace::{
    image::{Image, port_set},
    kernel::Replay,
};

use crate::judges::{HOOKS, Programs, image};

/// Nothing may be asked of these but the ports.
struct OnlyPorts(Box<PortSet>);

impl Tables for OnlyPorts {
    type Image<'a>
        = &'a [ImageNode]
    where
        Self: 'a;

    fn ports(&self, _settings: Settings) -> &PortSet {
        &self.0
    }

    fn image(&self) -> Option<&[ImageNode]> {
        panic!("the image was looked up");
    }

    fn record(&self, _direction: Direction, outcome: Outcome, _bytes: usize) {
        panic!("{outcome:?} was counted");
    }
}

#[test]
fn ordinary_packets_ask_for_nothing_on_the_host() {
    let tables = OnlyPorts(port_set(image().upstream_ports()));
    for (settings, frame) in ordinary() {
        assert_eq!(decide(&*frame, settings, &tables), Outcome::OTHER, "{frame:02x?}");
    }
}

/// The entry function of each program, as the kernel runs it, calls four functions: parser,
/// judgement of plain packets, judgement of tunnelled packets, and TCP reset. It uses no map but
/// its own data section. A lookup that the kernel compiled inline would begin with the map's
/// address.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn the_entry_function_calls_no_helper_in_the_kernel() {
    let image = image();
    for hook in HOOKS {
        let mut programs = Programs::new(&image, hook);
        for settings in [Settings(0), Settings::DOWNSTREAM, Settings::BARE_IP] {
            let code = programs.with(settings).translated().expect("root may read it");
            assert_eq!(entry(&code), [const { Use::Function }; 4], "{hook:?} {settings:?}");
        }
    }
}

/// And ordinary packets reach none of the four: what is judged is counted as `no-policy` while
/// there is no image, and they are not.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn without_an_image_only_what_is_judged_is_counted() {
    let image = image();
    for hook in HOOKS {
        let mut replays = [Settings(0), Settings::BARE_IP].map(|settings| {
            Replay::without_policy(&image, settings, hook).expect("the programs load")
        });
        for (settings, frame) in ordinary() {
            let replay = &mut replays[usize::from(settings.has(Settings::BARE_IP))];
            assert_eq!(replay.run(&frame).expect("it runs"), Outcome::OTHER, "{frame:02x?}");
        }
        for (replay, headers) in replays.iter_mut().zip([14, 0]) {
            assert_eq!(counted(replay, &image), [], "{hook:?}");
            let syn = Ethernet::new().carrying(&v4_carrying(Tcp::syn_to(25)));
            let no_policy = Outcome::ungrouped(Verdict::Pass, Reason::NoPolicy);
            assert_eq!(replay.run(&syn[14 - headers..][..]).expect("it runs"), no_policy);
            assert_eq!(counted(replay, &image), [("pass", "no-policy", 1)], "{hook:?}");
        }
    }
}

fn counted(replay: &Replay, image: &Image) -> Vec<(&'static str, &'static str, u64)> {
    let rows = replay.counters(image.group_ids());
    rows.iter().map(|row| (row.verdict.name(), row.reason.name(), row.packets)).collect()
}

/// Frames such as most are: nothing to port 25, and nothing strange.
fn ordinary() -> Vec<(Settings, Vec<u8>)> {
    let mut frames = Vec::new();
    let web = || Tcp::new(49152, 443, flags::ACK | flags::PSH).data(b"GET / HTTP/1.1\r\n");
    let mut add = |ip: &dyn Fn(Ethernet) -> Vec<u8>, bare: Vec<u8>| {
        let links = [
            Ethernet::new(),
            Ethernet::new().tag(0x8100, 7),
            Ethernet::new().tag(0x88a8, 7).tag(0x8100, 100),
            Ethernet::new().pppoe(),
            Ethernet::new().tag(0x88a8, 7).tag(0x8100, 100).pppoe(),
        ];
        frames.extend(links.into_iter().map(|link| (Settings(0), ip(link))));
        frames.push((Settings::BARE_IP, bare));
    };
    let v4: [fn() -> Ipv4; 4] = [
        || v4_carrying(Tcp::syn_to(80)),
        || v4_carrying(Udp::new(49152, 53, &[0; 40])),
        || v4_carrying(Icmp::V4),
        || v4_carrying(Tcp::new(25, 49152, flags::SYN | flags::ACK)),
    ];
    for packet in v4 {
        add(&|link| link.carrying(&packet()), Packet::bytes(&packet()));
    }
    add(&|link| link.carrying(&v4_carrying(web())), Packet::bytes(&v4_carrying(web())));
    let v6: [fn() -> Ipv6; 3] = [
        || v6_carrying(Tcp::syn_to(80)),
        || v6_carrying(Udp::new(49152, 53, &[0; 40])),
        || v6_carrying(Icmp::V6),
    ];
    for packet in v6 {
        add(&|link| link.carrying(&packet()), Packet::bytes(&packet()));
    }
    add(&|link| link.carrying(&v6_carrying(web())), Packet::bytes(&v6_carrying(web())));
    frames.push((Settings(0), Ethernet::new().frame(0x0806, &[0; 46])));
    frames
}

fn v4_carrying(payload: impl Payload + 'static) -> Ipv4 {
    Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(payload)
}

fn v6_carrying(payload: impl Payload + 'static) -> Ipv6 {
    Ipv6::new(DYNAMIC.v6, OUTSIDE.v6).carrying(payload)
}

/// What a function makes use of.
#[derive(Debug, PartialEq, Eq)]
enum Use {
    /// Another function of the program.
    Function,
    Helper,
    Map,
}

/// What a program's first function makes use of, by the instructions that the kernel translated it
/// to: 8 bytes each, operation, registers, offset, and a number (linux/bpf.h).
fn entry(code: &[u8]) -> Vec<Use> {
    const CALL: u8 = 0x85;
    const LOAD_WIDE: u8 = 0x18;
    const PSEUDO_CALL: u8 = 1;
    const PSEUDO_MAP: u8 = 1;
    let mut uses = Vec::new();
    let (mut at, mut end) = (0, code.len() / 8);
    while at < end {
        let instruction = &code[at * 8..at * 8 + 8];
        match (instruction[0], instruction[1] >> 4) {
            (CALL, PSEUDO_CALL) => {
                // The functions follow each other: the entry ends where the first of those that it
                // calls begins.
                let offset = i16::from_le_bytes([instruction[2], instruction[3]]);
                let target = usize::try_from(at as i64 + 1 + i64::from(offset));
                end = end.min(target.expect("further on"));
                uses.push(Use::Function);
            }
            (CALL, _) => uses.push(Use::Helper),
            (LOAD_WIDE, source) => {
                uses.extend((source == PSEUDO_MAP).then_some(Use::Map));
                at += 1;
            }
            _ => {}
        }
        at += 1;
    }
    assert!(end < code.len() / 8, "the entry is all there is");
    uses
}
