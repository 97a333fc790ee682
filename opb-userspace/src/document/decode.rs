//! Typed values from a YAML tree. A value of the wrong type becomes a problem, and reading goes on.

use std::collections::HashMap;
use std::fmt::Display;

use super::source::{At, FileId, Report, Spot};
use super::yaml::{self, Key, Value, YamlNode};

/// Reads the nodes of one file.
pub(crate) struct Decoder<'r> {
    pub(crate) report: &'r mut Report,
    file: FileId,
}

/// The entries of a map, without duplicate keys: those have been reported.
pub(crate) struct Entries<'n, 'a> {
    list: Vec<(&'n Key<'a>, &'n YamlNode<'a>)>,
}

/// A map whose keys are known in advance. [`Fields::finish`] reports the keys that were not taken.
pub(crate) struct Fields<'n, 'a> {
    entries: Entries<'n, 'a>,
    known: Vec<&'static str>,
}

impl<'r> Decoder<'r> {
    pub(crate) fn new(report: &'r mut Report, file: FileId) -> Self {
        Self { report, file }
    }

    /// Parses a file into a tree. A syntax error is the only problem that ends the reading of a
    /// file.
    pub(crate) fn parse<'t>(&mut self, text: &'t str) -> Option<YamlNode<'t>> {
        match yaml::parse(text) {
            Ok(node) => Some(node),
            Err(yaml::SyntaxError { message, position }) => {
                let at = At::Position(self.file, position);
                self.report.error(at, message);
                None
            }
        }
    }

    pub(crate) fn spot(&self, node: &YamlNode<'_>) -> Spot {
        Spot { file: self.file, site: node.site }
    }

    pub(crate) fn key_spot(&self, key: &Key<'_>) -> Spot {
        Spot { file: self.file, site: key.site }
    }

    /// A map whose keys are names of the operator's choice. An empty value counts as an empty map:
    /// it is what remains when all entries are commented out.
    pub(crate) fn entries<'n, 'a>(
        &mut self,
        what: &str,
        node: &'n YamlNode<'a>,
    ) -> Option<Entries<'n, 'a>> {
        let map = match &node.value {
            Value::Map(map) => map.as_slice(),
            Value::Null => &[],
            _ => return self.mistyped(what, "a map", node),
        };
        let mut seen = HashMap::with_capacity(map.len());
        let mut list = Vec::with_capacity(map.len());
        for (key, value) in map {
            if let Some(first) = seen.insert(&*key.text, key) {
                let (first, again) = (self.key_spot(first), self.key_spot(key));
                let message = format!("`{}` is given twice in {what}", key.text);
                self.report.error(again, message).see("first given", first);
            } else {
                list.push((key, value));
            }
        }
        Some(Entries { list })
    }

    pub(crate) fn fields<'n, 'a>(
        &mut self,
        what: &str,
        node: &'n YamlNode<'a>,
    ) -> Option<Fields<'n, 'a>> {
        Some(Fields { entries: self.entries(what, node)?, known: Vec::new() })
    }

    /// A list. An empty value counts as an empty list.
    pub(crate) fn list<'n, 'a>(
        &mut self,
        what: &str,
        node: &'n YamlNode<'a>,
    ) -> Option<&'n [YamlNode<'a>]> {
        match &node.value {
            Value::List(list) => Some(list.as_slice()),
            Value::Null => Some(&[]),
            _ => self.mistyped(what, "a list", node),
        }
    }

    pub(crate) fn text<'n>(&mut self, what: &str, node: &'n YamlNode<'_>) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => Some(text),
            Value::Bool(_) | Value::Int(_) | Value::Float | Value::Huge => {
                let message =
                    format!("{what} must be text, not {}: put it in quotes", node.value.kind());
                self.report.error(self.spot(node), message);
                None
            }
            _ => self.mistyped(what, "text", node),
        }
    }

    pub(crate) fn integer(&mut self, what: &str, node: &YamlNode<'_>) -> Option<i64> {
        match node.value {
            Value::Int(integer) => Some(integer),
            _ => self.mistyped(what, "a whole number", node),
        }
    }

    /// One of a fixed set of words.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        what: &str,
        node: &YamlNode<'_>,
        allowed: &[(&str, T)],
    ) -> Option<T> {
        let words = || listed(allowed.iter().map(|(word, _)| *word), " or ");
        let message = match &node.value {
            Value::Text(text) => match allowed.iter().find(|(word, _)| word == text) {
                Some((_, value)) => return Some(*value),
                None => {
                    let guess = did_you_mean(text, allowed.iter().map(|(word, _)| *word));
                    format!("{what} must be {}, not `{text}`{guess}", words())
                }
            },
            Value::Bool(value) => format!("{what} must be {}, not the boolean `{value}`", words()),
            other => format!("{what} must be {}, not {}", words(), other.kind()),
        };
        self.report.error(self.spot(node), message);
        None
    }

    pub(crate) fn mistyped<T>(
        &mut self,
        what: &str,
        expected: &str,
        node: &YamlNode<'_>,
    ) -> Option<T> {
        let message = match node.value {
            Value::Null => format!("{what} is empty: it must be {expected}"),
            _ => format!("{what} must be {expected}, not {}", node.value.kind()),
        };
        let problem = self.report.error(self.spot(node), message);
        if node.value.is_unquoted_address() {
            problem.note("inside [ ], an address that ends in `:` needs quotes: [\"2001:db8::\"]");
        }
        None
    }

    /// Reports a file of the other kind: one with a key of `foreign` and none of `own`. Its keys
    /// would all be unknown.
    pub(crate) fn is_other_kind(
        &mut self,
        root: &YamlNode<'_>,
        (own, foreign): (&[&str], &[&str]),
        message: &str,
    ) -> bool {
        let Value::Map(entries) = &root.value else { return false };
        let has = |keys: &[&str]| entries.iter().find(|(key, _)| keys.contains(&&*key.text));
        let Some((key, _)) = has(foreign).filter(|_| has(own).is_none()) else { return false };
        self.report.error(self.key_spot(key), message);
        true
    }

    /// Reads the version key, with which every file starts. If it is missing, the rest is read all
    /// the same, to report all problems at once. With another version the rest has an unknown
    /// meaning, and `None` is returned.
    pub(crate) fn version(
        &mut self,
        root: &YamlNode<'_>,
        fields: &mut Fields<'_, '_>,
    ) -> Option<()> {
        const SUPPORTED: i64 = 1;
        let Some(node) = fields.take("version") else {
            if let Value::Null = root.value {
                self.report
                    .error(self.spot(root), "the file is empty: it must start with `version: 1`");
                return None;
            }
            self.report.error(self.spot(root), "`version: 1` is missing");
            return Some(());
        };
        let version = self.integer("`version`", node)?;
        if version != SUPPORTED {
            let message =
                format!("version {version} is not supported: this opb reads version {SUPPORTED}");
            self.report.error(self.spot(node), message);
            return None;
        }
        Some(())
    }
}

impl<'n, 'a> Entries<'n, 'a> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'n Key<'a>, &'n YamlNode<'a>)> {
        self.list.iter().copied()
    }
}

impl<'n, 'a> Fields<'n, 'a> {
    pub(crate) fn take(&mut self, name: &'static str) -> Option<&'n YamlNode<'a>> {
        self.known.push(name);
        self.entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| node)
    }

    pub(crate) fn finish(self, decoder: &mut Decoder<'_>) {
        let Self { entries, known } = self;
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&&*key.text)) {
            let spot = decoder.key_spot(key);
            let guess = did_you_mean(&key.text, known.iter().copied());
            let problem = decoder.report.error(spot, format!("unknown key `{}`{guess}", key.text));
            if key.text == "<<" {
                problem.note("YAML merge keys are not supported");
            } else if guess.is_empty() {
                problem.note(format!("known here: {}", listed(known.iter().copied(), " and ")));
            }
        }
    }
}

/// ": did you mean `x`?" if one of the candidates is near enough.
pub(crate) fn did_you_mean<'c>(text: &str, candidates: impl Iterator<Item = &'c str>) -> String {
    // No key is as long as this, and a comparison costs the product of the lengths.
    if text.len() > 64 {
        return String::new();
    }
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(text, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 4)
        .min()
        .map(|(_, candidate)| format!(": did you mean `{candidate}`?"))
        .unwrap_or_default()
}

/// "`a`, `b` or `c`".
pub(crate) fn listed(words: impl Iterator<Item = impl Display>, last: &str) -> String {
    let mut words: Vec<String> = words.map(|word| format!("`{word}`")).collect();
    match words.pop() {
        Some(word) if words.is_empty() => word,
        Some(word) => format!("{}{last}{word}", words.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_only_what_is_near() {
        let guess = |text| did_you_mean(text, ["prefixes", "prefixes-file", "ports"].into_iter());
        assert_eq!(guess("prefixs"), ": did you mean `prefixes`?");
        assert_eq!(guess("prefixes_file"), ": did you mean `prefixes-file`?");
        assert_eq!(guess("port"), ": did you mean `ports`?");
        assert_eq!(guess("colour"), "");
    }

    #[test]
    fn lists_read_like_a_sentence() {
        assert_eq!(listed(["a"].iter(), " or "), "`a`");
        assert_eq!(listed(["a", "b", "c"].iter(), " or "), "`a`, `b` or `c`");
    }
}
