//! Any bytes as rules of other filters: a policy that the parser takes, or an error, and no text that acts.
//! The first byte selects the format, or its detection.

#![no_main]

use libfuzzer_sys::fuzz_target;
use opb_userspace::import::{Format, ImportError, Options, import};

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, bytes)) = bytes.split_first() else { return };
    let format = Format::ALL.get(usize::from(first % 8)).map(|(format, _)| *format);
    let options = Options { format, ..Options::default() };
    match import(bytes, "fuzz", &options) {
        Ok(imported) => {
            // Another import of the same bytes is the same policy.
            let again = import(bytes, "fuzz", &options).expect("a policy again");
            assert_eq!(imported.yaml, again.yaml);
            let clean = |text: &str| !text.contains(['\u{1b}', '\r', '\u{85}', '\u{2028}']);
            assert!(clean(&imported.yaml));
            for note in &imported.notes {
                let note = note.to_string();
                assert!(clean(&note) && !note.contains('\n'), "{note:?}");
            }
        }
        // Whatever is written must be a valid policy.
        Err(ImportError::Invalid(cause)) => panic!("{cause}"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
