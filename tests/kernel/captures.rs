//! `opb replay` and `opb explain --policy` on captures of packet-table rows: both say what the row says.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use opb_common::{outcome::Reason, settings::Settings};
use opb_lab::packets::{POLICY, Row, rows};
use opb_userspace::kernel::ReplayHook;
use serde_json::{Value, json};

use crate::judges::{named, takes};

const OPB: &str = env!("CARGO_BIN_EXE_opb");

/// The options of `opb replay` for an interface.
const ROLES: [(Settings, [&str; 4]); 4] = [
    (Settings::SUBSCRIBER, ["--role", "subscriber", "--direction", "upstream"]),
    (
        Settings(Settings::SUBSCRIBER.0 | Settings::DOWNSTREAM.0),
        ["--role", "subscriber", "--direction", "downstream"],
    ),
    (Settings(0), ["--role", "core", "--direction", "upstream"]),
    (Settings::DOWNSTREAM, ["--role", "core", "--direction", "downstream"]),
];

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn replay_says_what_the_rows_say() {
    let directory = tempfile::tempdir().expect("a directory");
    let policy = policy(directory.path());
    let rows = without_bypass();
    let (mut replayed, mut named_lines) = (0, 0);
    for (settings, role) in ROLES {
        let fits = |row: &&Row| {
            row.host_only.is_none()
                && takes(ReplayHook::Tc, &row.frame)
                && row.settings.0 & !Settings::BARE_IP.0 == settings.0
        };
        let (bare, ethernet): (Vec<&Row>, Vec<&Row>) =
            rows.iter().filter(fits).partition(|row| row.settings.has(Settings::BARE_IP));
        let mixed: Vec<_> = ethernet.iter().chain(&bare).copied().collect();
        let captures = [
            ("ethernet.pcap", pcap(1, &ethernet), &ethernet),
            ("raw.pcap", pcap(101, &bare), &bare),
            ("mixed.pcapng", pcapng(&mixed), &mixed),
        ];
        for (name, bytes, rows) in captures {
            let capture = directory.path().join(name);
            fs::write(&capture, bytes).expect("a file");
            for hook in ["xdp", "tc"] {
                let mut command = Command::new(OPB);
                command.arg("replay").arg(&capture).args(["--json", "--hook", hook]).args(role);
                let lines = json_lines(command.arg("--policy").arg(&policy));
                let (summary, lines) = lines.split_last().expect("a summary");
                assert_eq!(summary["summary"]["packets"], json!(rows.len()));
                assert_eq!(lines.len(), rows.len(), "{role:?} {hook} {name}");
                for (index, (row, line)) in rows.iter().zip(lines).enumerate() {
                    let mut line = line.clone();
                    // There only where another address than the packet's own names the line.
                    named_lines += usize::from(line["line"].is_string());
                    line.as_object_mut().expect("an object").remove("line");
                    let expected = json!({
                        "packet": index + 1,
                        "verdict": row.expected.verdict.name(),
                        "reason": row.expected.reason.name(),
                        "group": row.expected.group,
                    });
                    assert_eq!(line, expected, "{role:?} {hook} {name}: {}", row.name);
                    replayed += 1;
                }
            }
        }
    }
    assert!(replayed > 600, "only {replayed} packets");
    assert!(named_lines > 40, "only {named_lines} packets are another line's");
}

#[test]
fn explain_says_what_the_rows_say() {
    let directory = tempfile::tempdir().expect("a directory");
    let policy = policy(directory.path());
    let mut explained = 0;
    for row in without_bypass() {
        let Some(mut arguments) = question(&row) else { continue };
        let direction =
            if row.settings.has(Settings::DOWNSTREAM) { "downstream" } else { "upstream" };
        arguments.extend(["--direction", direction].map(str::to_owned));
        let mut command = Command::new(OPB);
        command.args(["explain", "--json", "--policy"]).arg(&policy).args(&arguments);
        let lines = json_lines(&mut command);
        let text = |key: &str| lines[0][key].as_str();
        let got =
            named(text("verdict").unwrap_or("?"), text("reason").unwrap_or("?"), text("group"));
        let expected = row.expected;
        let expected = named(expected.verdict.name(), expected.reason.name(), expected.group);
        assert_eq!(got, expected, "{}: {arguments:?}", row.name);
        let chain = lines[0]["chain"].to_string();
        assert!(
            !chain.contains("the compiled policy differs"),
            "{}: policy and image disagree: {chain}",
            row.name
        );
        explained += 1;
    }
    assert!(explained > 80, "only {explained} rows");
}

/// The commands know files alone, and a bypass is in no file.
fn without_bypass() -> Vec<Row> {
    rows().into_iter().filter(|row| row.expected.reason != Reason::Bypass).collect()
}

/// The arguments that ask `opb explain` about the packet of `row`, if it has nothing but what they can say.
fn question(row: &Row) -> Option<Vec<String>> {
    // A length that lies is nothing that can be asked.
    let plain = Settings(Settings::SUBSCRIBER.0 | Settings::DOWNSTREAM.0);
    if row.settings.0 & !plain.0 != 0
        || row.tags_out_of_band != 0
        || row.expected.reason == Reason::Malformed
    {
        return None;
    }
    let packet = SlicedPacket::from_ethernet(&row.frame).ok()?;
    if !packet.link_exts.is_empty() {
        return None;
    }
    let (source, destination, headers): (IpAddr, IpAddr, _) = match packet.net? {
        NetSlice::Ipv4(ip) if ip.header().options().is_empty() && !ip.is_payload_fragmented() => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into(), 14 + 20)
        }
        NetSlice::Ipv6(ip) if ip.extensions().is_empty() => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into(), 14 + 40)
        }
        _ => return None,
    };
    let TransportSlice::Tcp(tcp) = packet.transport? else { return None };
    if tcp.slice().len() + headers != row.frame.len() || tcp.ece() || tcp.cwr() || tcp.ns() {
        return None;
    }
    let flags = [
        ('S', tcp.syn()),
        ('A', tcp.ack()),
        ('F', tcp.fin()),
        ('R', tcp.rst()),
        ('P', tcp.psh()),
        ('U', tcp.urg()),
    ];
    let flags: String = flags.into_iter().filter_map(|(name, set)| set.then_some(name)).collect();
    let (sport, dport) = (tcp.source_port(), tcp.destination_port());
    let asked = format!(
        "--src {source} --dst {destination} --sport {sport} --dport {dport} --flags={flags}"
    );
    Some(asked.split(' ').map(str::to_owned).collect())
}

fn policy(directory: &Path) -> PathBuf {
    let path = directory.join("policy.yaml");
    fs::write(&path, POLICY).expect("a file");
    path
}

fn json_lines(command: &mut Command) -> Vec<Value> {
    command.env_remove("OPB_CONTROL").env_remove("OPB_CONFIG");
    let output = command.output().expect("opb runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {} {stderr}", output.status);
    let stdout = String::from_utf8(output.stdout).expect("text");
    stdout.lines().map(|line| serde_json::from_str(line).expect("JSON Lines")).collect()
}

/// draft-ietf-opsawg-pcap.
fn pcap(link_type: u32, rows: &[&Row]) -> Vec<u8> {
    let mut file = Words::default();
    file.u32(0xa1b2_c3d4).u16(2).u16(4).u32(0).u32(0).u32(262_144).u32(link_type);
    for (seconds, row) in (0..).zip(rows) {
        let length = row.frame.len() as u32;
        file.u32(seconds).u32(0).u32(length).u32(length).0.extend(&row.frame);
    }
    file.0
}

/// draft-ietf-opsawg-pcapng: one section with two interfaces, Ethernet and raw IP.
fn pcapng(rows: &[&Row]) -> Vec<u8> {
    let mut file = Words::default();
    file.block(0x0a0d_0d0a, Words::default().u32(0x1a2b_3c4d).u16(1).u16(0).u32(!0).u32(!0));
    for link_type in [1, 101] {
        file.block(1, Words::default().u16(link_type).u16(0).u32(0));
    }
    for row in rows {
        let interface = u32::from(row.settings.has(Settings::BARE_IP));
        let length = row.frame.len() as u32;
        let mut packet = Words::default();
        packet.u32(interface).u32(0).u32(0).u32(length).u32(length).0.extend(&row.frame);
        file.block(6, &mut packet);
    }
    file.0
}

/// Little-endian numbers.
#[derive(Default)]
struct Words(Vec<u8>);

impl Words {
    fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// A pcapng block, padded.
    fn block(&mut self, kind: u32, body: &mut Self) {
        body.0.resize(body.0.len().next_multiple_of(4), 0);
        let length = body.0.len() as u32 + 12;
        self.u32(kind).u32(length).0.extend(&body.0);
        self.u32(length);
    }
}
