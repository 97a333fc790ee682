//! Any bytes at the read-only listener: an answer that is HTTP or none, and no panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use opb_userspace::daemon::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    let answer = fuzzing::http(bytes);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{answer:?}");
});
