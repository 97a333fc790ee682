//! Whether a step has changed something.

use std::ops::BitOr;

/// The result of a step that may have nothing to do. The caller reports, logs or reloads on
/// [`Changed::Yes`].
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    Yes,
    No,
}

impl From<bool> for Changed {
    fn from(changed: bool) -> Self {
        if changed { Self::Yes } else { Self::No }
    }
}

/// Evaluates both sides; the result is [`Changed::Yes`] if either is.
impl BitOr for Changed {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        if self == Self::Yes { self } else { other }
    }
}
