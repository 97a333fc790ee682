//! Files made to do harm.

use std::fs;

use opb_userspace::{node, policy::Policy};

/// Runs `opb check` on `text` with 1 GiB of memory and 10 seconds of processor time. Returns its standard error.
fn check_within_limits(text: &str) -> String {
    use std::os::unix::process::CommandExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("policy.yaml");
    fs::write(&path, text).expect("writes");
    let mut opb = std::process::Command::new(env!("CARGO_BIN_EXE_opb"));
    opb.arg("check").arg(&path);
    // SAFETY: two system calls between fork and exec.
    unsafe {
        opb.pre_exec(|| {
            use nix::sys::resource::{Resource, setrlimit};
            setrlimit(Resource::RLIMIT_AS, 1 << 30, 1 << 30)?;
            Ok(setrlimit(Resource::RLIMIT_CPU, 10, 10)?)
        });
    }
    let output = opb.output().expect("opb runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{}: {said}", output.status);
    said
}

/// Small texts that would expand without limits. Each is refused with its own message, in little memory and time.
#[test]
fn bombs_are_refused_at_their_fuse() {
    let aliases = |width: usize| {
        let empties = "[],".repeat(width);
        let names = "*a,".repeat(width);
        format!("version: 1\na: &a [{empties}]\nb: &b [{names}]\nc: [{}]\n", "*b,".repeat(width))
    };
    let nested = |levels: usize| {
        let level = |n: usize| format!("a{n}: &a{n} [{}]\n", format!("*a{},", n - 1).repeat(10));
        format!("a0: &a0 [[],{{}}]\n{}", (1..levels).map(level).collect::<String>())
    };
    let deep = "more than 32 lists and maps within each other";
    for (text, expected) in [
        ("[".repeat(100_000), deep),
        ("{a: ".repeat(100_000), deep),
        ("[{a: ".repeat(50_000), deep),
        ("- ".repeat(100_000), deep),
        ("? ".repeat(100_000), "a key must be text, not a map"),
        (aliases(10_000), "aliases stand for more than 100000 values"),
        (nested(30), "aliases stand for more than 100000 values"),
        (
            format!("a: &a \"{}\"\nb:\n{}", "\\x41".repeat(3_000_000), "- *a\n".repeat(1000)),
            "aliases stand for more than 8000000 bytes of text",
        ),
        ((0..20_000).map(|number| format!("a{number}: &n{number} x\n")).collect(), "anchors"),
        ((0..200_000).map(|number| format!("%TAG !{number}! x\n")).collect(), "directives"),
        (format!("version: 1\n{}: 1\n", "x".repeat(1000)).repeat(2000), ""),
        ("a".repeat(65_000_000), "is larger than 64000000 bytes"),
        (format!("version: 1\n{}: 1\n", "k".repeat(900)), "unknown key"),
    ] {
        let start = &text[..text.len().min(40)];
        let said = check_within_limits(&text);
        assert!(said.contains(expected), "{start}: {said}");
        assert!(said.len() < 100_000, "{start}: {} bytes are said", said.len());
    }
}

/// Reading a FIFO would block until another process writes to it.
#[test]
fn only_files_are_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.yaml");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    for path in [&path, directory.path()] {
        let errors = Policy::load(&[path.to_owned()]).expect_err("no file");
        assert!(errors.to_string().contains("is a FIFO, not a file"), "{errors}");
    }
}

/// A file that is not a list of prefixes is refused without printing its lines.
#[test]
fn a_list_that_is_none_is_not_shown() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    fs::write(path("secret"), "root:$y$j9T$abc:19000:0:99999:7:::\nhunter2\n203.0.113.1/24\n")
        .expect("writes");
    let text = "version: 1\ngroups:\n  a: {prefixes-file: secret}\n";
    fs::write(path("policy.yaml"), text).expect("writes");
    let errors = Policy::load(&[path("policy.yaml")]).expect_err("no prefixes").to_string();
    assert!(!errors.contains("root") && !errors.contains("hunter2"), "{errors}");
    for expected in
        ["secret:1:1: this line is not an IPv4 or IPv6 prefix", "secret:2:1", "| 203.0.113.1/24"]
    {
        assert!(errors.contains(expected), "{errors}");
    }
}

#[test]
fn limits_of_files_are_the_node_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let node = |limits: &str| {
        let text = "version: 1\npolicy: p.yaml\ninterfaces: [{name: a, role: core}]\n";
        fs::write(path("opb.yaml"), format!("{text}limits: {limits}\n")).expect("writes");
        node::Config::load(&path("opb.yaml"))
    };
    let config = node("{}\nprivacy: {retain: 7d}").expect("valid");
    assert_eq!(config.observe.retain.as_secs(), 7 * 86_400);
    let limits = node("{policy-file: 1kB, prefixes-file: 20B}").expect("valid").limits;
    assert_eq!((limits.policy, limits.prefixes), (1000, 20));
    let errors = node("{policy-file: 5, prefixes-file: lots}").expect_err("no sizes").to_string();
    assert!(
        errors.contains("`prefixes-file` must be a size such as 500kB, 64MB or 1GB, not `lots`")
    );
    let list = "203.0.113.0/24\n198.51.100.0/24\n";
    fs::write(path("list"), list).expect("writes");
    fs::write(path("p.yaml"), "version: 1\ngroups: {a: {prefixes-file: list}}\n").expect("writes");
    let errors = Policy::load_within(&[path("p.yaml")], limits).expect_err("too large").to_string();
    assert!(
        errors.contains("`") && errors.contains("is larger than 20 bytes, the limit"),
        "{errors}"
    );
    fs::write(path("opb.yaml"), "#".repeat(1_000_001)).expect("writes");
    let errors = node::Config::load(&path("opb.yaml")).expect_err("too large").to_string();
    assert!(errors.contains("is larger than 1000000 bytes"), "{errors}");
}
