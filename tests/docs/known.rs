//! The tests that exist, by their names in the sources.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// A function behind `#[test]` or `#[tokio::test]`, or a row of `cases!`.
pub(crate) struct Known {
    pub(crate) name: String,
    /// Suite or crate, and modules, but none of modules that have only tests.
    place: Vec<String>,
}

impl Known {
    /// Whether `name` is this test, written as `suite::module::test` or `crate::module::test`.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        let mut place: Vec<_> = name.split("::").collect();
        place.pop().is_some_and(|last| last == self.name) && without_tests(place) == self.place
    }
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All tests of this repository.
pub(crate) fn tests() -> Vec<Known> {
    let mut files = Vec::new();
    for directory in ["tests", "opb-userspace/src", "opb-common/src"] {
        sources(&root().join(directory), &mut files);
    }
    let mut known = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a file");
        let place = place(file.strip_prefix(root()).expect("a file of ours"));
        known.extend(names(&text).map(|name| Known { name, place: place.clone() }));
    }
    known
}

/// All source files below `directory`.
fn sources(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Names of the tests in a file.
fn names(text: &str) -> impl Iterator<Item = String> {
    let (mut is_test, mut is_table) = (false, false);
    text.lines().filter_map(move |line| {
        let trimmed = line.trim_start();
        let signature = trimmed.strip_prefix("async ").unwrap_or(trimmed);
        if trimmed.starts_with("#[test]") || trimmed.starts_with("#[tokio::test") {
            is_test = true;
        } else if trimmed.starts_with("opb_lab::cases! {") {
            is_table = true;
        } else if line.starts_with('}') {
            is_table = false;
        } else if is_table {
            return trimmed.split_once('(').map(|(name, _)| name.to_owned());
        } else if let Some(name) = signature.strip_prefix("fn ").filter(|_| is_test) {
            is_test = false;
            return name.split_once('(').map(|(name, _)| name.to_owned());
        }
        None
    })
}

/// The modules of a file: `live::store` for `tests/live/store.rs`.
fn place(file: &Path) -> Vec<String> {
    let parts = file.with_extension("");
    let parts: Vec<_> = parts
        .components()
        .filter_map(|part| match part {
            Component::Normal(part) => part.to_str(),
            _ => None,
        })
        .collect();
    let parts = match parts[..] {
        ["tests", ref rest @ ..] => rest.to_vec(),
        [package, "src", ref rest @ ..] => [&[package], rest].concat(),
        ref other => other.to_vec(),
    };
    let is_module = |part: &&str| !["main", "mod", "lib"].contains(part);
    let parts = without_tests(parts.into_iter().filter(is_module).collect());
    parts.iter().map(|part| part.replace('-', "_")).collect()
}

/// Modules called `tests` are left out, and `x_tests` stands for `x::tests`, since a file of that
/// name may be either.
fn without_tests(place: Vec<&str>) -> Vec<&str> {
    let parts = place.into_iter().filter(|part| *part != "tests");
    parts.map(|part| part.strip_suffix("_tests").unwrap_or(part)).collect()
}
