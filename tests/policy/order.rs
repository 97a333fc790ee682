//! The order of entries in files does not matter.

use std::fs;

use opb_userspace::policy::{Policy, Prefix};

/// Exemptions are looked up by binary search.
#[test]
fn exemptions_are_found_in_any_order() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = |name: &str, hosts: [u8; 4]| {
        let lines: String =
            hosts.iter().map(|host| format!("  - {{prefix: 203.0.113.{host}/32}}\n")).collect();
        let text = format!("version: 1\nexemptions:\n{lines}");
        fs::write(directory.path().join(name), text).expect("writable");
    };
    file("a.yaml", [9, 3, 250, 40]);
    file("b.yaml", [1, 200, 4, 77]);
    let group = "version: 1\ngroups: {a: {prefixes: [203.0.113.0/24]}}\n";
    fs::write(directory.path().join("c.yaml"), group).expect("writable");
    let policy = Policy::load(&[directory.path().to_owned()]).expect("valid");
    let now = jiff::Timestamp::now();
    for host in [9, 3, 250, 40, 1, 200, 4, 77] {
        let address = std::net::Ipv4Addr::new(203, 0, 113, host).into();
        let (prefix, owner) = policy.longest_match(address, now).expect("an owner");
        assert_eq!(prefix, Prefix::host(address).expect("a prefix"), "{owner:?}");
        assert_eq!(policy.owner(prefix), Some(owner));
    }
}
