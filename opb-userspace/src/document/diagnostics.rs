//! Problems of files, for people (`Display`) and for programs (`Serialize`).

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use unicode_width::UnicodeWidthChar;

use crate::text;

/// Characters of a long line that are shown on either side of the column.
const EXCERPT: usize = 60;

/// The problems of one load, in the order of the files.
#[derive(Debug, Clone, Default, Serialize, thiserror::Error)]
pub struct Diagnostics {
    pub list: Vec<Diagnostic>,
    /// Number of further problems, which are not listed.
    pub unlisted: usize,
}

impl Diagnostics {
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter().filter(|diagnostic| diagnostic.severity == Severity::Error)
    }

    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter().filter(|diagnostic| diagnostic.severity == Severity::Warning)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { list, unlisted } = self;
        for (index, diagnostic) in list.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{diagnostic}")?;
        }
        if *unlisted > 0 {
            write!(f, "\nand {unlisted} more")?;
        }
        Ok(())
    }
}

/// One problem: the message, its location, and notes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    #[serde(flatten)]
    pub location: Location,
    pub message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// An addition to a message, with a second location if there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    pub message: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
}

/// A line and column of a file, or the file as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Location {
    pub file: PathBuf,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub spot: Option<LineColumn>,
}

/// Line and column count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineColumn {
    pub line: usize,
    pub column: usize,
    /// The line itself, or for a long line the part around the column.
    pub source: Excerpt,
}

/// Part of a source line, and the number of its characters before the column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct Excerpt {
    text: String,
    before: usize,
}

impl Excerpt {
    pub(crate) fn new(line: &str, column: usize) -> Self {
        let line = line.trim_end();
        let skipped = column.saturating_sub(1).saturating_sub(EXCERPT);
        let mut rest = line.chars().skip(skipped);
        let mut text = String::new();
        let mut before = column.saturating_sub(1) - skipped;
        if skipped > 0 {
            text.push('…');
            before += 1;
        }
        // Control characters must not reach a terminal, and a tab would move the caret.
        text.extend(rest.by_ref().take(2 * EXCERPT).map(|c| match c {
            '\t' => ' ',
            c if text::is_unsafe(c) => '\u{fffd}',
            c => c,
        }));
        if rest.next().is_some() {
            text.push('…');
        }
        Self { text, before }
    }
}

impl From<Excerpt> for String {
    fn from(excerpt: Excerpt) -> Self {
        excerpt.text
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, location, message, notes } = self;
        let severity = match severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        write!(f, "{location}: {severity}{message}")?;
        if let Some(LineColumn { source: Excerpt { text, before }, .. }) = &location.spot
            && !text.is_empty()
        {
            // East Asian characters are two columns wide on a terminal.
            let indent: usize = text.chars().take(*before).map(|c| c.width().unwrap_or(0)).sum();
            write!(f, "\n  | {text}\n  | {:indent$}^", "")?;
        }
        for Note { message, location } in notes {
            write!(f, "\nnote: {message}")?;
            if let Some(location) = location {
                write!(f, " at {location}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(LineColumn { line, column, .. }) = &self.spot {
            write!(f, ":{line}:{column}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(line: &str, column: usize) -> String {
        let spot = LineColumn { line: 3, column, source: Excerpt::new(line, column) };
        let location = Location { file: "a.yaml".into(), spot: Some(spot) };
        let message = "wrong".to_owned();
        Diagnostic { severity: Severity::Error, location, message, notes: Vec::new() }.to_string()
    }

    #[test]
    fn the_caret_stands_under_the_place() {
        assert_eq!(rendered("a: [b, c]", 8), "a.yaml:3:8: wrong\n  | a: [b, c]\n  |        ^");
        assert_eq!(rendered("理由: x", 5), "a.yaml:3:5: wrong\n  | 理由: x\n  |       ^");
        assert_eq!(rendered("\tx\u{1b}[2J", 2), "a.yaml:3:2: wrong\n  |  x\u{fffd}[2J\n  |  ^");
        assert_eq!(rendered("", 1), "a.yaml:3:1: wrong");
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let line = format!("{}X{}", "a".repeat(1000), "b".repeat(1000));
        let expected = format!(
            "a.yaml:3:1001: wrong\n  | …{}X{}…\n  | {}^",
            "a".repeat(60),
            "b".repeat(59),
            " ".repeat(61)
        );
        assert_eq!(rendered(&line, 1001), expected);
    }
}
