//! The files of one load, and the problems found in them.
//!
//! While the files are read, a place is a number of four bytes. Only if there are problems,
//! `finish` finds lines and columns.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::diagnostics::{Diagnostic, Diagnostics, Excerpt, LineColumn, Location, Note, Severity};
use super::yaml::{self, Position, Site};
use crate::files::{self, Limits};
use crate::text;

/// Errors that are listed, and warnings. Further ones are only counted.
const LISTED: usize = 100;

/// The longest message, in characters.
const LONGEST: usize = 500;

/// A place in one of the files of a load. Small, because each prefix of a policy keeps one until
/// the policy is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Spot {
    pub(crate) file: FileId,
    /// In a YAML file the byte where the node starts, in a plain list of prefixes the index of the
    /// line.
    pub(crate) site: Site,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileId(u32);

/// The location of a problem: a file as a whole, or a place in it.
#[derive(Debug, Clone)]
pub(crate) enum At {
    Path(PathBuf),
    Spot(Spot),
    Position(FileId, Position),
}

impl From<Spot> for At {
    fn from(spot: Spot) -> Self {
        Self::Spot(spot)
    }
}

impl From<&Path> for At {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    Yaml,
    /// One prefix a line.
    Lines,
}

/// A file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub path: PathBuf,
    pub text: Arc<str>,
    pub form: Form,
}

/// A problem whose line and column are not known yet.
pub(crate) struct Problem {
    severity: Severity,
    at: At,
    message: String,
    notes: Vec<(String, Option<Spot>)>,
}

impl Problem {
    /// Adds a note with a second place: "`message` at FILE:LINE:COL".
    pub(crate) fn see(&mut self, message: &str, spot: Spot) -> &mut Self {
        self.notes.push((message.to_owned(), Some(spot)));
        self
    }

    pub(crate) fn note(&mut self, message: impl Into<String>) -> &mut Self {
        self.notes.push((message.into(), None));
        self
    }
}

/// Collects the files and the problems of a load.
#[derive(Default)]
pub(crate) struct Report {
    limits: Limits,
    /// Where to find files. `None` stands for the file system.
    given: Option<Vec<Source>>,
    sources: Vec<Source>,
    problems: Vec<Problem>,
    errors: usize,
    warnings: usize,
    /// Receives the notes of problems that are only counted.
    unlisted: Option<Problem>,
}

impl Report {
    /// A report of files that are at most this large.
    pub(crate) fn within(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// A report of files that were read earlier. No other files exist for it.
    pub(crate) fn of(given: Vec<Source>) -> Self {
        Self { given: Some(given), ..Self::default() }
    }

    pub(crate) fn error(&mut self, at: impl Into<At>, message: impl Into<String>) -> &mut Problem {
        self.errors += 1;
        let listed = self.errors <= LISTED;
        self.add(Severity::Error, at.into(), message.into(), listed)
    }

    pub(crate) fn warning(
        &mut self,
        at: impl Into<At>,
        message: impl Into<String>,
    ) -> &mut Problem {
        self.warnings += 1;
        let listed = self.warnings <= LISTED;
        self.add(Severity::Warning, at.into(), message.into(), listed)
    }

    /// Keeps the files alone.
    pub(crate) fn forget_problems(&mut self) {
        self.problems.clear();
        (self.errors, self.warnings) = (0, 0);
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    pub(crate) fn error_count(&self) -> usize {
        self.errors
    }

    /// The files read so far, in the order of reading.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.sources.iter().map(|source| source.path.clone()).collect()
    }

    /// The content of the files read so far, in the order of reading.
    pub(crate) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Reads a UTF-8 file. A failure becomes a problem of the file.
    pub(crate) fn read(&mut self, path: &Path, form: Form) -> Option<(FileId, Arc<str>)> {
        match self.bytes(path, form) {
            Ok(bytes) => self.add_source(path, bytes, form),
            Err(error) => {
                self.error(path, error.to_string());
                None
            }
        }
    }

    /// Like `read`, but a failure becomes a problem of `spot`, which names the file.
    pub(crate) fn read_for(
        &mut self,
        spot: Spot,
        path: &Path,
        form: Form,
    ) -> Option<(FileId, Arc<str>)> {
        match self.bytes(path, form) {
            Ok(bytes) => self.add_source(path, bytes, form),
            Err(error) => {
                self.error(spot, format!("`{}`: {error}", path.display()));
                None
            }
        }
    }

    pub(crate) fn finish(self) -> Diagnostics {
        let Self { sources, problems, errors, warnings, .. } = self;
        let positions = locate(&sources, &problems);
        let resolve = |at: &At| match at {
            At::Path(_) => None,
            At::Spot(spot) => {
                Some((spot.file, positions.get(spot).copied().unwrap_or(Position::START)))
            }
            At::Position(file, position) => Some((*file, *position)),
        };
        let mut problems = problems;
        problems.sort_by_key(|problem| {
            let found = resolve(&problem.at);
            // Problems of a whole file, such as one that cannot be opened, come last.
            (found.is_none(), found.map(|(file, position)| (file, position.line, position.column)))
        });
        let mut split: BTreeMap<FileId, Vec<&str>> = BTreeMap::new();
        let mut location = |at: &At| {
            let Some((file, Position { line, column })) = resolve(at) else {
                let At::Path(path) = at else { unreachable!("only paths have no position") };
                return Location { file: path.clone(), spot: None };
            };
            let Source { path, text, form } = &sources[file.0 as usize];
            let split = split.entry(file).or_insert_with(|| lines(text, *form).collect());
            let source = split.get(line - 1).copied().unwrap_or_default();
            let source = Excerpt::new(
                if *form == Form::Yaml { source } else { visible_entry(source) },
                column,
            );
            Location { file: path.clone(), spot: Some(LineColumn { line, column, source }) }
        };
        let list = problems
            .into_iter()
            .map(|Problem { severity, at, message, notes }| Diagnostic {
                severity,
                location: location(&at),
                message,
                notes: notes
                    .into_iter()
                    .map(|(message, spot)| Note {
                        message,
                        location: spot.map(|spot| location(&spot.into())),
                    })
                    .collect(),
            })
            .collect();
        let unlisted = errors.saturating_sub(LISTED) + warnings.saturating_sub(LISTED);
        Diagnostics { list, unlisted }
    }

    fn bytes(&self, path: &Path, form: Form) -> Result<Vec<u8>, files::Error> {
        if path.to_str().is_none() {
            return Err(files::Error::Path);
        }
        let Some(given) = &self.given else { return files::read(path, self.limit(form)) };
        let found = given.iter().find(|source| source.path == path && source.form == form);
        found.map(|source| source.text.as_bytes().to_vec()).ok_or(files::Error::Missing)
    }

    fn limit(&self, form: Form) -> u64 {
        match form {
            Form::Yaml => self.limits.policy,
            Form::Lines => self.limits.prefixes,
        }
    }

    fn add(&mut self, severity: Severity, at: At, message: String, listed: bool) -> &mut Problem {
        // The message may quote any text of the file.
        let message = text::line(&text::short(&message, LONGEST)).into_owned();
        let problem = Problem { severity, at, message, notes: Vec::new() };
        if listed {
            self.problems.push(problem);
            let last = self.problems.len() - 1;
            &mut self.problems[last]
        } else {
            self.unlisted.insert(problem)
        }
    }

    fn add_source(
        &mut self,
        path: &Path,
        bytes: Vec<u8>,
        form: Form,
    ) -> Option<(FileId, Arc<str>)> {
        let file = FileId(u32::try_from(self.sources.len()).ok()?);
        let (text, broken) = match String::from_utf8(bytes) {
            Ok(text) => (text, None),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                (String::from_utf8_lossy(error.as_bytes()).into_owned(), Some(valid))
            }
        };
        let position = broken.map(|valid| end_of(&text[..valid]));
        // Some editors write a byte-order mark before the first line.
        let text = Arc::<str>::from(text.strip_prefix('\u{feff}').unwrap_or(&text));
        self.sources.push(Source { path: path.to_owned(), text: text.clone(), form });
        if let Some(position) = position {
            self.error(At::Position(file, position), "the file is not UTF-8");
            return None;
        }
        Some((file, text))
    }
}

/// The part of a line in a plain list that a message may show: the entry, if it looks like a
/// prefix, even a wrong one. A user who names another file must not learn its content from the
/// errors.
pub(crate) fn visible_entry(line: &str) -> &str {
    let entry = line.split_once('#').map_or(line, |(entry, _)| entry).trim_end();
    let looks_like_a_prefix = entry.len() <= 64
        && entry.contains(['.', ':', '/'])
        && entry.chars().all(|c| c.is_ascii_hexdigit() || " \t.:/%".contains(c));
    if looks_like_a_prefix { entry } else { "" }
}

/// The lines of a text as its reader counts them. YAML also ends a line at a CR without LF (YAML
/// 1.2.2, section 5.4).
pub(crate) fn lines(text: &str, form: Form) -> Box<dyn Iterator<Item = &str> + '_> {
    match form {
        Form::Lines => Box::new(text.split('\n')),
        Form::Yaml => Box::new(yaml_lines(text)),
    }
}

fn yaml_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\n', '\r']) else {
            return rest.take();
        };
        let (line, after) = text.split_at(end);
        let width = if after.starts_with("\r\n") { 2 } else { 1 };
        rest = Some(&after[width..]);
        Some(line)
    })
}

fn end_of(text: &str) -> Position {
    let line = text.matches('\n').count() + 1;
    let column = text.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Position { line, column }
}

/// Finds the positions of all problems, with one pass over each file that has some.
fn locate(sources: &[Source], problems: &[Problem]) -> BTreeMap<Spot, Position> {
    let mut wanted: BTreeMap<FileId, Vec<Site>> = BTreeMap::new();
    for Problem { at, notes, .. } in problems {
        let noted = notes.iter().filter_map(|(_, spot)| *spot);
        let own = if let At::Spot(spot) = at { Some(*spot) } else { None };
        for Spot { file, site } in noted.chain(own) {
            wanted.entry(file).or_default().push(site);
        }
    }
    let mut positions = BTreeMap::new();
    for (file, mut sites) in wanted {
        sites.sort_unstable();
        sites.dedup();
        let Source { text, form, .. } = &sources[file.0 as usize];
        let found = match form {
            Form::Yaml => yaml::locate(text, &sites),
            Form::Lines => locate_lines(text, &sites),
        };
        positions.extend(sites.iter().map(|&site| Spot { file, site }).zip(found));
    }
    positions
}

fn locate_lines(text: &str, sites: &[Site]) -> Vec<Position> {
    let mut lines = lines(text, Form::Lines).enumerate();
    let position = |&site: &Site| {
        let index = site as usize;
        let (_, line) = lines.by_ref().find(|(at, _)| *at == index).unwrap_or_default();
        let column = line.chars().take_while(|c| c.is_whitespace()).count() + 1;
        Position { line: index + 1, column }
    };
    sites.iter().map(position).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_reader() {
        let text = "a\r\nb\rc\u{2028}d\n";
        assert_eq!(lines(text, Form::Yaml).collect::<Vec<_>>(), ["a", "b", "c\u{2028}d", ""]);
        assert_eq!(lines("a\r\nb", Form::Lines).collect::<Vec<_>>(), ["a\r", "b"]);
    }

    #[test]
    fn a_path_that_is_not_text_is_a_problem() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(OsStr::from_bytes(b"m\xfcller.yaml"));
        std::fs::write(&path, "version: 1\n").expect("writes");
        let mut report = Report::default();
        assert!(report.read(&path, Form::Yaml).is_none());
        let said = report.finish().to_string();
        assert!(said.contains("not UTF-8"), "{said}");
    }

    #[test]
    fn lines_are_found_by_number() {
        let positions = locate_lines("a\n  b\n\n\tc", &[1, 3]);
        assert_eq!(positions, [Position { line: 2, column: 3 }, Position { line: 4, column: 2 }]);
    }

    #[test]
    fn only_the_first_hundred_are_listed() {
        let mut report = Report::default();
        for _ in 0..120 {
            report.error(Path::new("x"), "wrong").note("and why");
        }
        let diagnostics = report.finish();
        assert_eq!((diagnostics.list.len(), diagnostics.unlisted), (100, 20));
        assert!(diagnostics.to_string().ends_with("\nand 20 more"));
    }
}
