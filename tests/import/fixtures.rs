//! Whole configurations, against verdicts that a person has read from them.

use opb_common::outcome::Verdict::{self, Drop, Pass, Reject};
use opb_userspace::import::{Format, Options, import};

use crate::{Compiled, address, fixture, imported};

/// Source, destination, flags, verdict.
type Row = (&'static str, &'static str, &'static str, Verdict);

const IPV6: [Row; 4] = [
    ("2001:db8:1000::9", "2001:db8:99::1", "S", Drop),
    ("2001:db8:1000::9", "2001:db8:99::1", "A", Drop),
    ("2001:db8:1000::9", "2001:db8:25::1", "S", Pass),
    ("2001:db8:2000::9", "2001:db8:99::1", "S", Pass),
];

fn ipv4(denied: Verdict) -> [Row; 8] {
    [
        ("203.0.113.9", "192.0.2.1", "S", denied),
        ("203.0.113.9", "192.0.2.1", "A", Pass),
        ("203.0.113.9", "198.51.100.25", "S", Pass),
        ("203.0.113.9", "192.0.2.15", "S", Pass),
        ("203.0.113.9", "192.0.2.16", "S", denied),
        ("203.0.113.77", "192.0.2.1", "S", Pass),
        ("198.19.255.255", "192.0.2.1", "S", denied),
        ("198.20.0.0", "192.0.2.1", "S", Pass),
    ]
}

fn decides(yaml: &str, rows: &[Row]) {
    let compiled = Compiled::of(yaml);
    for &(src, dst, flags, wanted) in rows {
        let got = compiled.verdict(address(src), address(dst), flags);
        assert_eq!(got, wanted, "{src} to {dst}, {flags}:\n{yaml}");
    }
}

#[test]
fn an_access_list_of_ios_becomes_a_policy() {
    let imported = imported(&fixture("edge.ios"));
    assert_eq!(imported.format, Format::Ios);
    assert!(imported.is_complete(), "{:?}", imported.notes);
    decides(&imported.yaml, &[ipv4(Drop).as_slice(), &IPV6].concat());
    assert_eq!((imported.summary.groups, imported.summary.exemptions), (3, 1), "{}", imported.yaml);
    assert!(imported.yaml.contains("\n    reason: \"line 8\"\n"), "{}", imported.yaml);
}

#[test]
fn both_forms_of_a_filter_of_junos_become_one_policy() {
    let braces = imported(&fixture("edge.junos"));
    let commands = imported(&fixture("edge.junos-set"));
    for imported in [&braces, &commands] {
        assert_eq!(imported.format, Format::Junos);
        assert!(imported.is_complete(), "{:?}", imported.notes);
        decides(&imported.yaml, &[ipv4(Reject).as_slice(), &IPV6].concat());
        decides(&imported.yaml, &[("198.18.7.9", "192.0.2.1", "S", Pass)]);
    }
    let digest = |yaml: &str| Compiled::of(yaml).policy.summary().digest;
    let without_lines = |yaml: &str| {
        let lines = yaml.lines().filter(|line| !line.contains("reason:"));
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(digest(&without_lines(&braces.yaml)), digest(&without_lines(&commands.yaml)));
}

#[test]
fn what_cannot_be_said_is_reported_with_its_line() {
    let text = "\
ip access-list extended MAIL
 permit tcp any host 198.51.100.25 eq smtp
 permit tcp 203.0.113.0 0.0.255.0 any eq smtp
 permit tcp any any eq smtp time-range NIGHT
 permit tcp object-group STAFF any eq smtp
 permit tcp any any eq 22 time-range NIGHT
 evaluate MIRROR
 deny tcp 203.0.113.0 0.0.0.255 any range 20 30
 permit ip any any
";
    let imported = imported(text);
    let places: Vec<_> =
        imported.notes.iter().filter(|note| note.lost).map(|note| note.at.as_str()).collect();
    assert_eq!(places, ["line 8", "line 3", "line 4", "line 5", "line 7"], "{}", imported.yaml);
    for cause in ["time-range", "object-group STAFF", "evaluate MIRROR", "range 20 30"] {
        let comments = imported.yaml.lines().filter(|line| line.starts_with("#     "));
        assert_eq!(comments.filter(|line| line.contains(cause)).count(), 1, "{}", imported.yaml);
    }
    decides(&imported.yaml, &[("203.0.113.9", "192.0.2.1", "S", Drop)]);
}

#[test]
fn the_order_of_rules_decides() {
    let (permit, deny) = ("permit tcp host 203.0.113.9 any eq 25", "deny tcp any any eq 25");
    for (first, second, wanted) in [(permit, deny, Pass), (deny, permit, Drop)] {
        let text = format!("access-list 100 {first}\naccess-list 100 {second}\n");
        decides(&imported(&text).yaml, &[("203.0.113.9", "192.0.2.1", "S", wanted)]);
    }
}

#[test]
fn several_lists_about_mail_need_a_choice() {
    let text = "\
access-list 100 deny tcp any any eq 25
access-list 101 deny tcp host 203.0.113.9 any eq 25
access-list 101 permit ip any any
";
    let error = import(text.as_bytes(), "test", &Options::default()).expect_err("two lists");
    assert_eq!(error.to_string(), "several lists of rules deny IPv4 TCP to port 25: 100, 101");
    let options = Options { rules: vec!["101".into()], ..Options::default() };
    let imported = import(text.as_bytes(), "test", &options).expect("one list");
    decides(
        &imported.yaml,
        &[("203.0.113.9", "192.0.2.1", "S", Drop), ("203.0.113.8", "192.0.2.1", "S", Pass)],
    );
}

#[test]
fn a_list_of_prefixes_is_a_group_that_only_watches() {
    let imported =
        imported("# pools\n203.0.113.0/24 ; Tokyo\n\n2001:db8:1000::/36\n203.0.113.1/24\n");
    assert_eq!(imported.format, Format::List);
    assert!(!imported.is_complete());
    assert_eq!(imported.notes[0].at, "line 5");
    decides(&imported.yaml, &[("203.0.113.9", "192.0.2.1", "S", Verdict::WouldDrop)]);
}
