//! Policy and node files against exact messages: one fixture for each rule in `fixtures/policies/{valid,invalid}`,
//! with the output of `opb check` next to it in `NAME.expected` (absent: no output). `UPDATE_EXPECTED=1` rewrites those.

use std::path::{Path, PathBuf};

use opb_userspace::policy::{Policy, Prefix};

mod content;
mod hostile;
mod many;
mod messages;
mod order;

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
