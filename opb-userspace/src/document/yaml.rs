//! YAML text as a tree in which every node knows where it starts.
//!
//! One pass of `granit-parser` makes the tree; every bound is checked before the node is kept
//! (`docs/adr/0003-yaml.md`).

use std::borrow::Cow;
use std::rc::Rc;

mod scalar;
mod tree;

/// Where a node starts: its byte offset in the text, the tag included. A list or map that is the
/// value of a key has the place of the key, because that is where an operator looks for it.
pub(crate) type Site = u32;

/// Cheap to clone, so that an alias shares the value of its anchor.
#[derive(Debug, Clone)]
pub(crate) struct YamlNode<'a> {
    pub(crate) site: Site,
    pub(crate) value: Value<'a>,
}

#[derive(Debug, Clone)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float,
    /// A whole number beyond 64 bits.
    Huge,
    Text(Cow<'a, str>),
    List(Rc<Vec<YamlNode<'a>>>),
    /// In file order, with duplicate keys: the report of a duplicate names both places.
    Map(Rc<Vec<(Key<'a>, YamlNode<'a>)>>),
    /// A value with a local tag such as `!secret`.
    Tagged,
}

/// A key as it is written, so that `100:` and `true:` are names like any other.
#[derive(Debug, Clone)]
pub(crate) struct Key<'a> {
    pub(crate) site: Site,
    pub(crate) text: Cow<'a, str>,
}

/// Line and column, both from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Position {
    pub(crate) const START: Self = Self { line: 1, column: 1 };
}

/// Text that is not YAML, or more YAML than is read.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) message: String,
    pub(crate) position: Position,
}

impl Value<'_> {
    /// The kind of value, as the end of "must be a list, not …".
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "empty",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "a number",
            Self::Float => "a fraction",
            Self::Huge => "a number of this size",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
            Self::Tagged => "a tagged value",
        }
    }

    /// Whether this is the map that YAML 1.2 makes of an unquoted `2001:db8::` inside `[ ]`.
    pub(crate) fn is_unquoted_address(&self) -> bool {
        let Self::Map(entries) = self else { return false };
        let [(key, YamlNode { value: Self::Null, .. })] = &entries[..] else { return false };
        key.text.ends_with(':')
    }
}

/// Reads one YAML document. An empty text is `Null`.
///
/// # Errors
///
/// The first syntax error, or the first bound that the text exceeds.
pub(crate) fn parse(text: &str) -> Result<YamlNode<'_>, SyntaxError> {
    tree::build(text)
}

/// Returns the positions of `sites`, in their order. `sites` must be sorted.
pub(crate) fn locate(text: &str, sites: &[Site]) -> Vec<Position> {
    let mut position = Position::START;
    let mut rest = text.char_indices().peekable();
    let find = |&site: &Site| {
        while let Some((_, letter)) = rest.next_if(|(at, _)| *at < site as usize) {
            let is_crlf = letter == '\r' && matches!(rest.peek(), Some((_, '\n')));
            if matches!(letter, '\n' | '\r') && !is_crlf {
                position = Position { line: position.line + 1, column: 1 };
            } else {
                position.column += 1;
            }
        }
        position
    };
    sites.iter().map(find).collect()
}

#[cfg(test)]
mod tests;
