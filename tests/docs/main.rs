//! What the pages say of the tests and of the code: each test that one of them names exists, every
//! case of "When things break" and every claim of the security model names one, the list of reasons
//! is that of the code, and pictures can be seen.

mod known;
mod images;
mod security;

use std::{collections::BTreeSet, fs};

use opb_common::outcome::Reason;

use known::{root, tests};

fn page(name: &str) -> String {
    fs::read_to_string(root().join("docs").join(name)).expect(name)
}

/// What stands between backquotes in `text` and looks like the name of a test: words with three underscores or more.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|name| {
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        name.bytes().all(is_name) && name.matches('_').count() >= 2 && !name.starts_with("opb_")
    })
}

/// Cells of the rows of the first table behind `heading`.
fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let behind = text.split_once(heading).expect(heading).1;
    let lines = behind.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

#[test]
fn every_test_that_a_page_names_exists() {
    let tests: BTreeSet<_> = tests().into_iter().map(|test| test.name).collect();
    assert!(tests.len() > 300, "{} tests", tests.len());
    for name in ["operations.md", "testing.md", "test-results.md", "troubleshooting.md"] {
        let text = page(name);
        let missing: Vec<_> = named(&text).filter(|test| !tests.contains(*test)).collect();
        assert!(missing.is_empty(), "{name} names tests that do not exist: {missing:?}");
    }
}

#[test]
fn every_case_of_when_things_break_names_a_test_and_what_to_do() {
    let (operations, troubleshooting) = (page("operations.md"), page("troubleshooting.md"));
    let rows = table(&operations, "\n## When things break\n");
    assert!(rows.len() >= 30, "{} rows", rows.len());
    let headings =
        troubleshooting.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix(' '));
    let anchors: BTreeSet<_> = headings.map(anchor).collect();
    for row in rows {
        let [case, proof] = &row[..] else { panic!("two cells are expected: {row:?}") };
        assert!(named(proof).next().is_some(), "no test is named for: {case}");
        let link = case.split_once("](").and_then(|(_, rest)| rest.split_once(')'));
        let (link, _) = link.unwrap_or_else(|| panic!("no link in: {case}"));
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        match file {
            "troubleshooting.md" => assert!(anchors.contains(anchor), "{link} leads nowhere"),
            other => assert!(page(other).len() > 100, "{link} leads nowhere"),
        }
    }
}

#[test]
fn every_reason_is_explained_and_no_other() {
    let rows = table(&page("cli.md"), "\n### Reasons\n");
    let explained: BTreeSet<_> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    let reasons: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(
        explained, reasons,
        "the rows of docs/cli.md, and the list in opb-common/src/outcome.rs"
    );
}

#[test]
fn alerts_name_reasons_that_exist() {
    let rules = fs::read_to_string(root().join("contrib/prometheus/opb.rules.yml")).expect("rules");
    let selectors = rules.split("reason=~\"").skip(1);
    let named: Vec<_> = selectors
        .flat_map(|rest| rest.split_once('"').expect("a closing quote").0.split('|'))
        .collect();
    assert!(named.len() >= 5, "{named:?}");
    for name in named {
        assert!(
            Reason::ALL.iter().any(|reason| reason.name() == name),
            "no reason is called {name}"
        );
    }
}

/// As GitHub makes it of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|it| it.is_alphanumeric() || [' ', '-', '_'].contains(it));
    kept.map(|it| if it == ' ' { '-' } else { it.to_ascii_lowercase() }).collect()
}
