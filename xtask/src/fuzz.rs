//! Fuzzing: cargo-fuzz with seeds of ours, and the generated frames that compare two judges.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use opb_lab::packets::{Row, rows};

use crate::exec::{cargo, exec, root, target_dir};
use crate::setup;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fuzzes this target only; without it, one after the other
    target: Option<Target>,
    /// How long each target is fuzzed
    #[arg(long, default_value_t = 300, value_name = "N")]
    seconds: u32,
    /// Compares generated frames instead: host against kernel (as root), and host against a foreign parser
    #[arg(long, conflicts_with_all = ["target", "seconds"])]
    differential: bool,
    /// Frames for host against kernel; a tenth of them goes to the foreign parser
    #[arg(long, default_value_t = 10_000_000, requires = "differential", value_name = "N")]
    frames: u64,
    /// Another sequence of frames
    #[arg(long, default_value_t = 37, requires = "differential", value_name = "N")]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Target {
    /// Frames through the verdict
    Decide,
    /// Texts through the policy parser
    Policy,
    /// Bytes through the capture reader
    Capture,
    /// Requests at the read-only listener
    Http,
    /// Requests at the control socket, and changes of entries
    Control,
    /// Answers of name servers
    Dns,
    /// Files as the store of entries
    Store,
    /// Messages of the kernel
    Netlink,
    /// Accounting requests
    Radius,
}

impl Target {
    const fn name(self) -> &'static str {
        match self {
            Self::Decide => "decide",
            Self::Policy => "policy",
            Self::Capture => "capture",
            Self::Http => "http",
            Self::Control => "control",
            Self::Dns => "dns",
            Self::Store => "store",
            Self::Netlink => "netlink",
            Self::Radius => "radius",
        }
    }
}

pub(crate) fn run(args: Args) -> Result<()> {
    setup::build()?;
    if args.differential {
        return differential(args.frames, args.seed);
    }
    let installed = Command::new("cargo-fuzz").arg("--version").output();
    ensure!(
        installed.is_ok_and(|output| output.status.success()),
        "cargo-fuzz is missing; run: cargo install cargo-fuzz"
    );
    for target in Target::value_variants() {
        if args.target.is_none_or(|wanted| wanted.name() == target.name()) {
            fuzz(*target, args.seconds)?;
        }
    }
    Ok(())
}

/// The very tests of the lanes, with more frames.
fn differential(frames: u64, seed: u64) -> Result<()> {
    ensure!(setup::is_root()?, "comparing with the kernel needs root");
    let test = |name: &str| {
        let mut cmd = cargo("test");
        cmd.args(["--package", "opb-userspace", "--test", name, "--"]);
        cmd
    };
    exec(
        test("verdict")
            .args(["--exact", "oracle::oracle_agrees"])
            .env("OPB_ORACLE_FRAMES", (frames / 10).to_string()),
    )?;
    exec(
        test("differential")
            .args(["--ignored", "--nocapture"])
            .env("OPB_FRAMES", frames.to_string())
            .env("OPB_SEED", seed.to_string()),
    )
}

fn fuzz(target: Target, seconds: u32) -> Result<()> {
    let fuzz = root().join("fuzz");
    let corpus = fuzz.join("corpus").join(target.name());
    fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    seed(target, &corpus)?;

    // -Zsanitizer wants nightly; the sanitizers' runtime comes with it, rust-src is not needed.
    let mut cmd = Command::new("rustup");
    cmd.args(["run", "nightly", "cargo", "fuzz", "run", "--fuzz-dir", ".", target.name()]);
    // Set by the outer cargo, to the outer compiler.
    cmd.env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    cmd.current_dir(&fuzz).env("CARGO_TARGET_DIR", target_dir()?.join("fuzz"));
    cmd.args(["--", &format!("-max_total_time={seconds}"), "-timeout=10", "-print_final_stats=1"]);
    exec(&mut cmd)
}

/// What the tests know already is where the fuzzer starts.
fn seed(target: Target, corpus: &Path) -> Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let file = corpus.join(name);
        fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))
    };
    match target {
        Target::Decide => {
            for Row { name, frame, settings, tags_out_of_band, .. } in rows() {
                let first = settings.0 as u8 & 0x7f | if tags_out_of_band > 0 { 0x80 } else { 0 };
                write(&name, &[&[first], &*frame].concat())?;
            }
        }
        Target::Policy => {
            for directory in ["valid", "invalid"] {
                let directory = root().join("tests/fixtures/policies").join(directory);
                for (number, file) in files(&directory)?.iter().enumerate() {
                    let name = directory.file_name().unwrap_or_default().to_string_lossy();
                    write(&format!("{name}-{number}"), &fs::read(file)?)?;
                }
            }
        }
        Target::Capture => {
            // A few packets of the table: more would only make the fuzzer slower.
            let frames: Vec<_> = rows().into_iter().step_by(50).map(|row| row.frame).collect();
            write("pcap", &pcap(&frames))?;
            write("pcapng", &pcapng(&frames))?;
        }
        Target::Http => {
            for (number, path) in
                ["/", "/?src=203.0.113.9&dst=192.0.2.25", "/live?lang=ja", "/metrics", "/healthz"]
                    .iter()
                    .enumerate()
            {
                let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
                write(&number.to_string(), head.repeat(2).as_bytes())?;
            }
        }
        Target::Control => {
            let entry = r#"{"prefix":"203.0.113.9/32","group":"a","reason":"x","until":"2030-01-01T00:00:00Z"}"#;
            let body = format!("{{\"entries\":[{entry}],\"partial\":true}}");
            write("add", body.as_bytes())?;
            write("remove", br#"-{"prefixes":["203.0.113.9/32"],"if_reason":"x"}"#)?;
            let head = "POST /v1/subscribers?confirm=5 HTTP/1.1\r\nhost: opb\r\ncontent-type: application/json\r\n";
            let length = body.len();
            write("post", format!("!{head}content-length: {length}\r\n\r\n{body}").as_bytes())?;
            for path in ["status", "explain?src=192.0.2.1&dst=192.0.2.2", "events?after=1&wait=1"] {
                let name: String = path.chars().filter(char::is_ascii_alphabetic).collect();
                write(&name, format!("!GET /v1/{path} HTTP/1.1\r\nhost: opb\r\n\r\n").as_bytes())?;
            }
        }
        Target::Dns => write("answer", ANSWER)?,
        Target::Store => {
            // Whole stores of every kind are what a daemon leaves behind: an empty file is where the fuzzer starts.
            write("empty", &[])?;
        }
        Target::Radius => write("start", START)?,
        Target::Netlink => {
            // A message of one interface: its name within it.
            let body = [[0; 16].as_slice(), &[9, 0, 3, 0], b"sub0\0\0\0\0"].concat();
            let header =
                [(16 + body.len() as u32).to_ne_bytes(), [16, 0, 2, 0], [1, 0, 0, 0], [0; 4]];
            write("link", &[header.concat(), body].concat())?;
        }
    }
    Ok(())
}

/// An Accounting-Request with Acct-Status-Type, Acct-Session-Id, Framed-IP-Address, Filter-Id and
/// Delegated-IPv6-Prefix.
const START: &[u8] = b"\x04\x01\x00\x43\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
    \x28\x06\0\0\0\x01\x2c\x04s1\x08\x06\xcb\0\x71\x09\x0b\x09opb:dyn\
    \x7b\x0c\0\x38\x20\x01\x0d\xb8\x10\0\x01\0\x01\x04me\x37\x06\x65\0\0\0";

/// RFC 1035: `mx.` has the address 192.0.2.25 for 60 seconds.
const ANSWER: &[u8] = b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\x02mx\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x19";

/// All files below `directory`.
fn files(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// draft-ietf-opsawg-pcap, Ethernet.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for frame in frames {
        let length = frame.len() as u32;
        for word in [0, 0, length, length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    bytes
}

/// draft-ietf-opsawg-pcapng: one section, one Ethernet interface, enhanced and simple packets in turn.
fn pcapng(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut block = |kind: u32, words: &[u32], data: &[u8]| {
        let length = 12 + 4 * words.len() + data.len().next_multiple_of(4);
        bytes.extend(kind.to_le_bytes());
        bytes.extend((length as u32).to_le_bytes());
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend((length as u32).to_le_bytes());
    };
    block(0x0a0d_0d0a, &[0x1a2b_3c4d, 1, u32::MAX, u32::MAX], &[]);
    block(1, &[1, 65_535], &[]);
    for (number, frame) in frames.iter().enumerate() {
        let length = frame.len() as u32;
        if number % 2 == 0 {
            block(6, &[0, 0, 0, length, length], frame);
        } else {
            block(3, &[length], frame);
        }
    }
    bytes
}
