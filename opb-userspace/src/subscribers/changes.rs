//! Requests of clients for changes, and their examination.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Changes, Entries, Entry, shared::Shared};
use crate::{
    api::entries::{Addition, ChangeResponse, Failure, NewEntry, Removal, Who},
    policy::{Policy, Prefix, PrefixError},
    text,
};

/// Failures that a response lists. More are only counted: a million would take more memory than the
/// entries.
pub const LISTED: usize = 1000;
/// The most characters in a reason.
const LONGEST_REASON: usize = 256;

/// One request. It succeeds as a whole or not at all, unless it is `partial`.
#[derive(Debug)]
pub enum Request {
    Add(Addition, Arc<Who>),
    Remove(Removal, Arc<Who>),
}

impl Request {
    /// Whether it only validates.
    pub fn is_validation(&self) -> bool {
        matches!(self, Self::Add(Addition { validate_only: true, .. }, _))
    }

    /// Its approximate size in memory, in bytes.
    pub fn size(&self) -> usize {
        let (texts, elements): (usize, usize) = match self {
            Self::Add(Addition { entries, .. }, _) => {
                let reason = |entry: &NewEntry| entry.reason.as_ref().map_or(0, |it| it.len());
                let lengths = entries.iter().map(|entry| entry.prefix.len() + reason(entry));
                (lengths.sum(), entries.len() * size_of::<NewEntry>())
            }
            Self::Remove(Removal { prefixes, .. }, _) => {
                let lengths = prefixes.iter().map(String::len);
                (lengths.sum(), prefixes.len() * size_of::<String>())
            }
        };
        texts + elements
    }

    /// The name of the request, and its author.
    pub fn author(&self) -> (&'static str, Arc<Who>) {
        match self {
            Self::Add(_, who) => ("add", Arc::clone(who)),
            Self::Remove(_, who) => ("remove", Arc::clone(who)),
        }
    }
}

/// Accepted changes that are not committed yet.
pub struct Staging<'a> {
    entries: &'a Entries,
    policy: &'a Policy,
    now: Timestamp,
    changes: Changes,
    shared: Shared,
}

/// A valid element of a request; `None` removes.
type Wanted = (Prefix, Option<Entry>);

/// The error of one element of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    #[error("the policy has no group `{0}`")]
    UnknownGroup(Arc<str>),
    #[error("expected either a group or an exemption")]
    Target,
    #[error("the reason is longer than {LONGEST_REASON} characters")]
    LongReason,
    #[error("the reason has a control character, {}", .0.escape_unicode())]
    ControlCharacter(char),
    #[error("{0} has passed already")]
    Past(Timestamp),
}

/// The effect on one prefix.
enum Step {
    Added,
    Changed,
    Removed,
    Unchanged,
}

impl<'a> Staging<'a> {
    /// Changes to `entries`, for the groups of `policy`.
    pub fn new(entries: &'a Entries, policy: &'a Policy, now: Timestamp) -> Self {
        Self { entries, policy, now, changes: Changes::new(), shared: Shared::default() }
    }

    pub fn into_changes(self) -> Changes {
        self.changes
    }

    /// Accepts a request as a whole, or its valid elements if it is `partial`.
    pub fn stage(&mut self, request: Request) -> ChangeResponse {
        match request {
            Request::Add(Addition { entries, partial, .. }, by) => {
                let wanted = entries.into_iter().map(|new| {
                    let entry = self.examine(&new, &by);
                    (new.prefix, entry.map(|(prefix, entry)| (prefix, Some(entry))))
                });
                let (wanted, refused) = sift(wanted);
                self.take(wanted, refused, partial)
            }
            Request::Remove(Removal { prefixes, partial, if_reason }, _) => {
                let wanted = prefixes.into_iter().map(|text| {
                    let prefix = text.parse::<Prefix>().map_err(EntryError::from);
                    let kept = |prefix| {
                        let present = self.present(prefix)?;
                        let is_other = |reason: &String| present.reason.as_deref() != Some(reason);
                        if_reason.as_ref().is_some_and(is_other).then(|| present.clone())
                    };
                    (text, prefix.map(|prefix| (prefix, kept(prefix))))
                });
                let (wanted, refused) = sift(wanted);
                self.take(wanted, refused, partial)
            }
        }
    }

    fn examine(&mut self, new: &NewEntry, by: &Arc<Who>) -> Result<(Prefix, Entry), EntryError> {
        let prefix = new.prefix.parse::<Prefix>()?;
        match (&new.group, new.exempt) {
            (Some(group), false) if self.policy.group(group).is_none() => {
                return Err(EntryError::UnknownGroup(Arc::clone(group)));
            }
            (None, false) | (Some(_), true) => return Err(EntryError::Target),
            _ => {}
        }
        if let Some(reason) = &new.reason {
            if reason.chars().count() > LONGEST_REASON {
                return Err(EntryError::LongReason);
            }
            if let Some(character) = reason.chars().find(|&it| text::is_unsafe(it)) {
                return Err(EntryError::ControlCharacter(character));
            }
        }
        if let Some(until) = new.until.filter(|&until| until <= self.now) {
            return Err(EntryError::Past(until));
        }
        let mut entry = Entry {
            group: new.group.clone(),
            reason: new.reason.clone(),
            until: new.until,
            created: self.now,
            by: by.clone(),
        };
        self.shared.share(&mut entry);
        Ok((prefix, entry))
    }

    /// Completes a response that has the failures.
    fn take(
        &mut self,
        wanted: Vec<Wanted>,
        mut answer: ChangeResponse,
        partial: bool,
    ) -> ChangeResponse {
        if !partial && !answer.failures.is_empty() {
            return answer;
        }
        for (prefix, entry) in wanted {
            match self.step(prefix, entry) {
                Step::Added => answer.added += 1,
                Step::Changed => answer.changed += 1,
                Step::Removed => answer.removed += 1,
                Step::Unchanged => answer.unchanged += 1,
            }
        }
        answer
    }

    /// The entry of a prefix after the accepted changes.
    fn present(&self, prefix: Prefix) -> Option<&Entry> {
        match self.changes.get(&prefix) {
            Some(staged) => staged.as_ref(),
            None => self.entries.map().get(&prefix),
        }
    }

    fn step(&mut self, prefix: Prefix, entry: Option<Entry>) -> Step {
        let present = self.present(prefix);
        let step = match (present, &entry) {
            (None, None) => Step::Unchanged,
            (Some(present), Some(entry)) if present.says_the_same(entry) => Step::Unchanged,
            (None, Some(_)) => Step::Added,
            (Some(_), Some(_)) => Step::Changed,
            (Some(_), None) => Step::Removed,
        };
        if !matches!(step, Step::Unchanged) {
            self.changes.insert(prefix, entry);
        } else if self.entries.unconfirmed().is_some_and(|import| import.holds(prefix)) {
            // A request for what an unconfirmed import already added keeps it after the rollback.
            let present = present.cloned();
            self.changes.insert(prefix, present);
        }
        step
    }
}

/// The valid elements, and a response with the failures of the others.
fn sift(
    examined: impl Iterator<Item = (String, Result<Wanted, EntryError>)>,
) -> (Vec<Wanted>, ChangeResponse) {
    let (mut wanted, mut answer) = (Vec::new(), ChangeResponse::default());
    for (index, (prefix, result)) in examined.enumerate() {
        match result {
            Ok(one) => wanted.push(one),
            Err(error) if answer.failures.len() < LISTED => {
                let error = error.to_string();
                answer.failures.push(Failure { index, prefix, error });
            }
            Err(_) => answer.unlisted += 1,
        }
    }
    (wanted, answer)
}
