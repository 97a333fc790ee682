//! Any bytes as a capture: packets or an error, no panic, no packet longer than it may be, and an end.

#![no_main]

use libfuzzer_sys::fuzz_target;
use opb_userspace::capture::{Capture, LONGEST};

fuzz_target!(|bytes: &[u8]| {
    let Ok(capture) = Capture::new(bytes) else { return };
    let mut ended = false;
    for (place, packet) in capture.enumerate() {
        assert!(!ended, "a packet behind the first error");
        match packet {
            Ok(packet) => {
                assert_eq!(packet.number, place as u64 + 1);
                assert!(packet.data.len() <= (LONGEST as usize).max(bytes.len()));
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                ended = true;
            }
        }
    }
});
