//! Each claim of docs/security.md names what shows it, and that exists.

use crate::{
    known::{root, tests},
    page,
};

/// Rows of the tables whose last column is "shown by", as cells.
fn claims(text: &str) -> Vec<Vec<&str>> {
    let mut claims = Vec::new();
    let mut is_claim = false;
    for line in text.lines() {
        let row: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        if !line.starts_with('|') {
            is_claim = false;
        } else if row.last() == Some(&"shown by") {
            is_claim = true;
        } else if is_claim && !line.starts_with("|---") {
            claims.push(row);
        }
    }
    claims
}

/// What stands between backquotes in `text`.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_claim_of_the_security_model_names_a_test_that_exists() {
    let (text, known) = (page("security.md"), tests());
    let claims = claims(&text);
    assert!(claims.len() >= 50, "{} claims", claims.len());
    for row in &claims {
        let [attack, _, proof] = row[..] else { panic!("three cells are expected: {row:?}") };
        let names = quoted(proof).count();
        assert!(names > 0 || proof == "not tested", "{attack}: nothing shows it: {proof}");
        for target in proof.split("fuzz target `").skip(1).filter_map(|it| it.split('`').next()) {
            let source = root().join("fuzz/fuzz_targets").join(target).with_extension("rs");
            assert!(source.exists(), "{attack}: there is no fuzz target {target}");
        }
    }
    let named: Vec<_> = quoted(&text).filter(|name| name.contains("::")).collect();
    // Addresses such as `::/0` would be taken for tests: the page has none.
    assert!(named.len() > claims.len(), "{} names for {} claims", named.len(), claims.len());
    let missing: Vec<_> =
        named.iter().filter(|name| !known.iter().any(|test| test.is_called(name))).collect();
    assert!(missing.is_empty(), "security.md names tests that do not exist: {missing:?}");
}
