//! Any text as a policy file: an answer and no panic; errors say where, and they say it of a place that is there.

#![no_main]

use std::{cell::LazyCell, fs};

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use opb_userspace::{
    image::{Image, GroupIds},
    policy::Policy,
};
use tempfile::TempDir;

thread_local! {
    static DIRECTORY: LazyCell<TempDir> =
        LazyCell::new(|| tempfile::tempdir().expect("a directory"));
}

fuzz_target!(|text: &[u8]| {
    DIRECTORY.with(|directory| {
        let file = directory.path().join("policy.yaml");
        fs::write(&file, text).expect("a file");
        match Policy::load(&[file]) {
            Ok(policy) => {
                // What is valid compiles, or says what is too much.
                let _ = Image::compile(&policy, &GroupIds::default(), 1, moment());
            }
            Err(diagnostics) => {
                assert!(diagnostics.errors().next().is_some(), "refused without an error");
                // YAML ends a line with either of the two, and with three characters of more bytes.
                let breaks = String::from_utf8_lossy(text)
                    .matches(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'])
                    .count();
                for diagnostic in &diagnostics.list {
                    assert!(!diagnostic.message.is_empty());
                    if let Some(spot) = &diagnostic.location.spot {
                        assert!(spot.line >= 1 && spot.line <= breaks + 2, "{diagnostic}");
                        assert!(spot.column >= 1, "{diagnostic}");
                    }
                }
                let _ = diagnostics.to_string();
            }
        }
    });
});

/// A fixed moment, so that an input means the same tomorrow.
fn moment() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("a moment")
}
