//! Changes requested by operators and programs, as events.

use std::sync::Arc;

use crate::api::{entries::Who, events::Event, events::Kind};
use jiff::Timestamp;

/// One requested change.
#[derive(Clone, Debug)]
pub struct Action {
    pub time: Timestamp,
    pub by: Arc<Who>,
    /// `add`, `remove`, `reload`, `confirm`, `rollback` or `bypass`.
    pub name: &'static str,
    /// The result, in words.
    pub outcome: String,
}

impl Action {
    #[must_use]
    pub fn new(name: &'static str, by: &Arc<Who>, outcome: String) -> Self {
        Self { time: Timestamp::now(), by: Arc::clone(by), name, outcome }
    }

    pub(super) fn event(self) -> Event {
        Event {
            action: self.name.to_owned(),
            by: Some(Who::clone(&self.by)),
            outcome: self.outcome,
            ..Event::of(Kind::Change, self.time, "-".to_owned())
        }
    }
}
