//! How a command ends that did not do what it was asked for: what is printed, and the exit code.

use std::{
    error::Error,
    fmt::{self, Display},
    io,
    process::ExitCode,
};

use opb_userspace::document::Diagnostics;

/// Whose fault it is.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The work could not be done.
    Failed,
    /// Wrong use, or a policy or node file that is not valid.
    Invalid,
    /// The answer is no, and everything there is to say has been said.
    Negative,
    /// The same, for a policy or node file that is not valid.
    NegativeInvalid,
    /// No error: help was asked for, or whoever read the output has seen enough.
    Done,
}

/// Everything that is said about it, on stderr.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    messages: Vec<String>,
    causes: Vec<String>,
    hints: Vec<String>,
}

impl Failure {
    pub(crate) const DONE: Self = Self::silent(Kind::Done);
    pub(crate) const NEGATIVE: Self = Self::silent(Kind::Negative);
    pub(crate) const NEGATIVE_INVALID: Self = Self::silent(Kind::NegativeInvalid);

    const fn silent(kind: Kind) -> Self {
        Self { kind, messages: vec![], causes: vec![], hints: vec![] }
    }

    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { kind: Kind::Failed, messages: vec![message.into()], causes: vec![], hints: vec![] }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { kind: Kind::Invalid, ..Self::new(message) }
    }

    /// Several errors of equal rank, all of them in files.
    pub(crate) fn invalid_files(messages: Vec<String>) -> Self {
        Self { kind: Kind::Invalid, messages, causes: vec![], hints: vec![] }
    }

    /// `error` and everything that caused it.
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

    /// Says it on stderr, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let Self { kind, messages, causes, hints } = self;
        let lines = (messages.iter().map(|text| format!("opb: error: {text}\n")))
            .chain(causes.iter().map(|text| format!("caused by: {text}\n")))
            .chain(hints.iter().map(|text| format!("hint: {text}\n")));
        say(&lines.collect::<String>());
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

/// What the standard output could not take.
pub(crate) fn output(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::DONE;
    }
    Failure::new("cannot write the output").caused_by(Some(&error))
}

impl From<Diagnostics> for Failure {
    fn from(diagnostics: Diagnostics) -> Self {
        warn(diagnostics.warnings());
        let mut messages: Vec<_> = diagnostics.errors().map(ToString::to_string).collect();
        if diagnostics.unlisted > 0 {
            messages.push(format!("and {} more", diagnostics.unlisted));
        }
        Self::invalid_files(messages)
    }
}

/// Says each of `warnings` on stderr.
pub(crate) fn warn<T: Display>(warnings: impl IntoIterator<Item = T>) {
    for warning in warnings {
        say(&format!("opb: {warning}\n"));
    }
}

/// A closed stderr is no reason to stop.
fn say(text: &str) {
    let text = opb_userspace::text::lines(text);
    drop(io::Write::write_all(&mut io::stderr().lock(), text.as_bytes()));
}
