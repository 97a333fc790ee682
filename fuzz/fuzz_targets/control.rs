//! Any bytes at the control socket, and any JSON as a change of entries: an answer, no panic, and all or nothing.

#![no_main]

use std::{cell::LazyCell, fs, sync::Arc};

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use opb_userspace::{
    api::entries::Who,
    daemon::fuzzing,
    policy::Policy,
    subscribers::{
        Entries,
        changes::{Request, Staging},
    },
};

const POLICY: &str = "version: 1\ngroups:\n  a: {prefixes: [203.0.113.0/24]}\n";

thread_local! {
    static NODE: LazyCell<(tempfile::TempDir, Policy, Entries)> = LazyCell::new(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("policy.yaml");
        fs::write(&path, POLICY).expect("a file");
        let policy = Policy::load(&[path]).expect("valid");
        let entries = Entries::open(&directory.path().join("state")).expect("a store");
        (directory, policy, entries)
    });
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, rest)) = bytes.split_first() else { return };
    if first == b'!' {
        let answer = fuzzing::control(rest);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{answer:?}");
        return;
    }
    let who = Arc::new(Who { uid: 0, pid: None, user: None });
    let request = match first {
        b'-' => serde_json::from_slice(rest).map(|removal| Request::Remove(removal, who)),
        _ => serde_json::from_slice(bytes).map(|addition| Request::Add(addition, who)),
    };
    let Ok(request) = request else { return };
    let partial = match &request {
        Request::Add(addition, _) => addition.partial,
        Request::Remove(removal, _) => removal.partial,
    };
    NODE.with(|node| {
        let (_, policy, entries) = &**node;
        let now = Timestamp::from_second(1_800_000_000).expect("a moment");
        let mut staging = Staging::new(entries, policy, now);
        let answer = staging.stage(request);
        let done = answer.added + answer.changed + answer.removed + answer.unchanged;
        assert!(partial || answer.failures.is_empty() || done == 0, "{answer:?}");
        assert!(staging.into_changes().len() <= done);
    });
});
