//! The command line from outside: exit codes, what goes to which stream, and the shapes of the JSON.
//!
//! Nothing here needs root: what does is in `kernel.rs`.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::{self, JoinHandle},
};

use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "cli/node_file.rs"]
mod node_file;

const POLICY: &str = "\
version: 1
relays:
  so-net: {addresses: [198.51.100.25, \"2001:db8:25::/64\"]}
  other: {addresses: [198.51.100.99]}
groups:
  flets-dynamic:
    prefixes: [203.0.113.0/24, \"2001:db8:1000::/36\"]
    relays: [so-net]
    downstream: drop
  pilot: {prefixes: [192.0.2.0/24], action: monitor, match: any, ports: [25, 2525]}
exemptions:
  - {prefix: 203.0.113.77/32, reason: contract 1234, until: \"2999-03-31T00:00:00Z\"}
";

/// A directory of this test's own, with the policy in it.
struct Bench {
    directory: TempDir,
}

/// How a command ended.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { directory: tempfile::tempdir().expect("a directory") };
        bench.write("policy.yaml", POLICY);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file");
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_opb"));
        command.args(arguments).current_dir(self.directory.path());
        for variable in ["OPB_CONFIG", "OPB_CONTROL", "OPB_LOG"] {
            command.env_remove(variable);
        }
        command
    }

    fn opb(&self, arguments: &[&str]) -> Ended {
        ended(self.command(arguments).output().expect("opb runs"))
    }

    fn explain(&self, arguments: &[&str]) -> Value {
        let all = [&["explain", "--policy", "policy.yaml", "--json"], arguments].concat();
        let ended = self.opb(&all);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        serde_json::from_str(&ended.stdout).expect("one JSON document")
    }
}

fn ended(output: Output) -> Ended {
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Answers one request on `socket`, and gives its first line.
fn answer(socket: &Path, status: &str, body: &Value) -> JoinHandle<String> {
    let listener = UnixListener::bind(socket).expect("a socket");
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a request");
            request.extend(byte);
        }
        stream.write_all((head + &body).as_bytes()).expect("the client listens");
        let request = String::from_utf8(request).expect("text");
        request.lines().next().unwrap_or_default().to_owned()
    })
}

#[test]
fn wrong_use_exits_with_2_and_says_so_on_stderr() {
    let bench = Bench::new();
    let ended =
        bench.opb(&["explain", "--flags", "SX", "--src", "192.0.2.1", "--dst", "192.0.2.2"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
    assert_eq!(
        ended.stderr,
        "opb: error: invalid value 'SX' for '--flags <FLAGS>': `X` is no TCP flag: write the letters of S, A, F, R, P, U that are set\n\
         hint: `--help` says more\n"
    );
    let ended = bench.opb(&[]);
    assert_eq!(ended.code, Some(2));
    assert_eq!(ended.stderr, "opb: error: no command is given\nhint: `opb --help` lists them\n");
}

#[test]
fn help_is_data() {
    let bench = Bench::new();
    for arguments in [["--help"], ["--version"]] {
        let ended = bench.opb(&arguments);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        assert!(ended.stdout.contains("opb"), "{}", ended.stdout);
    }
}

#[test]
fn a_reader_that_has_left_is_no_error() {
    let bench = Bench::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = bench.command(&["check", "policy.yaml"]);
    let output = command.stdout(writer).stderr(Stdio::piped()).output().expect("opb runs");
    let ended = ended(output);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

#[test]
fn check_tells_valid_from_invalid() {
    let bench = Bench::new();
    let ended = bench.opb(&["check", "policy.yaml"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let counts = "groups: 2, IPv4 prefixes: 2, IPv6 prefixes: 1, relay sets: 2, exemptions: 1";
    assert!(ended.stdout.starts_with(&format!("policy.yaml: valid ({counts}, digest: ")));

    bench.write("broken.yaml", "version: 1\ngroups:\n  a: {prefixes: [203.0.113.1/24]}\nx: 1\n");
    let ended = bench.opb(&["check", "broken.yaml"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
    let errors = ended.stderr.lines().filter(|line| line.starts_with("opb: error: "));
    assert_eq!(errors.count(), 2, "all errors at once: {}", ended.stderr);
    assert!(ended.stderr.contains("opb: error: broken.yaml:3:18: "), "{}", ended.stderr);

    let ended = bench.opb(&["check", "--json", "broken.yaml"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(2), ""));
    let report: Value = serde_json::from_str(&ended.stdout).expect("one JSON document");
    assert_eq!(report["list"].as_array().map(Vec::len), Some(2));
    assert_eq!(report["list"][0]["line"], 3);
}

#[test]
fn check_follows_a_node_file_to_its_policy() {
    let bench = Bench::new();
    bench.write(
        "opb.yaml",
        "version: 1\npolicy: policy.yaml\ninterfaces: [{name: lo, role: core}]\n",
    );
    let ended = bench.opb(&["check", "opb.yaml"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert!(ended.stdout.starts_with("opb.yaml: valid"), "{}", ended.stdout);
}

#[test]
fn explain_names_verdict_reason_and_counter() {
    let bench = Bench::new();
    let cases: &[(&[&str], &str, &str, Option<&str>)] = &[
        (&["--src", "203.0.113.9", "--dst", "192.0.2.1"], "drop", "policy", Some("flets-dynamic")),
        (
            &["--src", "203.0.113.9", "--dst", "198.51.100.25"],
            "pass",
            "relay",
            Some("flets-dynamic"),
        ),
        (
            &["--src", "203.0.113.9", "--dst", "198.51.100.99"],
            "drop",
            "policy",
            Some("flets-dynamic"),
        ),
        (&["--src", "203.0.113.77", "--dst", "192.0.2.1"], "pass", "exempt", Some("flets-dynamic")),
        (&["--src", "198.18.0.1", "--dst", "192.0.2.1"], "pass", "unknown", None),
        (
            &["--src", "192.0.2.1", "--dst", "198.18.0.1", "--flags", "A"],
            "would-drop",
            "policy",
            Some("pilot"),
        ),
        (
            &["--src", "203.0.113.9", "--dst", "192.0.2.1", "--flags", "sa"],
            "pass",
            "not-syn",
            Some("flets-dynamic"),
        ),
        (&["--src", "203.0.113.9", "--dst", "192.0.2.1", "--dport", "587"], "pass", "other", None),
        (
            &["--src", "203.0.113.9", "--dst", "192.0.2.1", "--dport", "2525"],
            "pass",
            "not-filtered",
            Some("flets-dynamic"),
        ),
        (
            &["--src", "2001:db8:1000::9", "--dst", "2001:db8::1"],
            "drop",
            "policy",
            Some("flets-dynamic"),
        ),
        (
            &["--src", "2001:db8:1000::9", "--dst", "2001:db8:25::1"],
            "pass",
            "relay",
            Some("flets-dynamic"),
        ),
        (
            &["--src", "192.0.2.1", "--dst", "203.0.113.9", "--direction", "downstream"],
            "drop",
            "policy",
            Some("flets-dynamic"),
        ),
        (
            &["--src", "198.51.100.25", "--dst", "203.0.113.9", "--direction", "downstream"],
            "pass",
            "relay",
            Some("flets-dynamic"),
        ),
        (
            &["--src", "198.18.0.1", "--dst", "192.0.2.1", "--direction", "downstream"],
            "pass",
            "not-filtered",
            Some("pilot"),
        ),
    ];
    for (arguments, verdict, reason, group) in cases {
        let explained = bench.explain(arguments);
        let found = (&explained["verdict"], &explained["reason"], &explained["group"]);
        assert_eq!(found, (&json!(verdict), &json!(reason), &json!(group)), "{arguments:?}");
        let direction = if arguments.contains(&"downstream") { "downstream" } else { "upstream" };
        let counter = json!({
            "group": group.unwrap_or("-"), "direction": direction, "verdict": verdict, "reason": reason,
        });
        let counter = if *reason == "other" { Value::Null } else { counter };
        assert_eq!(explained["counter"], counter, "{arguments:?}");
        let chain = explained["chain"].to_string();
        assert!(!chain.contains("otherwise"), "policy and image disagree: {chain}");
    }
}

#[test]
fn explain_gives_the_chain_of_reasons() {
    let bench = Bench::new();
    let explain = ["explain", "--policy", "policy.yaml", "--src", "203.0.113.9", "--dst"];
    let ended = bench.opb(&[&explain[..], &["198.51.100.99"]].concat());
    assert_eq!(
        ended.stdout,
        "\
203.0.113.9 to 198.51.100.99, upstream: drop (policy)
  1. the longest prefix that covers 203.0.113.9 is 203.0.113.0/24 of group flets-dynamic
  2. group flets-dynamic filters destination port 25
  3. `match: syn`: the packet opens a connection, so it is judged
  4. 198.51.100.99 is in relay set other, which group flets-dynamic does not list
  5. `action: drop`: the packet is dropped
counted as: group flets-dynamic, upstream, drop, policy
"
    );
    let exempt = bench.explain(&["--src", "203.0.113.77", "--dst", "192.0.2.1"]);
    assert_eq!(
        exempt["chain"][0],
        "the longest prefix that covers 203.0.113.77 is 203.0.113.77/32, an exemption until 2999-03-31T00:00:00Z (contract 1234)"
    );
}

/// Two lines behind one AFTR, one of them exempt; a 6to4 line; a relay behind NAT64.
const SOFTWIRES: &str = "\
softwires:
  transix: {endpoints: [\"2001:db8:af::1\"]}
nat64: [\"64:ff9b::/96\"]
";

#[test]
fn explain_names_the_line_of_a_packet_in_a_tunnel() {
    let bench = Bench::new();
    let exempt = "  - {prefix: \"2001:db8:1000:77::/64\", reason: contract 77}\n";
    bench.write("policy.yaml", &format!("{POLICY}{exempt}{SOFTWIRES}"));
    let line = |line: &str, end: &str, to: &str| {
        let outer = ["--outer-src", line, "--outer-dst", end];
        bench.explain(&[&["--src", "192.168.1.5", "--dst", to][..], &outer].concat())
    };
    let (mine, neighbour) = ("2001:db8:1000:9::1", "2001:db8:1000:77::1");
    for (outer, to, expected) in [
        ((mine, "2001:db8:af::1"), "192.0.2.25", ["drop", "policy", mine]),
        ((mine, "2001:db8:af::1"), "198.51.100.25", ["pass", "relay", mine]),
        ((neighbour, "2001:db8:af::1"), "192.0.2.25", ["pass", "exempt", neighbour]),
        ((mine, "2001:db8:bad::1"), "192.0.2.25", ["pass", "unknown", "192.168.1.5"]),
    ] {
        let explained = line(outer.0, outer.1, to);
        let found = [&explained["verdict"], &explained["reason"], &explained["line"]];
        assert_eq!(found, expected.map(|text| json!(text)).each_ref(), "{outer:?} {to}");
    }
    let chain = &line(mine, "2001:db8:af::1", "192.0.2.25")["chain"];
    assert_eq!(
        chain[0],
        "2001:db8:af::1 is an endpoint of softwire transix: the outer address 2001:db8:1000:9::1 names the line"
    );
    let six_to_four = bench.explain(&[
        "--src",
        "2002:cb00:7109::1",
        "--dst",
        "2001:db8:7000::25",
        "--outer-src",
        "203.0.113.9",
        "--outer-dst",
        "192.88.99.1",
    ]);
    assert_eq!(
        (&six_to_four["line"], &six_to_four["verdict"]),
        (&json!("203.0.113.9"), &json!("drop"))
    );
    let relay = bench.explain(&["--src", mine, "--dst", "64:ff9b::198.51.100.25"]);
    assert_eq!(relay["reason"], "relay");
    assert!(relay["chain"].to_string().contains("relay set so-net"), "{relay}");

    let half = bench.opb(&["explain", "--src", "::1", "--dst", "::2", "--outer-src", "::3"]);
    assert_eq!(half.code, Some(2), "{}", half.stderr);
}

#[test]
fn diff_lists_endpoints_of_softwires() {
    let bench = Bench::new();
    bench.write("new.yaml", &format!("{POLICY}{SOFTWIRES}"));
    let ended = bench.opb(&["diff", "policy.yaml", "new.yaml", "--json"]);
    let rows: Vec<Value> = (ended.stdout.lines())
        .map(|line| serde_json::from_str(line).expect("one JSON document a line"))
        .collect();
    let (changes, last) = (&rows[..rows.len() - 1], &rows[rows.len() - 1]);
    let range = |at: &str| json!({"first": at, "last": at});
    assert_eq!(*last, json!({"endpoints_gained": [range("2001:db8:af::1")]}));
    // The relay's address behind NAT64, for IPv6 subscribers.
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0]["relays_gained"], json!([range("64:ff9b::c633:6419")]));
    let ended = bench.opb(&["diff", "new.yaml", "policy.yaml"]);
    assert!(
        ended.stdout.starts_with("endpoints of softwires: -2001:db8:af::1\n"),
        "{}",
        ended.stdout
    );
}

#[test]
fn explain_refuses_what_no_packet_can_be() {
    let bench = Bench::new();
    let ended =
        bench.opb(&["explain", "--policy", "policy.yaml", "--src", "192.0.2.1", "--dst", "::1"]);
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        "opb: error: 192.0.2.1 and ::1 are of different families: no packet carries both\n"
    );
    let ended = bench.opb(&[
        "explain",
        "--policy",
        "none.yaml",
        "--src",
        "192.0.2.1",
        "--dst",
        "192.0.2.2",
    ]);
    assert_eq!(ended.code, Some(2), "an invalid policy: {}", ended.stderr);
}

#[test]
fn without_a_daemon_its_clients_fail() {
    let bench = Bench::new();
    for arguments in [
        &["status"][..],
        &["reload"],
        &["counters"],
        &["explain", "--src", "192.0.2.1", "--dst", "192.0.2.2"],
    ] {
        let ended = bench.opb(&[arguments, &["--control", "none.sock"]].concat());
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{arguments:?}");
        assert_eq!(
            ended.stderr,
            "opb: error: no daemon answers at none.sock\n\
             caused by: No such file or directory (os error 2)\n\
             hint: start it with `opb run`, or name its socket with --control\n"
        );
    }
}

#[test]
fn a_rejected_reload_exits_with_2() {
    let bench = Bench::new();
    let socket = bench.path("opb.sock");
    let rejected =
        json!({"outcome": "rejected", "errors": [{"text": "a.yaml:1:1: wrong", "line": 1}]});
    let server = answer(&socket, "422 Unprocessable Entity", &rejected);
    let ended = bench.opb(&["reload", "--control", "opb.sock"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), "rejected\n"));
    assert_eq!(
        ended.stderr,
        "opb: error: a.yaml:1:1: wrong\nhint: the policy that was in force stays in force\n"
    );
    assert_eq!(server.join().expect("answered"), "POST /v1/reload HTTP/1.1");
}

#[test]
fn explain_asks_the_daemon_what_it_was_asked() {
    let bench = Bench::new();
    let refusal = json!({"error": "no policy is in force", "causes": ["nobody published one"]});
    let server = answer(&bench.path("opb.sock"), "500 Internal Server Error", &refusal);
    let arguments =
        ["explain", "--src", "2001:db8::1", "--dst", "2001:db8::2", "--control", "opb.sock"];
    let ended = bench.opb(&arguments);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert_eq!(
        ended.stderr,
        "opb: error: no policy is in force\ncaused by: nobody published one\n"
    );
    assert_eq!(
        server.join().expect("answered"),
        "GET /v1/explain?src=2001%3Adb8%3A%3A1&dst=2001%3Adb8%3A%3A2&flags=S&direction=upstream HTTP/1.1"
    );
}

#[test]
fn counters_are_json_lines() {
    let bench = Bench::new();
    let row = |group: &str, packets: u64| json!({"group": group, "direction": "upstream", "verdict": "drop", "reason": "policy", "packets": packets, "bytes": 54});
    let server = answer(&bench.path("opb.sock"), "200 OK", &json!([row("a", 1), row("-", 2)]));
    let ended = bench.opb(&["counters", "--json", "--control", "opb.sock"]);
    assert_eq!(ended.code, Some(0));
    assert_eq!(
        ended.stdout,
        "\
{\"group\":\"a\",\"direction\":\"upstream\",\"verdict\":\"drop\",\"reason\":\"policy\",\"packets\":1,\"bytes\":54}
{\"group\":\"-\",\"direction\":\"upstream\",\"verdict\":\"drop\",\"reason\":\"policy\",\"packets\":2,\"bytes\":54}
"
    );
    server.join().expect("answered");
}

#[test]
fn run_refuses_invalid_files_before_it_touches_anything() {
    let bench = Bench::new();
    let ended = bench.opb(&["run", "--config", "none.yaml"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
    assert!(ended.stderr.starts_with("opb: error: none.yaml: "), "{}", ended.stderr);

    bench.write("policy.yaml", "version: 1\ngroups: []\n");
    let (control, pins) = (bench.path("opb.sock"), bench.path("pins"));
    let (control_line, pins_line) = (control.display(), pins.display());
    bench.write(
        "opb.yaml",
        &format!(
            "version: 1\npolicy: policy.yaml\ninterfaces: [{{name: lo, role: core}}]\ncontrol: {control_line}\npins: {pins_line}\n"
        ),
    );
    let ended = bench.opb(&["run", "--config", "opb.yaml"]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(!control.exists() && !pins.exists());
}

#[test]
fn diff_lists_the_ranges_that_two_policies_treat_differently() {
    let bench = Bench::new();
    let (wide, narrow) = ("203.0.113.0/24", "203.0.113.0/25");
    bench.write("new.yaml", &POLICY.replace(wide, narrow).replace("monitor", "drop"));
    let ended = bench.opb(&["diff", "policy.yaml", "new.yaml", "--json"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let rows: Vec<Value> = (ended.stdout.lines())
        .map(|line| serde_json::from_str(line).expect("one JSON document a line"))
        .collect();
    let found: Vec<_> = (rows.iter())
        .map(|row| {
            (&row["first"], &row["last"], &row["old"]["treatment"], &row["new"]["treatment"])
        })
        .collect();
    let (group, unknown) = (&json!("group"), &json!("unknown"));
    assert_eq!(
        found,
        [
            (&json!("192.0.2.0"), &json!("192.0.2.255"), group, group),
            (&json!("203.0.113.128"), &json!("203.0.113.255"), group, unknown),
        ]
    );
    assert_eq!(
        (&rows[0]["old"]["action"], &rows[0]["new"]["action"]),
        (&json!("monitor"), &json!("drop"))
    );
    let ended = bench.opb(&["diff", "policy.yaml", "policy.yaml"]);
    let expected = (Some(0), "no address is treated differently\n");
    assert_eq!((ended.code, ended.stdout.as_str()), expected);
    let ended = bench.opb(&["diff", "policy.yaml", "nowhere.yaml"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{}", ended.stderr);
}
