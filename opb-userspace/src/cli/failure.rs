//! Failures of commands: the messages and the exit code.

use std::{
    error::Error,
    fmt::{self, Display},
    io,
    process::ExitCode,
};

use opb_userspace::document::Diagnostics;

/// The kind of failure, which decides the exit code.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The command failed.
    Failed,
    /// Wrong usage, or an invalid policy or node file.
    Invalid,
    /// The answer is no, and the output already says why.
    Negative,
    /// As `Negative`, for an invalid policy or node file.
    NegativeInvalid,
    /// No error: help was printed, or the reader closed the pipe.
    Done,
}

/// A failure, with everything to print on stderr.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    messages: Vec<String>,
    /// Printed after the messages: many warnings only follow from an error.
    warnings: Vec<String>,
    causes: Vec<String>,
    hints: Vec<String>,
}

impl Failure {
    pub(crate) const DONE: Self = Self::silent(Kind::Done);
    pub(crate) const NEGATIVE: Self = Self::silent(Kind::Negative);
    pub(crate) const NEGATIVE_INVALID: Self = Self::silent(Kind::NegativeInvalid);

    const fn silent(kind: Kind) -> Self {
        Self { kind, messages: vec![], warnings: vec![], causes: vec![], hints: vec![] }
    }

    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { messages: vec![message.into()], ..Self::silent(Kind::Failed) }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { kind: Kind::Invalid, ..Self::new(message) }
    }

    /// Several errors in files.
    pub(crate) fn invalid_files(messages: Vec<String>) -> Self {
        Self { messages, ..Self::silent(Kind::Invalid) }
    }

    /// Describes `error` and its causes.
    pub(crate) fn from_error(error: &dyn Error) -> Self {
        Self::new(error.to_string()).caused_by(error.source())
    }

    /// Appends the chain of causes that starts with `cause`.
    pub(crate) fn caused_by(mut self, cause: Option<&dyn Error>) -> Self {
        let chain = std::iter::successors(cause, |&error| error.source());
        self.causes.extend(chain.map(ToString::to_string));
        self
    }

    pub(crate) fn caused_by_text(mut self, causes: impl IntoIterator<Item = String>) -> Self {
        self.causes.extend(causes);
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Prints the failure on stderr and returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let Self { kind, messages, warnings, causes, hints } = self;
        let lines = (messages.iter().map(|text| format!("opb: error: {text}\n")))
            .chain(warnings.iter().map(|text| format!("opb: {text}\n")))
            .chain(causes.iter().map(|text| format!("caused by: {text}\n")))
            .chain(hints.iter().map(|text| format!("hint: {text}\n")));
        print(&lines.collect::<String>());
        match kind {
            Kind::Done => ExitCode::SUCCESS,
            Kind::Failed | Kind::Negative => ExitCode::from(1),
            Kind::Invalid | Kind::NegativeInvalid => ExitCode::from(2),
        }
    }
}

/// The messages and their causes on one line.
impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.messages.iter().chain(&self.causes).map(String::as_str).collect();
        f.write_str(&all.join(": "))
    }
}

/// Describes an error of writing to standard output. A closed pipe is not an error.
pub(crate) fn output(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::DONE;
    }
    Failure::new("cannot write the output").caused_by(Some(&error))
}

impl From<Diagnostics> for Failure {
    fn from(diagnostics: Diagnostics) -> Self {
        let warnings = diagnostics.warnings().map(ToString::to_string).collect();
        let mut messages: Vec<_> = diagnostics.errors().map(ToString::to_string).collect();
        if diagnostics.unlisted > 0 {
            messages.push(format!("and {} more", diagnostics.unlisted));
        }
        Self { warnings, ..Self::invalid_files(messages) }
    }
}

/// Prints `warnings` on stderr, one a line.
pub(crate) fn warn<T: Display>(warnings: impl IntoIterator<Item = T>) {
    for warning in warnings {
        print(&format!("opb: {warning}\n"));
    }
}

/// Prints `text` on stderr. Ignores errors: a closed stderr must not stop the command.
fn print(text: &str) {
    let text = opb_userspace::text::lines(text);
    drop(io::Write::write_all(&mut io::stderr().lock(), text.as_bytes()));
}
