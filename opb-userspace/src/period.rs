//! Durations as users write them: `90s`, `8h`, `1d 12h`.

use std::{fmt, str::FromStr, time::Duration};

use jiff::{SignedDuration, Span, SpanRelativeTo};

/// A duration of at least one second. A day has 24 hours, a week seven days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(Duration);

/// Why a text is not a valid [`Period`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeriodError {
    #[error("invalid duration `{0}`: expected for example 90s, 8h or 30d")]
    Invalid(String),
    #[error("invalid duration `{text}`: expected at most {longest}")]
    TooLong { text: String, longest: Period },
}

impl Period {
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Parses a period of at most `longest`.
    pub fn within(text: &str, longest: Self) -> Result<Self, PeriodError> {
        match text.parse()? {
            Self(period) if period > longest.0 => {
                Err(PeriodError::TooLong { text: text.to_owned(), longest })
            }
            period => Ok(period),
        }
    }
}

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let refused = || PeriodError::Invalid(text.to_owned());
        let span: Span = text.parse().map_err(|_| refused())?;
        let length =
            span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| refused())?;
        if length < SignedDuration::from_secs(1) {
            return Err(refused());
        }
        Ok(Self(length.unsigned_abs()))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = SignedDuration::try_from(self.0).unwrap_or(SignedDuration::MAX);
        write!(f, "{length:#}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_usual_forms() {
        let seconds = |text: &str| text.parse::<Period>().map(|it| it.duration().as_secs()).ok();
        assert_eq!(seconds("90s"), Some(90));
        assert_eq!(seconds("8h"), Some(8 * 3600));
        assert_eq!(seconds("1d 12h"), Some(36 * 3600));
        assert_eq!(seconds("2w"), Some(14 * 86_400));
        for wrong in ["", "8", "h", "-8h", "0s", "500ms", "1mo", "8 apples"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn refuses_longer_periods() {
        let year = Period::from_secs(400 * 86_400);
        assert_eq!(Period::within("400d", year), Ok(year));
        assert!(Period::within("999999999h", year).is_err());
        let error = Period::within("401d", year).expect_err("too long");
        assert_eq!(error.to_string(), "invalid duration `401d`: expected at most 9600h");
    }
}
