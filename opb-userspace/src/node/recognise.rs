//! Telling a node file from a policy.

use std::path::Path;

use crate::policy::source::{Form, Report};
use crate::policy::yaml::{self, Value};

/// Whether the file at `path` is a node file: one that lists `interfaces`. Whoever loads it reports what is wrong with it.
pub fn is_node_file(path: &Path) -> bool {
    if !path.is_file() {
        return false;
    }
    let Some((_, text)) = Report::default().read(path, Form::Yaml) else { return false };
    // A policy may be large, and is not parsed for this.
    if !text.contains("interfaces") {
        return false;
    }
    match yaml::parse(&text).map(|node| node.value) {
        Ok(Value::Map(entries)) => entries.iter().any(|(key, _)| key.text == "interfaces"),
        _ => false,
    }
}
