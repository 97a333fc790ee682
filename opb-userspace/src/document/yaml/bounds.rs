//! Limits of a YAML text, checked before a tree is built: a small text can stand for a huge tree
//! (aliases), and nesting costs the square of its depth.
//!
//! Uses the parser of `serde_yaml`, event by event: it stores nothing, and ends at the first limit
//! that is exceeded.

use std::{collections::HashMap, ffi::CStr, mem::MaybeUninit};

use unsafe_libyaml::{
    YAML_ALIAS_EVENT, YAML_MAPPING_END_EVENT, YAML_MAPPING_START_EVENT, YAML_SCALAR_EVENT,
    YAML_SEQUENCE_END_EVENT, YAML_SEQUENCE_START_EVENT, YAML_STREAM_END_EVENT, yaml_event_delete,
    yaml_event_t, yaml_mark_t, yaml_parser_delete, yaml_parser_initialize, yaml_parser_parse,
    yaml_parser_set_input_string, yaml_parser_t,
};

use super::{Position, SyntaxError};

/// The most levels of nested lists and maps. Our own files have four.
pub(super) const DEPTH: usize = 32;
/// The most scalars, lists and maps in the text.
pub(super) const NODES: usize = 1 << 23;
/// The most that aliases may add to these.
pub(super) const ALIASED: usize = 100_000;
/// The most anchors.
pub(super) const ANCHORS: usize = 10_000;
/// `%YAML` and `%TAG`.
const DIRECTIVES: usize = 4;

/// Checks the limits. Invalid YAML ends the check without an error: the reader that follows reports
/// it.
pub(super) fn check(text: &str) -> Result<(), SyntaxError> {
    // All directives are one event, and the parser compares each with all before it.
    let mut directives = text.lines().enumerate().filter(|(_, line)| line.starts_with('%'));
    if let Some((line, _)) = directives.nth(DIRECTIVES) {
        let position = Position { line: line + 1, column: 1 };
        return Err(SyntaxError { message: "too many directives".to_owned(), position });
    }
    let mut walk = Walk::default();
    Parser::new(text).map_or(Ok(()), |mut parser| {
        while let Some(event) = parser.next() {
            walk.see(&event)?;
        }
        Ok(())
    })
}

/// The open lists and maps, and the counts.
#[derive(Default)]
struct Walk {
    open: Vec<(Option<Vec<u8>>, usize)>,
    /// Sizes of the anchored nodes.
    anchors: HashMap<Vec<u8>, usize>,
    nodes: usize,
    aliased: usize,
}

impl Walk {
    fn see(&mut self, event: &Event) -> Result<(), SyntaxError> {
        let at = |message: String| SyntaxError { message, position: position(event.0.start_mark) };
        match event.0.type_ {
            YAML_SCALAR_EVENT => self.add(event.anchor(), 1),
            YAML_SEQUENCE_START_EVENT | YAML_MAPPING_START_EVENT => {
                self.open.push((event.anchor(), 1));
                if self.open.len() > DEPTH {
                    return Err(at(format!("more than {DEPTH} lists and maps within each other")));
                }
            }
            YAML_SEQUENCE_END_EVENT | YAML_MAPPING_END_EVENT => {
                if let Some((anchor, size)) = self.open.pop() {
                    self.add(anchor, size);
                }
                return Ok(());
            }
            YAML_ALIAS_EVENT => {
                let size =
                    event.anchor().and_then(|it| self.anchors.get(&it).copied()).unwrap_or(1);
                self.aliased = self.aliased.saturating_add(size);
                self.add(None, size);
                if self.aliased > ALIASED {
                    return Err(at(format!("aliases stand for more than {ALIASED} values")));
                }
            }
            _ => return Ok(()),
        }
        self.nodes += 1;
        if self.nodes > NODES {
            return Err(at("the document is too large".to_owned()));
        }
        if self.anchors.len() > ANCHORS {
            return Err(at(format!("more than {ANCHORS} anchors")));
        }
        Ok(())
    }

    fn add(&mut self, anchor: Option<Vec<u8>>, size: usize) {
        if let Some((_, around)) = self.open.last_mut() {
            *around = around.saturating_add(size);
        }
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor, size);
        }
    }
}

fn position(mark: yaml_mark_t) -> Position {
    Position { line: mark.line as usize + 1, column: mark.column as usize + 1 }
}

/// The C library's parser, translated to Rust. Borrows the text.
struct Parser<'a>(Box<MaybeUninit<yaml_parser_t>>, std::marker::PhantomData<&'a str>);

struct Event(yaml_event_t);

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Option<Self> {
        let mut parser = Box::new(MaybeUninit::uninit());
        // SAFETY: it is initialised here, stays where it is (boxed) until it is deleted, and the
        // text outlives it.
        unsafe {
            if yaml_parser_initialize(parser.as_mut_ptr()).fail {
                return None;
            }
            yaml_parser_set_input_string(parser.as_mut_ptr(), text.as_ptr(), text.len() as u64);
        }
        Some(Self(parser, std::marker::PhantomData))
    }

    /// The next event. `None` at the end, and where the text is not YAML.
    fn next(&mut self) -> Option<Event> {
        let mut event = MaybeUninit::uninit();
        // SAFETY: the parser was initialised; it fills the event if it says so.
        let event = unsafe {
            if yaml_parser_parse(self.0.as_mut_ptr(), event.as_mut_ptr()).fail {
                return None;
            }
            Event(event.assume_init())
        };
        (event.0.type_ != YAML_STREAM_END_EVENT).then_some(event)
    }
}

impl Drop for Parser<'_> {
    fn drop(&mut self) {
        // SAFETY: it was initialised, and this is the only time.
        unsafe { yaml_parser_delete(self.0.as_mut_ptr()) }
    }
}

impl Event {
    /// The anchor of a node, or the one that an alias names.
    fn anchor(&self) -> Option<Vec<u8>> {
        // SAFETY: the kind of the event says which of them is there.
        let anchor: *mut u8 = unsafe {
            match self.0.type_ {
                YAML_SCALAR_EVENT => self.0.data.scalar.anchor,
                YAML_SEQUENCE_START_EVENT => self.0.data.sequence_start.anchor,
                YAML_MAPPING_START_EVENT => self.0.data.mapping_start.anchor,
                YAML_ALIAS_EVENT => self.0.data.alias.anchor,
                _ => return None,
            }
        };
        // SAFETY: if it is there, it ends with NUL and lives as long as the event.
        (!anchor.is_null()).then(|| unsafe { CStr::from_ptr(anchor.cast()).to_bytes().to_vec() })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the parser made it, and this is the only time.
        unsafe { yaml_event_delete(&raw mut self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> Option<String> {
        check(text).err().map(|error| error.message)
    }

    #[test]
    fn depth_is_counted_in_both_styles() {
        let flow = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let block = |depth: usize| format!("{}x", "- ".repeat(depth));
        for text in [flow(DEPTH), block(DEPTH), "[[]]\n".to_owned()] {
            assert_eq!(refusal(&text), None);
        }
        for text in [flow(DEPTH + 1), block(DEPTH + 1), "{a: ".repeat(DEPTH + 1)] {
            assert!(
                refusal(&text).is_some_and(|it| it.starts_with("more than 32 lists")),
                "{text}"
            );
        }
        // One after the other is not within each other.
        assert_eq!(refusal(&format!("[{}]", "[[1]],".repeat(1000))), None);
        assert_eq!(refusal(&"- '['\n".repeat(1000)), None);
    }

    #[test]
    fn what_aliases_stand_for_is_counted() {
        let many =
            |count: usize| format!("a: &a [{}]\nb: *a\nc: &c [*a, *a]\n", "[],".repeat(count));
        assert_eq!(refusal(&many(1000)), None);
        assert!(refusal(&many(40_000)).is_some_and(|it| it.starts_with("aliases stand for")));
        let mut bomb = "a0: &a0 [[],[]]\n".to_owned();
        for step in 0..40 {
            bomb += &format!("a{0}: &a{0} [*a{1},*a{1}]\n", step + 1, step);
        }
        assert!(refusal(&bomb).is_some_and(|it| it.starts_with("aliases stand for")));
        let anchors: String = (0..=ANCHORS).map(|number| format!("- &a{number} x\n")).collect();
        assert!(refusal(&anchors).is_some_and(|it| it.ends_with("anchors")));
        assert_eq!(refusal("a: &a [*a]"), None, "what it means is for others to say");
    }

    #[test]
    fn directives_are_few() {
        let directives: String = (0..10).map(|number| format!("%TAG !{number}! x\n")).collect();
        assert_eq!(refusal(&directives).as_deref(), Some("too many directives"));
        assert_eq!(refusal("%YAML 1.2\n---\nversion: 1\n"), None);
    }

    #[test]
    fn places_are_those_of_the_text() {
        let error = check(&format!("a: 1\nb: {}", "[".repeat(DEPTH + 1))).expect_err("too deep");
        assert_eq!(error.position, Position { line: 2, column: 4 + DEPTH - 1 });
    }
}
