//! What `opb check` prints: every fixture, the examples and the blocks of the reference.

use std::{collections::BTreeSet, fs, path::PathBuf};

use opb_userspace::{
    check::{RelayHosts, check},
    policy::Policy,
};

use crate::{fixtures, repository};

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
        let report = check(std::slice::from_ref(path), RelayHosts::Named);
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
            let report = check(std::slice::from_ref(&path), RelayHosts::Named);
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
        let report = check(&[path], RelayHosts::Named);
        assert!(report.is_valid(), "{}", report.problems);
    }
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
    let report =
        check(&[fixtures("invalid").join("prefix-twice-in-groups.yaml")], RelayHosts::Named);
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
