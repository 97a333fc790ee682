//! The command line from outside: exit codes, what goes to which stream, and the shapes of the JSON.
//!
//! Nothing here needs root; the suites `live` and `lifecycle` run commands that do.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

mod clients;
mod diff;
mod explain;
mod help;
mod node_file;
mod stumbles;

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

/// Two lines behind one AFTR, one of them exempt; a 6to4 line; a relay behind NAT64.
const SOFTWIRES: &str = "\
softwires:
  transix: {endpoints: [\"2001:db8:af::1\"]}
nat64: [\"64:ff9b::/96\"]
";

/// A directory for one test, with the policy in it.
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

#[test]
fn wrong_use_exits_with_2_and_says_so_on_stderr() {
    let bench = Bench::new();
    let ended =
        bench.opb(&["explain", "--flags", "SX", "--src", "192.0.2.1", "--dst", "192.0.2.2"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
    assert_eq!(
        ended.stderr,
        "opb: error: invalid value 'SX' for '--flags <FLAGS>': `X` is not a TCP flag: expected letters of SAFRPU, for example S or SA\n\
         hint: `--help` lists the options\n"
    );
    let ended = bench.opb(&[]);
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        "opb: error: no command is given\nhint: `opb --help` lists the commands\n"
    );
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
