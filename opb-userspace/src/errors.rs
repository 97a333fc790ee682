//! Errors and their causes as text.

use std::{error::Error, iter};

/// Returns the causes of `error`, outermost first, without `error` itself.
pub fn causes(error: &dyn Error) -> impl Iterator<Item = &dyn Error> {
    iter::successors(error.source(), |&error| error.source())
}

/// Returns `error` and its causes in one line.
#[must_use]
pub fn one_line(error: &dyn Error) -> String {
    causes(error).fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
