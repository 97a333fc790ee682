//! Policy and node files against exact messages: one fixture a rule in `fixtures/policies/{valid,invalid}`, what
//! `opb check` has to say about it next to it in `NAME.expected` (absent: nothing). `UPDATE_EXPECTED=1` rewrites those.

#[path = "policy/order.rs"]
mod order;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use opb_userspace::check::check;
use opb_userspace::node::{
    self, Addresses, EventLog, Filter, Hook, LogLevel, Observe, PolicySource, Role, Suspect,
    UnknownSource,
};
use opb_userspace::policy::{Action, Downstream, Exemption, Matching, Policy, Prefix, RelaySet};
use proptest::prelude::*;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn fixtures(kind: &str) -> PathBuf {
    repository().join("tests/fixtures/policies").join(kind)
}

fn fixture(name: &str) -> PathBuf {
    fixtures("valid").join(name)
}

fn load(name: &str) -> Policy {
    Policy::load(&[fixture(name)]).unwrap_or_else(|errors| panic!("{name}: {errors}"))
}

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| text.parse().expect("a prefix")).collect()
}

/// Compares every fixture's messages with the file next to it.
fn check_fixtures(kind: &str, is_valid: bool) {
    let directory = fixtures(kind);
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let mut failures = Vec::new();
    let mut expected_files = BTreeSet::new();
    let mut count = 0;
    let mut paths: Vec<PathBuf> = fs::read_dir(&directory)
        .expect("fixtures")
        .map(|entry| entry.expect("entry").path())
        .collect();
    paths.sort();
    // The prefix lists that other fixtures name.
    paths.retain(|path| !path.ends_with("pools"));
    for path in &paths {
        if path.extension().is_some_and(|extension| extension == "expected") {
            continue;
        }
        count += 1;
        let report = check(std::slice::from_ref(path));
        let prefix = format!("{}/", directory.display());
        let mut actual = report.problems.to_string().replace(&prefix, "");
        if !actual.is_empty() {
            actual.push('\n');
        }
        let expected_path = path.with_extension("expected");
        expected_files.insert(expected_path.clone());
        if update && !actual.is_empty() {
            fs::write(&expected_path, &actual).expect("writable");
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if report.is_valid() != is_valid || actual != expected {
            failures
                .push(format!("{}:\n--- expected\n{expected}--- actual\n{actual}", path.display()));
        }
    }
    for path in paths
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "expected"))
    {
        assert!(expected_files.contains(path), "{} belongs to no fixture", path.display());
    }
    assert!(count > 15, "only {count} fixtures found");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn invalid_files_say_exactly_what_is_wrong() {
    check_fixtures("invalid", false);
}

#[test]
fn valid_files_give_at_most_warnings() {
    check_fixtures("valid", true);
}

#[test]
fn the_examples_are_valid_and_free_of_warnings() {
    let directory = repository().join("policies");
    let mut examples = 0;
    for entry in fs::read_dir(&directory).expect("policies") {
        let path = entry.expect("entry").path();
        let is_example = path.extension().is_some_and(|extension| extension == "yaml")
            || path.is_dir() && !path.ends_with("pools");
        if is_example {
            let report = check(std::slice::from_ref(&path));
            assert!(report.problems.list.is_empty(), "{}", report.problems);
            examples += 1;
        }
    }
    assert!(examples >= 5, "only {examples} examples found");
}

#[test]
fn the_yaml_blocks_of_the_reference_are_valid() {
    let page = |name| fs::read_to_string(repository().join("docs").join(name)).expect(name);
    let pages = [page("policy.md"), page("node.md")];
    let directory = tempfile::tempdir().expect("temporary directory");
    fs::create_dir(directory.path().join("pools")).expect("directory");
    fs::write(directory.path().join("pools/tokyo.txt"), "192.0.2.0/24\n").expect("pool");
    fs::create_dir(directory.path().join("policy.d")).expect("directory");
    fs::write(directory.path().join("policy.d/a.yaml"), "version: 1\n").expect("policy");
    let blocks: Vec<Vec<&str>> = (pages.iter())
        .map(|text| text.split("```yaml\n").skip(1))
        .map(|rests| rests.filter_map(|rest| rest.split("```").next()).collect())
        .collect();
    assert!(blocks.iter().all(|of_page| !of_page.is_empty()), "a block on each page");
    for (index, block) in blocks.iter().flatten().enumerate() {
        let path = directory.path().join(format!("block-{index}.yaml"));
        fs::write(&path, block).expect("writable");
        let report = check(&[path]);
        assert!(report.is_valid(), "{}", report.problems);
    }
}

#[test]
fn a_policy_is_what_its_file_says() {
    let policy = load("full.yaml");
    let names: Vec<&str> = policy.groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["100", "flets-dynamic"]);
    let [plain, flets] = policy.groups.as_slice() else { panic!("two groups") };
    assert_eq!(plain.prefixes, prefixes(&["192.0.2.0/24"]));
    assert_eq!((plain.action, plain.matching, plain.downstream), Default::default());
    assert_eq!((plain.ports.as_slice(), plain.relays.as_slice()), (&[25][..], &[][..]));
    assert_eq!(flets.prefixes, prefixes(&["203.0.113.0/24", "2001:db8:1000::/36"]));
    assert_eq!(
        (flets.action, flets.matching, flets.downstream),
        (Action::Reject, Matching::Any, Downstream::Monitor)
    );
    assert_eq!((flets.ports.as_slice(), flets.relays.as_slice()), (&[25, 2525][..], &[0][..]));
    let relay = RelaySet {
        name: "so-net".into(),
        addresses: prefixes(&["198.51.100.25", "2001:db8:25::/64"]),
        hosts: vec!["mail.aa2.so-net.ne.jp".into()],
    };
    assert_eq!(policy.relays, [relay]);
    let until = "2097-03-30T15:00:00Z".parse().expect("a date");
    let exemption = Exemption {
        prefix: "203.0.113.77/32".parse().expect("a prefix"),
        reason: Some("fixed-IP option, contract 1234".into()),
        until: Some(until),
    };
    assert!(!exemption.in_force(until));
    assert_eq!(policy.exemptions, [exemption]);
    assert_eq!(policy.files, [fixture("full.yaml")]);
    assert!(policy.warnings.is_empty());
}

#[test]
fn lists_of_prefixes_come_from_files_too() {
    let policy = load("prefixes-files.yaml");
    let expected = prefixes(&["192.0.2.0/24", "192.0.2.7", "198.51.100.0/24", "2001:db8::/32"]);
    assert_eq!(policy.groups[0].prefixes, expected);
    let files = ["prefixes-files.yaml", "pools/crlf.txt", "pools/tokyo.txt"].map(fixture);
    assert_eq!(policy.files, files);
}

#[test]
fn a_node_file_has_defaults() {
    let config = node::Config::load(&fixture("node-minimal.yaml")).expect("valid");
    assert_eq!(config.policy, PolicySource::Path(fixture("minimal.yaml")));
    assert_eq!(config.state, Path::new("/var/lib/opb"));
    assert_eq!(config.control, Path::new("/run/opb/opb.sock"));
    assert_eq!(config.http, "127.0.0.1:9625".parse().ok());
    assert_eq!(config.pins, Path::new("/sys/fs/bpf/opb"));
    assert_eq!(config.log, LogLevel::Off);
    let interface = config.interface("eth0").expect("listed");
    assert_eq!(
        (interface.role, interface.hook, interface.unknown_source),
        (Role::Subscriber, Hook::Auto, UnknownSource::Pass)
    );
    assert_eq!(interface.filter, Filter { upstream: true, downstream: true });
    assert!(config.interface("eth1").is_none());
}

#[test]
fn a_node_file_says_what_each_interface_does() {
    let config = node::Config::load(&fixture("node-full.yaml")).expect("valid");
    assert_eq!((config.http, config.log), (None, LogLevel::Debug));
    let ppp = config.interface("ppp17").expect("a pattern fits");
    assert_eq!((ppp.hook, ppp.unknown_source), (Hook::Tc, UnknownSource::Drop));
    assert_eq!((ppp.filters_ingress(), ppp.filters_egress()), (true, false));
    let core = config.interface("bond0.100").expect("listed");
    assert_eq!((core.role, core.hook), (Role::Core, Hook::Xdp));
    assert_eq!((core.filters_ingress(), core.filters_egress()), (true, true));
}

#[test]
fn a_node_file_says_what_is_written_down() {
    let config = node::Config::load(&fixture("node-observe.yaml")).expect("valid");
    let expected = Observe {
        events: EventLog::File("/var/log/opb/events.json".into()),
        addresses: Addresses::Hash,
        retain: std::time::Duration::from_secs(90 * 60),
        suspect: Some(Suspect {
            per_minute: 200,
            command: Some("/usr/local/bin/tell-noc".into()),
            webhook: Some("http://[::1]/opb?key=1".parse().expect("a webhook")),
        }),
    };
    assert_eq!(config.observe, expected);
    let webhook = expected.suspect.and_then(|it| it.webhook).expect("the one above");
    assert_eq!((webhook.host(), webhook.port(), webhook.path()), ("::1", 80, "/opb?key=1"));
    assert_eq!(webhook.to_string(), "webhook http://[::1]", "nothing that may be secret");
    assert_eq!(config.http_names, ["noc.example.net", "bras1"]);
    let config = node::Config::load(&fixture("node-minimal.yaml")).expect("valid");
    assert_eq!(config.observe, Observe::default());
}

#[test]
fn digests_tell_policies_apart() {
    let digest = |text: &str| {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("a.yaml");
        fs::write(&path, format!("version: 1\n{text}")).expect("writable");
        Policy::load(&[path]).unwrap_or_else(|errors| panic!("{errors}")).digest()
    };
    let texts = [
        "groups: {a: {prefixes: [10.0.0.0/8]}}",
        "groups: {b: {prefixes: [10.0.0.0/8]}}",
        "groups: {a: {prefixes: [10.0.0.0/9]}}",
        "groups: {a: {prefixes: [10.0.0.0/8], action: monitor}}",
        "groups: {a: {prefixes: [10.0.0.0/8], match: any}}",
        "groups: {a: {prefixes: [10.0.0.0/8], downstream: drop}}",
        "groups: {a: {prefixes: [10.0.0.0/8], ports: [26]}}",
        "groups: {a: {prefixes: [10.0.0.0/8], relays: [x]}}\nrelays: {x: {hosts: [mx]}}",
        "groups: {a: {prefixes: [10.0.0.0/8], relays: []}}\nrelays: {x: {hosts: [mx]}}",
        "groups: {a: {prefixes: [10.0.0.0/8]}}\nrelays: {x: {addresses: [192.0.2.1]}}",
        "groups: {a: {prefixes: [10.0.0.0/8]}}\nexemptions: [{prefix: 10.1.0.0/16}]",
        "groups: {a: {prefixes: [10.0.0.0/8]}}\nexemptions: [{prefix: 10.1.0.0/16, reason: r}]",
        "groups: {a: {prefixes: [10.0.0.0/8]}}\nexemptions: [{prefix: 10.1.0.0/16, until: 2099-01-01T00:00:00Z}]",
    ];
    let digests: BTreeSet<[u8; 16]> = texts.iter().map(|text| digest(text)).collect();
    assert_eq!(digests.len(), texts.len());
    let same = "# reordered\nrelays: {y: {hosts: [a, b]}, x: {addresses: [192.0.2.2, 192.0.2.1]}}\n\
                groups: {b: {prefixes: []}, a: {ports: [26, 25], relays: [y, x], prefixes: [11.0.0.0/8, 10.0.0.0/8]}}";
    let other = "groups: {a: {prefixes: [10.0.0.0/8, 11.0.0.0/8], relays: [x, y], ports: [25, 26]}, b: }\n\
                 relays: {x: {addresses: [192.0.2.1, 192.0.2.2]}, y: {hosts: [B., a]}}";
    assert_eq!(digest(same), digest(other));
}

#[test]
fn the_longest_match_counts_groups_and_exemptions() {
    let policy = load("nested-prefixes.yaml");
    let now = jiff::Timestamp::now();
    let longest = |text: &str| {
        let found = policy.longest_match(text.parse().expect("an address"), now);
        found.map_or("none".to_owned(), |(prefix, owner)| format!("{prefix} {owner:?}"))
    };
    assert_eq!(longest("203.0.113.1"), "203.0.113.0/24 Group(1)");
    assert_eq!(longest("203.0.113.64"), "203.0.113.64/28 Exemption(0)");
    assert_eq!(longest("203.0.113.80"), "203.0.113.80/32 Group(0)");
    assert_eq!(longest("203.0.113.127"), "203.0.113.64/26 Group(0)");
    assert_eq!(longest("198.51.100.1"), "none");
}

#[test]
fn a_broken_file_raises_no_doubts_about_the_others() {
    let directory = tempfile::tempdir().expect("temporary directory");
    fs::write(directory.path().join("relays.yaml"), "version: 1\nrelays: [").expect("writable");
    fs::write(directory.path().join("groups.yaml"), "version: 1\ngroups: {a: {relays: [mx]}}")
        .expect("writable");
    let errors = Policy::load(&[directory.path().to_owned()]).expect_err("syntax error");
    assert_eq!(errors.errors().count(), 1, "{errors}");
}

#[test]
fn problems_are_readable_by_programs() {
    let report = check(&[fixtures("invalid").join("prefix-twice-in-groups.yaml")]);
    let mut json = serde_json::to_value(&report).expect("serialises");
    let problem = json["list"][0].take();
    assert_eq!(problem["severity"], "error");
    assert_eq!(problem["message"], "prefix 203.0.113.0/24 is given twice");
    assert_eq!((&problem["line"], &problem["column"]), (&4.into(), &18.into()));
    assert_eq!(problem["source"], "  b: {prefixes: [203.0.113.0/24]}");
    assert_eq!(
        (&problem["notes"][0]["line"], &problem["notes"][0]["message"]),
        (&3.into(), &"first given".into())
    );
    assert_eq!(json["checked"][0]["kind"], "policy");
}

/// A million prefixes is a normal size; debug builds load fewer.
#[test]
fn a_million_prefixes_load() {
    let count: u32 = if cfg!(debug_assertions) { 50_000 } else { 1_000_000 };
    // An odd multiplier visits all addresses in an order that no sort can profit from.
    let prefixes: Vec<String> = (0..count)
        .map(|index| {
            let bits = index.wrapping_mul(2_654_435_761);
            if index % 4 == 0 {
                format!("2001:db8:{:x}:{:x}::/64", bits >> 16, bits & 0xffff)
            } else {
                format!("{}/32", std::net::Ipv4Addr::from(bits))
            }
        })
        .collect();
    let directory = tempfile::tempdir().expect("temporary directory");
    let write = |name: &str, text: String| {
        let path = directory.path().join(name);
        fs::write(&path, text).expect("writable");
        path
    };
    let head = "version: 1\ngroups:\n  a:\n    prefixes";
    let block = write("block.yaml", format!("{head}:\n    - {}\n", prefixes.join("\n    - ")));
    let flow = write("flow.yaml", format!("{head}: [{}]\n", prefixes.join(", ")));
    write("pool.txt", prefixes.join("\n"));
    let file = write("file.yaml", format!("{head}-file: pool.txt\n"));
    let wrong = prefixes.iter().map(|prefix| prefix.replace("/32", "/31").replace("/64", "/8"));
    let wrong = wrong.collect::<Vec<_>>().join("\n    - ");
    let wrong = write("wrong.yaml", format!("{head}:\n    - {wrong}\n"));

    let mut digests = BTreeSet::new();
    for path in [block, flow, file] {
        let policy =
            Policy::load(std::slice::from_ref(&path)).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(policy.groups[0].prefixes.len(), count as usize);
        assert!(policy.groups[0].prefixes.is_sorted());
        digests.insert(policy.digest());
    }
    assert_eq!(digests.len(), 1);

    let errors = Policy::load(&[wrong]).expect_err("host bits").to_string();
    assert!(errors.contains("wrong.yaml:5:7: "), "{errors}");
}

proptest! {
    /// What is loaded is what was written, however the prefixes are spread over lists and files.
    #[test]
    fn every_prefix_arrives(addresses in prop::collection::btree_set(any::<u32>(), 0..200), split in any::<prop::sample::Index>()) {
        let mut expected: Vec<Prefix> = addresses
            .iter()
            .map(|&address| Prefix::host(std::net::Ipv4Addr::from(address).into()).expect("a host"))
            .collect();
        let (listed, filed) = expected.split_at(split.index(expected.len() + 1));
        let directory = tempfile::tempdir().expect("temporary directory");
        let text = |prefixes: &[Prefix], separator: &str| {
            prefixes.iter().rev().map(Prefix::to_string).collect::<Vec<_>>().join(separator)
        };
        let yaml = format!("version: 1\ngroups:\n  a:\n    prefixes: [{}]\n    prefixes-file: p.txt\n", text(listed, ", "));
        fs::write(directory.path().join("a.yaml"), yaml).expect("writable");
        fs::write(directory.path().join("p.txt"), text(filed, "\n")).expect("writable");
        let policy = Policy::load(&[directory.path().to_owned()]).map_err(|errors| TestCaseError::fail(errors.to_string()))?;
        expected.sort();
        prop_assert_eq!(&policy.groups[0].prefixes, &expected);
    }

    #[test]
    fn no_text_makes_it_panic(text in "(version: 1\n)?[a-z:,&*!{}\\[\\]\"'|> \n/0-9.-]{0,80}") {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("a.yaml");
        fs::write(&path, text).expect("writable");
        let _ = check(&[path]).problems.to_string();
    }
}

/// Runs a check of `text` in a process that may have so much memory and time, and gives what it says.
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

/// Small texts that are a lot of work: each is refused for what it is, with little memory and time.
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
        ("? ".repeat(100_000), deep),
        (aliases(10_000), "aliases stand for more than 100000 values"),
        (nested(30), "aliases stand for more than 100000 values"),
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

/// A FIFO would keep whoever reads it until somebody writes.
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

/// Whoever names a file that is no list of prefixes does not learn what stands in it.
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
