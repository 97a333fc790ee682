//! Distinguishes node files from policy files, and finds the pins that a broken one names.

use std::path::{Path, PathBuf};

use crate::{
    document::{self, Form, Report, Value},
    files::{self, NODE_FILE},
};

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

/// Returns the absolute path in the line `pins: PATH` of a node file that may be broken elsewhere,
/// even in its YAML.
#[must_use]
pub fn pins_line(path: &Path) -> Option<PathBuf> {
    let bytes = files::read(path, NODE_FILE).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let value = text.lines().find_map(|line| line.strip_prefix("pins:"))?;
    let value = value.split(" #").next().unwrap_or(value).trim();
    let value = value.trim_matches(['"', '\'']);
    Some(PathBuf::from(value)).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_broken_node_file_still_names_its_pins() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("opb.yaml");
        let pins = |text: &str| {
            fs::write(&path, text).expect("a file");
            pins_line(&path)
        };
        let found = Some(PathBuf::from("/mnt/bpf/opb"));
        for text in [
            "interfaces: [\npins: /mnt/bpf/opb\n",
            "\tx\npins:   \"/mnt/bpf/opb\"   # here\r\nmore",
            "pins: '/mnt/bpf/opb'",
        ] {
            assert_eq!(pins(text), found, "{text}");
        }
        for text in ["", "# pins: /a\n", "  pins: /a\n", "pins: a\n", "pins:\n"] {
            assert_eq!(pins(text), None, "{text}");
        }
        assert_eq!(pins_line(Path::new("/nonexistent/opb.yaml")), None);
    }
}
