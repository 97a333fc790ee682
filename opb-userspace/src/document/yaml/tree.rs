//! Builds the tree from the parser's events, and refuses what is too much before it is kept.
//!
//! A small text can stand for a huge tree: aliases repeat what they name, and deep nesting is
//! costly wherever a tree is walked.

use std::{borrow::Cow, collections::HashMap, rc::Rc};

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, Tag, options};

use super::{Key, Position, Site, SyntaxError, Value, YamlNode, locate, scalar::resolve};

/// Lists and maps within each other. The project's own files have four levels.
pub(super) const DEPTH: usize = 32;
/// Scalars, lists and maps, as they are written.
pub(super) const NODES: usize = 1 << 23;
/// Scalars, lists and maps that are there only because an alias repeats them.
pub(super) const ALIASED: usize = 100_000;
/// Bytes of text that are there only because an alias repeats them.
pub(super) const ALIASED_BYTES: usize = 8_000_000;
/// Named nodes.
pub(super) const ANCHORS: usize = 10_000;
/// `%YAML` and `%TAG`.
const DIRECTIVES: usize = 4;

pub(super) fn build(text: &str) -> Result<YamlNode<'_>, SyntaxError> {
    // The parser keeps all of them before its first event.
    let mut directives = text.lines().enumerate().filter(|(_, line)| line.starts_with('%'));
    if let Some((line, _)) = directives.nth(DIRECTIVES) {
        let position = Position { line: line + 1, column: 1 };
        return Err(SyntaxError { message: "too many directives".to_owned(), position });
    }
    if Site::try_from(text.len()).is_err() {
        return Err(SyntaxError { message: too_large(), position: Position::START });
    }
    let options = options! {
        emit_comments: false,
        flow_nesting_limit: DEPTH,
        block_nesting_limit: DEPTH,
        block_scalar_eof_without_line_feed: true,
    };
    let mut builder = Builder { text, ..Builder::default() };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| builder.syntax_error(&error))?;
        builder.see(event, span).map_err(|message| {
            let position = Position { line: span.start.line(), column: span.start.col() + 1 };
            SyntaxError { message, position }
        })?;
    }
    Ok(builder.root.unwrap_or(YamlNode { site: 0, value: Value::Null }))
}

fn too_large() -> String {
    "the document is too large".to_owned()
}

fn too_deep() -> String {
    format!("more than {DEPTH} lists and maps within each other")
}

/// How much an alias to a node repeats.
#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    bytes: usize,
}

impl Size {
    fn add(&mut self, other: Self) {
        self.nodes = self.nodes.saturating_add(other.nodes);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// A list or map that is not closed yet.
struct Open<'a> {
    site: Site,
    anchor: usize,
    is_tagged: bool,
    size: Size,
    children: Children<'a>,
}

enum Children<'a> {
    List(Vec<YamlNode<'a>>),
    /// With the key whose value comes next.
    Map(Vec<(Key<'a>, YamlNode<'a>)>, Option<Key<'a>>),
}

/// What an alias repeats.
struct Anchored<'a> {
    node: YamlNode<'a>,
    /// A scalar as it is written: what it is as a key.
    text: Option<Cow<'a, str>>,
    size: Size,
}

#[derive(Default)]
struct Builder<'a> {
    text: &'a str,
    open: Vec<Open<'a>>,
    root: Option<YamlNode<'a>>,
    documents: usize,
    /// By the parser's numbers, which start at 1.
    anchors: HashMap<usize, Anchored<'a>>,
    nodes: usize,
    aliased: Size,
}

/// The error is a message; its place is that of the event.
type Seen = Result<(), String>;

impl<'a> Builder<'a> {
    fn see(&mut self, event: Event<'a>, span: Span) -> Seen {
        let start = span.tag_start().unwrap_or(span.start);
        // The parser counts bytes of every text that is a `str`, and `build` has checked the
        // length.
        let site = start.byte_offset().and_then(|at| Site::try_from(at).ok()).unwrap_or_default();
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err("more than one YAML document in the file".to_owned());
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count()?;
                let size = Size { nodes: 1, bytes: text.len() };
                let site = if span.is_empty() { self.missing(site) } else { site };
                let typed = |text| typed(text, style == ScalarStyle::Plain, tag.as_deref());
                if anchor != 0 {
                    // Also of a key: an alias may repeat it as a value.
                    let node = YamlNode { site, value: typed(text.clone()) };
                    self.keep(anchor, Anchored { node, text: Some(text.clone()), size })?;
                }
                let value = if self.expects_key() { Value::Text(text) } else { typed(text) };
                self.put(YamlNode { site, value }, size)
            }
            Event::SequenceStart(_, anchor, tag) => {
                let is_tagged = is_foreign(tag.as_deref(), "seq");
                self.enter(site, anchor, is_tagged, Children::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                let is_tagged = is_foreign(tag.as_deref(), "map");
                self.enter(site, anchor, is_tagged, Children::Map(Vec::new(), None))
            }
            Event::SequenceEnd | Event::MappingEnd => self.leave(),
            Event::Alias(anchor) => self.repeat(anchor),
            _ => Ok(()),
        }
    }

    fn syntax_error(&self, error: &ScanError) -> SyntaxError {
        let mark = error.marker();
        let mut position = Position { line: mark.line(), column: mark.col() + 1 };
        let message = match error.kind() {
            ErrorKind::RecursionLimitExceeded => too_deep(),
            ErrorKind::UnknownAnchor => "unknown anchor".to_owned(),
            ErrorKind::TabInBlockIndentation => {
                // The parser names the character after the tab.
                let before = mark.byte_offset().and_then(|at| self.text.get(..at));
                position.column -= usize::from(before.is_some_and(|before| before.ends_with('\t')));
                "tabs cannot indent a list or map: use spaces".to_owned()
            }
            ErrorKind::InvalidColonPlacement => format!("unexpected `:`{}", self.brackets()),
            // The place is that of the bracket.
            ErrorKind::UnclosedFlowCollection { .. } => error.info(),
            _ => format!("{}{}", error.info(), self.brackets()),
        };
        SyntaxError { message, position }
    }

    /// Names the innermost list or map if it is one in brackets: the closing bracket may be missing.
    fn brackets(&self) -> String {
        let Some(Open { site, children, .. }) = self.open.last() else { return String::new() };
        let (bracket, kind) = match children {
            Children::List(_) => (b'[', "list"),
            Children::Map(..) => (b'{', "map"),
        };
        if self.text.as_bytes().get(*site as usize) != Some(&bracket) {
            return String::new();
        }
        let places = locate(self.text, &[*site]);
        let place =
            |at: &Position| format!(", in the {kind} at line {} column {}", at.line, at.column);
        places.first().map(place).unwrap_or_default()
    }

    fn count(&mut self) -> Seen {
        self.nodes += 1;
        if self.nodes > NODES { Err(too_large()) } else { Ok(()) }
    }

    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { children: Children::Map(_, None), .. }))
    }

    /// The place of a value that is not there: the parser names the colon in front of it.
    fn missing(&self, site: Site) -> Site {
        site + Site::from(self.text.as_bytes().get(site as usize) == Some(&b':'))
    }

    fn enter(
        &mut self,
        site: Site,
        anchor: usize,
        is_tagged: bool,
        children: Children<'a>,
    ) -> Seen {
        self.count()?;
        if self.expects_key() {
            let kind = if matches!(children, Children::List(_)) { "a list" } else { "a map" };
            return Err(format!("a key must be text, not {kind}"));
        }
        if self.open.len() == DEPTH {
            return Err(too_deep());
        }
        let size = Size { nodes: 1, bytes: 0 };
        self.open.push(Open { site, anchor, is_tagged, size, children });
        Ok(())
    }

    fn leave(&mut self) -> Seen {
        let Some(Open { site, anchor, is_tagged, size, children }) = self.open.pop() else {
            return Ok(());
        };
        let value = match children {
            _ if is_tagged => Value::Tagged,
            Children::List(mut list) => {
                list.shrink_to_fit();
                Value::List(Rc::new(list))
            }
            Children::Map(mut map, _) => {
                map.shrink_to_fit();
                Value::Map(Rc::new(map))
            }
        };
        let node = YamlNode { site, value };
        if anchor != 0 {
            self.keep(anchor, Anchored { node: node.clone(), text: None, size })?;
        }
        self.put(node, size)
    }

    fn keep(&mut self, anchor: usize, anchored: Anchored<'a>) -> Seen {
        self.anchors.insert(anchor, anchored);
        if self.anchors.len() > ANCHORS {
            return Err(format!("more than {ANCHORS} anchors"));
        }
        Ok(())
    }

    fn repeat(&mut self, anchor: usize) -> Seen {
        self.count()?;
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err("the alias is inside the node that it names".to_owned());
        };
        let (mut node, size) = (anchored.node.clone(), anchored.size);
        if let (true, Some(text)) = (self.expects_key(), &anchored.text) {
            node.value = Value::Text(text.clone());
        }
        self.aliased.add(size);
        if self.aliased.nodes > ALIASED {
            return Err(format!("aliases stand for more than {ALIASED} values"));
        }
        if self.aliased.bytes > ALIASED_BYTES {
            return Err(format!("aliases stand for more than {ALIASED_BYTES} bytes of text"));
        }
        self.put(node, size)
    }

    /// Adds a complete node to the list or map that is open.
    fn put(&mut self, node: YamlNode<'a>, size: Size) -> Seen {
        let Some(Open { children, size: around, .. }) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        around.add(size);
        match children {
            Children::List(list) => list.push(node),
            Children::Map(map, key) => match (key.take(), node) {
                (Some(key), YamlNode { site, value }) => {
                    let is_scalar = !matches!(value, Value::List(_) | Value::Map(_));
                    let site = if is_scalar { site } else { key.site };
                    map.push((key, YamlNode { site, value }));
                }
                (None, YamlNode { site, value: Value::Text(text) }) => {
                    *key = Some(Key { site, text })
                }
                (None, node) => {
                    return Err(format!("a key must be text, not {}", node.value.kind()));
                }
            },
        }
        Ok(())
    }
}

/// A scalar by its style and tag: YAML 1.2.2, section 10.3.
fn typed<'a>(text: Cow<'a, str>, is_plain: bool, tag: Option<&Tag>) -> Value<'a> {
    let Some(tag) = tag else {
        return if is_plain { resolve(text) } else { Value::Text(text) };
    };
    if is_unspecific(tag) || tag.is_yaml_core_schema_tag("str") {
        return Value::Text(text);
    }
    let value = resolve(text);
    let fits = match value {
        Value::Null => tag.is_yaml_core_schema_tag("null"),
        Value::Bool(_) => tag.is_yaml_core_schema_tag("bool"),
        Value::Int(_) | Value::Huge => tag.is_yaml_core_schema_tag("int"),
        Value::Float => tag.is_yaml_core_schema_tag("float"),
        _ => false,
    };
    if fits { value } else { Value::Tagged }
}

/// Whether the tag says something else than that the node is a list (`seq`) or a map (`map`).
fn is_foreign(tag: Option<&Tag>, kind: &str) -> bool {
    tag.is_some_and(|tag| !is_unspecific(tag) && !tag.is_yaml_core_schema_tag(kind))
}

/// Whether the tag is `!`, which says that a scalar is text.
fn is_unspecific(tag: &Tag) -> bool {
    tag.parts() == ("", "!")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_a_largest_size() {
        let mut builder = Builder { nodes: NODES - 1, ..Builder::default() };
        assert_eq!(builder.count(), Ok(()));
        assert_eq!(builder.count(), Err(too_large()));
        let mut builder = Builder { nodes: NODES, ..Builder::default() };
        for event in Parser::new_from_str("[]").skip(2).take(1) {
            let (event, span) = event.expect("a list");
            assert_eq!(builder.see(event, span), Err(too_large()));
        }
    }
}
