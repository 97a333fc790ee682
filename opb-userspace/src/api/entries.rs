//! `/v1/subscribers`: run-time entries.

use std::{fmt, marker::PhantomData, sync::Arc};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, SeqAccess, Visitor},
};

use crate::policy::Prefix;

/// One entry for clients. An element of `GET /v1/subscribers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub prefix: Prefix,
    /// Absent where `exempt` is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Arc<str>>,
    #[serde(default)]
    pub exempt: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    pub created: Timestamp,
    pub by: Arc<Who>,
    /// The rule of the policy files for the same prefix, which the entry replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<String>,
    /// Why the entry does nothing, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphaned: Option<String>,
    /// The session that has the prefix: no operator has added it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Arc<str>>,
}

/// An entry that a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEntry {
    /// Text, so that an invalid prefix is a failure of this entry and not of the whole request.
    pub prefix: String,
    /// This or `exempt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub exempt: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &usize) -> bool {
    *value == 0
}

/// The most elements of one request. In memory, an element takes several times its JSON text.
pub const MOST: usize = 2_000_000;

fn at_most<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    struct Elements<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST} elements")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<T>, A::Error> {
            let mut elements = Vec::new();
            while let Some(element) = sequence.next_element()? {
                if elements.len() == MOST {
                    return Err(A::Error::invalid_length(MOST + 1, &self));
                }
                elements.push(element);
            }
            Ok(elements)
        }
    }

    from.deserialize_seq(Elements(PhantomData))
}

/// Body of `POST /v1/subscribers`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addition {
    /// At most [`MOST`].
    #[serde(deserialize_with = "at_most")]
    pub entries: Vec<NewEntry>,
    /// Adds the valid entries although others are not.
    #[serde(default)]
    pub partial: bool,
    /// Only validates: the response is that of the real request, but nothing changes.
    #[serde(default)]
    pub validate_only: bool,
}

/// Body of `POST /v1/subscribers/remove`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// At most [`MOST`].
    #[serde(deserialize_with = "at_most")]
    pub prefixes: Vec<String>,
    #[serde(default)]
    pub partial: bool,
    /// Keeps entries that were added for another reason: a session that ends late must not remove
    /// the entry of the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_reason: Option<String>,
}

/// The result of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeResponse {
    pub added: usize,
    /// Entries that were there and are different now.
    pub changed: usize,
    pub removed: usize,
    /// Entries that were there already, or were not there to be removed.
    pub unchanged: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// Failures beyond those that are listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unlisted: usize,
    /// The daemon rolls all of it back at this time unless it is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_by: Option<Timestamp>,
}

/// The error of one element of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its index in the request, from 0.
    pub index: usize,
    pub prefix: String,
    pub error: String,
}

/// The author of an entry: the peer of the control socket, as reported by the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Who {
    pub uid: u32,
    /// The process that asked; the number may be another's by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The user's name at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "{user} (uid {})", self.uid),
            None => write!(f, "uid {}", self.uid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_so_many_elements() {
        let text = |count| format!(r#"{{"prefixes":[{}]}}"#, vec![r#""""#; count].join(","));
        let removal: Removal = serde_json::from_str(&text(MOST)).expect("as many as there may be");
        assert_eq!(removal.prefixes.len(), MOST);
        let error = serde_json::from_str::<Removal>(&text(MOST + 1)).expect_err("one more");
        let expected = "invalid length 2000001, expected a list of at most 2000000 elements";
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}
