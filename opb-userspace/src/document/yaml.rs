//! YAML text as a tree whose nodes can be found again in the text.
//!
//! serde_yaml gives a position only when deserialising fails there. So the tree numbers its scalars
//! in the order in which they are visited. If there are problems to report, a second pass visits
//! the text in the same order and fails, on purpose, at the scalars with the wanted numbers. A
//! correct file costs one pass.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

mod bounds;

/// The most scalars of a file, far more than a real one has.
const MAX_SCALARS: u32 = bounds::NODES as u32;

/// The number of a scalar within its file. A list or map has the number of its key, or else of its
/// first scalar: that is where an operator looks for it.
pub(crate) type Site = u32;

#[derive(Debug)]
pub(crate) struct YamlNode<'a> {
    pub(crate) site: Site,
    pub(crate) value: Value<'a>,
}

#[derive(Debug)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float,
    /// A whole number beyond `i64`.
    Huge,
    Text(Cow<'a, str>),
    List(Vec<YamlNode<'a>>),
    /// In file order, with duplicate keys: the error for a duplicate names both places.
    Map(Vec<(Key<'a>, YamlNode<'a>)>),
    /// A value with a local tag such as `!secret`.
    Tagged,
}

#[derive(Debug)]
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

/// An error of the YAML parser.
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
}

/// Reads one YAML document.
pub(crate) fn parse(text: &str) -> Result<YamlNode<'_>, SyntaxError> {
    bounds::check(text)?;
    let count = Cell::new(0);
    Build { count: &count }.deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| {
        let Some(location) = error.location() else {
            // The only error that carries no location is that of a second document.
            return SyntaxError {
                message: without_location(&error),
                position: second_document(text),
            };
        };
        let position = Position { line: location.line(), column: location.column() };
        SyntaxError { message: without_location(&error), position }
    })
}

/// Returns the positions of scalars in a text that `parse` accepts. `sites` must be sorted and
/// without duplicates; the positions are in the same order. A scalar that does not exist (in an
/// empty file) has the position of the start.
pub(crate) fn locate(text: &str, sites: &[Site]) -> Vec<Position> {
    let search = Search::new(sites);
    // The text parsed before, and every deliberate failure is caught where it was made.
    let _ = Locate(&search).deserialize(serde_yaml::Deserializer::from_str(text));
    search.finish()
}

fn second_document(text: &str) -> Position {
    let search = Search::new(&[0]);
    if let Some(document) = serde_yaml::Deserializer::from_str(text).nth(1) {
        let _ = Locate(&search).deserialize(document);
    }
    search.finish().first().copied().unwrap_or(Position::START)
}

/// Removes the location that serde_yaml puts into its message: ours precedes the message, in one
/// form for all errors.
fn without_location(error: &serde_yaml::Error) -> String {
    let mut message = error.to_string();
    if let Some(location) = error.location() {
        let suffix = format!(" at line {} column {}", location.line(), location.column());
        message = message.replacen(&suffix, "", 1);
    }
    message.replace(
        "deserializing from YAML containing more than one document is not supported",
        "more than one YAML document in the file",
    )
}

struct Build<'c> {
    count: &'c Cell<Site>,
}

impl Build<'_> {
    fn scalar<'de, E: Error>(&self, value: Value<'de>) -> Result<YamlNode<'de>, E> {
        Ok(YamlNode { site: self.number()?, value })
    }

    fn number<E: Error>(&self) -> Result<Site, E> {
        let site = self.count.get();
        if site == MAX_SCALARS {
            return Err(E::custom("the document is too large"));
        }
        self.count.set(site + 1);
        Ok(site)
    }

    fn container<'de>(&self, first: Site, value: Value<'de>) -> YamlNode<'de> {
        let empty = first == self.count.get();
        YamlNode { site: if empty { first.saturating_sub(1) } else { first }, value }
    }
}

impl<'de> DeserializeSeed<'de> for Build<'_> {
    type Value = YamlNode<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<YamlNode<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Build<'_> {
    type Value = YamlNode<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E: Error>(self) -> Result<YamlNode<'de>, E> {
        self.scalar(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<YamlNode<'de>, E> {
        self.scalar(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<YamlNode<'de>, E> {
        self.scalar(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<YamlNode<'de>, E> {
        self.scalar(Value::Int(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<YamlNode<'de>, E> {
        self.scalar(i64::try_from(value).map_or(Value::Huge, Value::Int))
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<YamlNode<'de>, E> {
        self.scalar(Value::Huge)
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<YamlNode<'de>, E> {
        self.scalar(Value::Huge)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<YamlNode<'de>, E> {
        self.scalar(Value::Float)
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<YamlNode<'de>, E> {
        self.scalar(Value::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<YamlNode<'de>, E> {
        self.scalar(Value::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<YamlNode<'de>, A::Error> {
        let first = self.count.get();
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Build { count: self.count })? {
            list.push(item);
        }
        Ok(self.container(first, Value::List(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<YamlNode<'de>, A::Error> {
        let first = self.count.get();
        let mut map = Vec::new();
        while let Some(text) = entries.next_key_seed(KeyText)? {
            let key = Key { site: self.number()?, text };
            let mut value = entries.next_value_seed(Build { count: self.count })?;
            if matches!(value.value, Value::List(_) | Value::Map(_)) {
                value.site = key.site;
            }
            map.push((key, value));
        }
        Ok(self.container(first, Value::Map(map)))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<YamlNode<'de>, A::Error> {
        let (_, contents) = data.variant_seed(PhantomData::<String>)?;
        contents.newtype_variant::<IgnoredAny>()?;
        self.scalar(Value::Tagged)
    }
}

/// Reads a key as it is written, so that `100:` and `true:` are names like any other.
struct KeyText;

impl<'de> DeserializeSeed<'de> for KeyText {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeyText {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a simple key")
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(value.to_owned()))
    }
}

/// The state of a second pass: the wanted scalars, and the positions found so far.
struct Search<'s> {
    wanted: &'s [Site],
    next: Cell<Site>,
    found: RefCell<Vec<Position>>,
    failing: Cell<bool>,
}

impl<'s> Search<'s> {
    fn new(wanted: &'s [Site]) -> Self {
        let found = RefCell::new(Vec::with_capacity(wanted.len()));
        Self { wanted, next: Cell::new(0), found, failing: Cell::new(false) }
    }

    fn finish(self) -> Vec<Position> {
        let mut found = self.found.into_inner();
        found.resize(self.wanted.len(), Position::START);
        found
    }

    /// Counts a scalar, and fails at it if it is wanted.
    fn meet<E: Error>(&self) -> Result<(), E> {
        let site = self.next.get();
        self.next.set(site + 1);
        if self.wanted.get(self.found.borrow().len()) == Some(&site) {
            self.failing.set(true);
            return Err(E::custom("here"));
        }
        Ok(())
    }

    /// Takes the location out of a deliberate failure; serde_yaml has consumed the scalar, so the
    /// visit goes on.
    fn catch<T, E: Error>(&self, result: Result<T, E>, instead: T) -> Result<T, E> {
        match result {
            Err(error) if self.failing.replace(false) => {
                self.found.borrow_mut().push(position_in(&error.to_string()));
                Ok(instead)
            }
            other => other,
        }
    }
}

/// Inside a visitor the error type is opaque, so `location()` cannot be asked: the message has the
/// same numbers. A failure at the very start of the text names no line.
fn position_in(message: &str) -> Position {
    let numbers = || {
        let (rest, column) = message.rsplit_once(" column ")?;
        let (_, line) = rest.rsplit_once(" at line ")?;
        Some(Position { line: line.parse().ok()?, column: column.parse().ok()? })
    };
    numbers().unwrap_or(Position::START)
}

struct Locate<'s>(&'s Search<'s>);

impl<'de> DeserializeSeed<'de> for Locate<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let search = self.0;
        search.catch(deserializer.deserialize_any(self), ())
    }
}

impl<'de> Visitor<'de> for Locate<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.0.meet()
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.0.meet()
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.0.meet()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.0.meet()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.0.meet()
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<(), E> {
        self.0.meet()
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<(), E> {
        self.0.meet()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.0.meet()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.0.meet()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Locate(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while entries.next_key_seed(LocateKey(self.0))?.is_some() {
            entries.next_value_seed(Locate(self.0))?;
        }
        Ok(())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<(), A::Error> {
        let (_, contents) = data.variant_seed(PhantomData::<String>)?;
        contents.newtype_variant::<IgnoredAny>()?;
        self.0.meet()
    }
}

struct LocateKey<'s>(&'s Search<'s>);

impl<'de> DeserializeSeed<'de> for LocateKey<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.catch(deserializer.deserialize_str(Locate(self.0)), ())
    }
}

#[cfg(test)]
mod tests;
