//! Why nothing was imported.

/// An import without a result. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    #[error("the input is larger than {limit} bytes, the limit")]
    TooLarge { limit: usize },
    #[error("line {line} is not UTF-8: convert the input, for example with iconv")]
    NotUtf8 { line: usize },
    #[error("line {line} is longer than {limit} bytes, the limit")]
    LongLine { line: usize, limit: usize },
    #[error("line {line}: {message}")]
    Syntax { line: usize, message: String },
    #[error("the input is not JSON as `nft -j list ruleset` prints it: {0}")]
    Json(String),
    #[error("the input is empty")]
    Empty,
    #[error(
        "unknown format: expected the output of nft or ipset, a list of prefixes, or rules of IOS or Junos"
    )]
    UnknownFormat,
    #[error("nothing to import: no rule denies TCP to port 25")]
    Nothing,
    #[error("nothing to import: the input has no set of addresses")]
    NoSets,
    #[error("several lists of rules deny {family} TCP to port 25: {}", .names.join(", "))]
    Ambiguous { family: &'static str, names: Vec<String> },
    #[error("the input has no rules or set with the name `{name}`: expected one of {}", .known.join(", "))]
    UnknownName { name: String, known: Vec<String> },
    #[error("the rules are too complex: {what}, and the limit is {limit}")]
    TooComplex { what: &'static str, limit: usize },
    #[error("the policy that was made of the rules is not valid: {0}")]
    Invalid(String),
}
