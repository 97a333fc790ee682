//! Something that goes wrong, stays wrong for a while, and is right again.

use std::error::Error;

use tracing::error;

use crate::{
    api::status::{Subject, Trouble},
    daemon::changed::Changed,
    errors::one_line,
};

/// At most one current error of one kind. It is logged when it begins or changes, and is part of
/// the status until it is cleared.
#[derive(Debug)]
pub(super) struct Fault<E>(Option<E>);

impl<E> Default for Fault<E> {
    fn default() -> Self {
        Self(None)
    }
}

impl<E: Error> Fault<E> {
    /// Replaces the current error.
    pub(super) fn raise(&mut self, error: E) -> Changed {
        let text = one_line(&error);
        let is_new = self.0.as_ref().is_none_or(|known| one_line(known) != text);
        if is_new {
            error!("{text}");
        }
        self.0 = Some(error);
        is_new.into()
    }

    pub(super) fn clear(&mut self) -> Changed {
        self.0.take().is_some().into()
    }

    /// Raises an error, or clears the current one.
    pub(super) fn set(&mut self, error: Option<E>) -> Changed {
        match error {
            Some(error) => self.raise(error),
            None => self.clear(),
        }
    }

    pub(super) fn is_raised(&self) -> bool {
        self.0.is_some()
    }

    /// The current error as the status shows it.
    pub(super) fn trouble(&self, about: Subject) -> Option<Trouble> {
        self.0.as_ref().map(|error| Trouble::new(about, one_line(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn error(text: &str) -> io::Error {
        io::Error::other(text.to_owned())
    }

    #[test]
    fn only_news_changes_the_status() {
        let mut fault = Fault::default();
        assert_eq!(fault.clear(), Changed::No);
        assert_eq!(fault.raise(error("disk full")), Changed::Yes);
        assert_eq!(fault.raise(error("disk full")), Changed::No);
        assert_eq!(fault.raise(error("disk gone")), Changed::Yes);
        let shown = fault.trouble(Subject::Disk);
        assert_eq!(shown, Some(Trouble::new(Subject::Disk, "disk gone".to_owned())));
        assert_eq!(fault.set(None), Changed::Yes);
        assert!(!fault.is_raised() && fault.trouble(Subject::Disk).is_none());
    }
}
