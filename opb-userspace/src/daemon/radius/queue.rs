//! The queue of reports in front of the enforcer: one commit and one publication serve all that have
//! come meanwhile.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::sync::mpsc;
use tracing::warn;

use super::repeats::Id;
use crate::{
    daemon::{enforcer::Enforcer, worker::Worker},
    errors::one_line,
    subscribers::sessions::{event::Event, staging::Outcome},
};

/// The most reports that wait. A client sends again what found no room.
const WAITING: usize = 16_384;
/// The most reports of one commit: an overlay holds their addresses, and everybody else's request
/// waits no longer than for one of these.
const TOGETHER: usize = 2048;

/// How a request is answered once its report is in force.
pub(super) struct Answer {
    pub(super) id: Id,
    pub(super) response: Vec<u8>,
    pub(super) since: Instant,
    /// The addresses that no session may own.
    pub(super) refused: usize,
}

/// A report that has been dealt with. Without an outcome, store or kernel have failed.
pub(super) struct Done {
    pub(super) answer: Answer,
    pub(super) outcome: Option<Outcome>,
}

#[derive(Clone)]
pub(super) struct Queue {
    enforcer: Worker<Enforcer>,
    waiting: Arc<Mutex<Waiting>>,
    done: mpsc::UnboundedSender<Done>,
}

#[derive(Default)]
struct Waiting {
    reports: Vec<(Event, Answer)>,
    /// A job that takes reports is on its way to the enforcer.
    is_called: bool,
}

/// There is no room, or the enforcer has ended.
pub(super) struct Refused;

impl Queue {
    pub(super) fn new(enforcer: Worker<Enforcer>, done: mpsc::UnboundedSender<Done>) -> Self {
        Self { enforcer, waiting: Arc::default(), done }
    }

    pub(super) fn push(&self, event: Event, answer: Answer) -> Result<(), Refused> {
        let mut waiting = self.lock();
        if waiting.reports.len() >= WAITING {
            return Err(Refused);
        }
        waiting.reports.push((event, answer));
        self.call(&mut waiting)
    }

    /// Has the enforcer work on the queue, unless it will anyway.
    fn call(&self, waiting: &mut Waiting) -> Result<(), Refused> {
        if waiting.is_called || waiting.reports.is_empty() {
            return Ok(());
        }
        let queue = self.clone();
        let posted = self.enforcer.post(move |enforcer| queue.work(enforcer));
        posted.map_err(|_| {
            waiting.reports.clear();
            Refused
        })?;
        waiting.is_called = true;
        Ok(())
    }

    /// On the enforcer's thread: the oldest reports.
    fn work(&self, enforcer: &mut Enforcer) {
        let reports: Vec<_> = {
            let mut waiting = self.lock();
            let count = waiting.reports.len().min(TOGETHER);
            waiting.reports.drain(..count).collect()
        };
        let (events, answers): (Vec<_>, Vec<_>) = reports.into_iter().unzip();
        let outcomes = match enforcer.report_sessions(&events) {
            Ok(outcomes) => outcomes.into_iter().map(Some).collect(),
            Err(error) => {
                warn!(
                    "{} accounting requests are not answered: {}",
                    events.len(),
                    one_line(&error)
                );
                vec![None; events.len()]
            }
        };
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            // The listener lives as long as the process.
            let _ = self.done.send(Done { answer, outcome });
        }
        let mut waiting = self.lock();
        waiting.is_called = false;
        // Other work of the enforcer comes in between.
        let _ = self.call(&mut waiting);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
