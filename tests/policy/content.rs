//! The values read from valid files.

use std::{collections::BTreeSet, fs, path::Path};

use opb_userspace::{
    node::{
        self, Addresses, EventLog, Filter, Hook, LogLevel, Observe, PolicySource, Role, Suspect,
        UnknownSource,
    },
    policy::{Action, Downstream, Exemption, Matching, Policy, RelaySet},
};

use crate::{fixture, load, prefixes};

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
fn a_node_file_says_who_reports_sessions() {
    let config = node::Config::load(&fixture("node-sessions.yaml")).expect("valid");
    let radius = config.sessions.expect("a listener");
    assert_eq!(radius.listen.to_string(), "[::]:1813");
    let vendor = node::GroupAttribute::Vendor { enterprise: 32473, number: 1 };
    assert_eq!(radius.group_attribute, vendor);
    assert_eq!(radius.default_group.as_deref(), Some("dyn"));
    let client = |address: &str| radius.client(address.parse().expect("an address"));
    // The longest prefix.
    assert_eq!([client("192.0.2.10"), client("192.0.2.11")], [Some(1), Some(0)]);
    assert_eq!([client("192.0.3.10"), client("2001:db8::1")], [None, None]);
}

#[test]
fn a_node_file_says_what_is_written_down() {
    let config = node::Config::load(&fixture("node-observe.yaml")).expect("valid");
    let mut webhook: node::Webhook = "https://[::1]/opb?key=1".parse().expect("a webhook");
    webhook.ca_file = Some("/etc/opb/noc.pem".into());
    let expected = Observe {
        events: EventLog::File("/var/log/opb/events.json".into()),
        addresses: Addresses::Hash,
        retain: std::time::Duration::from_secs(90 * 60),
        suspect: Some(Suspect {
            per_minute: 200,
            command: Some("/usr/local/bin/tell-noc".into()),
            webhook: Some(webhook.clone()),
        }),
    };
    assert_eq!(config.observe, expected);
    assert_eq!((webhook.host(), webhook.port(), webhook.path()), ("::1", 443, "/opb?key=1"));
    assert_eq!(webhook.to_string(), "webhook https://[::1]", "nothing that may be secret");
    let plain: node::Webhook = "http://noc.example.net".parse().expect("a webhook");
    assert_eq!((plain.host(), plain.port(), plain.path()), ("noc.example.net", 80, "/"));
    for wrong in
        ["", "/opb", "noc.example.net", "ftp://noc/", "https://", "https://a@b/", "https://a..b/"]
    {
        assert!(wrong.parse::<node::Webhook>().is_err(), "{wrong}");
    }
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
