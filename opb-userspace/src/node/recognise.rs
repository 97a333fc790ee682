//! Distinguishes node files from policy files.

use std::path::Path;

use crate::document::{self, Form, Report, Value};

/// Whether the file at `path` is a node file: one that has `interfaces`. Errors are reported when
/// it is loaded.
pub fn is_node_file(path: &Path) -> bool {
    if !path.is_file() {
        return false;
    }
    let Some((_, text)) = Report::default().read(path, Form::Yaml) else { return false };
    // A policy may be large, and is not parsed for this.
    if !text.contains("interfaces") {
        return false;
    }
    match document::parse(&text).map(|node| node.value) {
        Ok(Value::Map(entries)) => entries.iter().any(|(key, _)| key.text == "interfaces"),
        _ => false,
    }
}
