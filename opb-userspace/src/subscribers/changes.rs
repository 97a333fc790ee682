//! What clients ask to be changed, and what came of it.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Changes, Entries, Entry, store::Shared};
use crate::{
    api::entries::{Addition, ChangeResponse, Failure, NewEntry, Removal, Who},
    policy::{Policy, Prefix},
    text,
};

/// Failures that an answer lists. More of them are only counted: a million would take more memory than what they are about.
pub const LISTED: usize = 1000;
/// Characters of a reason.
const LONGEST_REASON: usize = 256;

/// One request: all of it happens or nothing does, unless it is `partial`.
#[derive(Debug)]
pub enum Request {
    Add(Addition, Arc<Who>),
    Remove(Removal, Arc<Who>),
}

impl Request {
    /// Bytes that it takes in memory, roughly.
    pub fn size(&self) -> usize {
        let texts: (usize, usize) = match self {
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
        texts.0 + texts.1
    }

    /// What it is called, and who made it.
    pub fn author(&self) -> (&'static str, Arc<Who>) {
        match self {
            Self::Add(_, who) => ("add", Arc::clone(who)),
            Self::Remove(_, who) => ("remove", Arc::clone(who)),
        }
    }
}

/// Changes that have been accepted and are not made yet.
pub struct Staging<'a> {
    entries: &'a Entries,
    policy: &'a Policy,
    now: Timestamp,
    changes: Changes,
    shared: Shared,
}

/// What one element of a request wants.
type Wanted = (Prefix, Option<Entry>);
/// The same, or why it cannot be.
type Examined = Result<Wanted, String>;

/// What happens to one prefix.
enum Step {
    Added,
    Changed,
    Removed,
    Unchanged,
}

impl<'a> Staging<'a> {
    /// Over the entries that there are, and the groups of `policy`.
    pub fn new(entries: &'a Entries, policy: &'a Policy, now: Timestamp) -> Self {
        Self { entries, policy, now, changes: Changes::new(), shared: Shared::default() }
    }

    pub fn into_changes(self) -> Changes {
        self.changes
    }

    /// Accepts a request, or none of it.
    pub fn stage(&mut self, request: Request) -> ChangeResponse {
        match request {
            Request::Add(Addition { entries, partial }, by) => {
                let wanted = entries.into_iter().map(|new| {
                    let entry = self.examine(&new, &by);
                    (new.prefix, entry.map(|(prefix, entry)| (prefix, Some(entry))))
                });
                let (wanted, refused) = sift(wanted);
                self.take(wanted, refused, partial)
            }
            Request::Remove(Removal { prefixes, partial, if_reason }, _) => {
                let wanted = prefixes.into_iter().map(|text| {
                    let prefix = text.parse::<Prefix>().map_err(|error| error.to_string());
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

    fn examine(&mut self, new: &NewEntry, by: &Arc<Who>) -> Result<(Prefix, Entry), String> {
        let prefix = new.prefix.parse::<Prefix>().map_err(|error| error.to_string())?;
        match (&new.group, new.exempt) {
            (Some(group), false) if self.policy.group(group).is_none() => {
                return Err(format!("the policy has no group `{group}`"));
            }
            (None, false) | (Some(_), true) => {
                return Err("either a group or an exemption is wanted".to_owned());
            }
            _ => {}
        }
        if let Some(reason) = &new.reason {
            if reason.chars().count() > LONGEST_REASON {
                return Err(format!("the reason is longer than {LONGEST_REASON} characters"));
            }
            if let Some(character) = reason.chars().find(|&it| text::is_unsafe(it)) {
                return Err(format!(
                    "the reason has a control character, {}",
                    character.escape_unicode()
                ));
            }
        }
        if let Some(until) = new.until.filter(|&until| until <= self.now) {
            return Err(format!("{until} has passed already"));
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

    /// Starts from the answer that has the failures in it.
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

    /// What there is for a prefix, with what has been accepted.
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
        } else if self.entries.trial().is_some_and(|trial| trial.holds(prefix)) {
            // Whoever asks for what is on trial anyway wants to have it after the trial, too.
            let present = present.cloned();
            self.changes.insert(prefix, present);
        }
        step
    }
}

/// What can be, and an answer that says what cannot.
fn sift(examined: impl Iterator<Item = (String, Examined)>) -> (Vec<Wanted>, ChangeResponse) {
    let (mut wanted, mut answer) = (Vec::new(), ChangeResponse::default());
    for (index, (prefix, result)) in examined.enumerate() {
        match result {
            Ok(one) => wanted.push(one),
            Err(error) if answer.failures.len() < LISTED => {
                answer.failures.push(Failure { index, prefix, error });
            }
            Err(_) => answer.unlisted += 1,
        }
    }
    (wanted, answer)
}
