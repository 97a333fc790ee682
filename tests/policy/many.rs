//! Many prefixes, and random text.

use std::{collections::BTreeSet, fs};

use opb_userspace::{
    check::{RelayHosts, check},
    policy::{Policy, Prefix},
};
use proptest::prelude::*;

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
    /// Every prefix is loaded, however the prefixes are spread over lists and files.
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
        let _ = check(&[path], RelayHosts::Named).problems.to_string();
    }
}
