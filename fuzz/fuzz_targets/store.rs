//! Any bytes as the store of entries: entries or an error, and no panic.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use opb_userspace::subscribers::Entries;

fuzz_target!(|bytes: &[u8]| {
    // In memory: each start writes and syncs.
    let directory = tempfile::tempdir_in("/dev/shm").expect("a directory");
    fs::write(directory.path().join("entries.redb"), bytes).expect("a file");
    if let Ok(entries) = Entries::open(directory.path()) {
        let _ = entries.store().hosts();
    }
});
