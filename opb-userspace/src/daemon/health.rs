//! Whether the parts of the daemon do their work. A status is what the enforcer last said; here it is compared with the time.

use std::{
    sync::{
        Arc, LazyLock, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{reader::Reader, serve::Refusals};
use crate::api::status::{Subject, Trouble};
use crate::api::{status::Check, status::State, status::Status};
use crate::telemetry::{Telemetry, Totals};

/// A part that has not moved for this long does not work. All are made to move every second; an image of millions takes a few.
const STALE: Duration = Duration::from_secs(20);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// When something last showed that it works.
#[derive(Clone, Debug)]
pub(super) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    pub(super) fn new() -> Self {
        let pulse = Self(Arc::default());
        pulse.beat();
        pulse
    }

    pub(super) fn beat(&self) {
        self.0.store(START.elapsed().as_millis() as u64, Ordering::Release);
    }

    fn age(&self) -> Duration {
        START.elapsed().saturating_sub(Duration::from_millis(self.0.load(Ordering::Acquire)))
    }
}

/// What is wrong with something, as long as it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Fault(Arc<Mutex<Option<String>>>);

impl Fault {
    /// Whether that is news.
    pub(super) fn set(&self, error: Option<String>) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = *known != error;
        *known = error;
        is_news
    }

    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What telemetry is fed by.
#[derive(Clone, Debug)]
pub(super) struct Feeds {
    /// Counters and talkers are read.
    pub(super) telemetry: Pulse,
    /// They, or events, cannot be read any more.
    pub(super) fault: Fault,
    /// Events cannot be written where the node file wants them.
    pub(super) log: Fault,
    /// The thread that writes them moves, if there is one.
    pub(super) writer: Arc<OnceLock<Pulse>>,
    /// Events that were not.
    pub(super) unwritten: Arc<AtomicU64>,
}

impl Feeds {
    pub(super) fn new() -> Self {
        let (fault, log) = (Fault::default(), Fault::default());
        let (writer, unwritten) = (Arc::default(), Arc::default());
        Self { telemetry: Pulse::new(), fault, log, writer, unwritten }
    }
}

/// Everything that is shown of the state, for all who show it.
#[derive(Clone)]
pub(super) struct Board {
    pub(super) status: watch::Receiver<Option<Status>>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) enforcer: Pulse,
    pub(super) feeds: Feeds,
    pub(super) reader: Reader,
    pub(super) refusals: Arc<Refusals>,
}

impl Board {
    /// What the enforcer last said, unless that is too long ago to be believed. Waits for nobody.
    pub(super) fn status(&self) -> Option<Status> {
        let mut status = self.status.borrow().clone()?;
        status.alarms = self.telemetry.alarms();
        status.checks = self.checks();
        for check in status.checks.iter().filter(|check| !check.ok) {
            let error = check.error.as_deref().unwrap_or("it does not work");
            let text = format!("{}: {error}", check.name);
            status.problems.push(Trouble::new(Subject::Check, text));
            status.state = State::Degraded;
        }
        Some(status)
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            unwritten: self.feeds.unwritten.load(Ordering::Relaxed),
            refused: self.refusals.counts(),
            ..self.telemetry.totals()
        }
    }

    fn checks(&self) -> Vec<Check> {
        let files = self.reader.hangs().then(|| {
            "the files cannot be read (does their file system hang?): what is in force stays in force"
                .to_owned()
        });
        vec![
            alive("enforcer", &self.enforcer, "the thread that talks to the kernel", None),
            alive(
                "telemetry",
                &self.feeds.telemetry,
                "what reads the counters",
                self.feeds.fault.get(),
            ),
            match self.feeds.writer.get() {
                Some(writer) => {
                    alive("event-log", writer, "what writes the events", self.feeds.log.get())
                }
                None => check("event-log", None, self.feeds.log.get()),
            },
            check("files", None, files),
        ]
    }
}

fn alive(name: &str, pulse: &Pulse, what: &str, fault: Option<String>) -> Check {
    let age = pulse.age();
    let stale = || format!("{what} has not moved for {} seconds", age.as_secs());
    check(name, Some(age.as_secs_f64()), fault.or_else(|| (age >= STALE).then(stale)))
}

fn check(name: &str, age: Option<f64>, error: Option<String>) -> Check {
    Check { name: name.to_owned(), ok: error.is_none(), age, error }
}
