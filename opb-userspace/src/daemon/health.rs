//! Checks of the daemon's parts. The enforcer publishes the status; this module adds whether it and
//! the other parts still work.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use super::{
    limits::RefusedRequests, other_rules::OtherRulesReader, pulse::Pulse, radius, reader::Reader,
};
use crate::api::status::{Check, HostState, HostStatus, State, Status, Subject, Trouble};
use crate::telemetry::{Telemetry, Totals};

/// A part without a beat for this long has failed. All parts beat every second; a large image takes
/// a few.
const STALE: Duration = Duration::from_secs(20);

/// The current error of a part.
#[derive(Clone, Debug, Default)]
pub(super) struct Fault(Arc<Mutex<Option<String>>>);

impl Fault {
    /// Replaces the error. Returns whether it has changed.
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

/// The state of the threads and tasks that feed the telemetry.
#[derive(Clone, Debug)]
pub(super) struct Feeds {
    /// Beats when counters and talkers are read.
    pub(super) telemetry: Pulse,
    /// Why counters, talkers or events cannot be read.
    pub(super) fault: Fault,
    /// Why events cannot be written to the destination in the node file.
    pub(super) log: Fault,
    /// Beats while the thread that writes events works; empty if there is none.
    pub(super) writer: Arc<OnceLock<Pulse>>,
    /// Events that were not written.
    pub(super) unwritten: Arc<AtomicU64>,
}

impl Feeds {
    pub(super) fn new() -> Self {
        let (fault, log) = (Fault::default(), Fault::default());
        let (writer, unwritten) = (Arc::default(), Arc::default());
        Self { telemetry: Pulse::new(), fault, log, writer, unwritten }
    }
}

/// The state of the daemon, for the control API, the metrics and the page.
#[derive(Clone)]
pub(super) struct Board {
    pub(super) status: watch::Receiver<Option<Status>>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) enforcer: Pulse,
    pub(super) feeds: Feeds,
    pub(super) reader: Reader,
    /// Why metrics and status page are not served.
    pub(super) http: Fault,
    pub(super) refused: Arc<RefusedRequests>,
    pub(super) other_rules: OtherRulesReader,
    /// The accounting listener.
    pub(super) radius: radius::Feed,
}

impl Board {
    /// The status that the enforcer last published, with the checks. Does not wait.
    pub(super) fn status(&self) -> Option<Status> {
        let mut status = self.status.borrow().clone()?;
        status.alarms = self.telemetry.alarms();
        // Any user can take the address, and answer there in our name: a warning, since that must
        // not degrade the node.
        status.warnings.extend(self.http.get());
        status.checks = self.checks();
        for check in status.checks.iter().filter(|check| !check.ok) {
            let error = check.error.as_deref().unwrap_or("failed");
            let text = format!("{}: {error}", check.name);
            status.problems.push(Trouble::new(Subject::Check, text));
            status.state = State::Degraded;
        }
        Some(status)
    }

    /// What is wrong with relay hosts, once the name servers have been asked for all of them or
    /// `limit` has passed.
    pub(super) async fn relay_warnings(&self, limit: Duration) -> Vec<String> {
        let mut status = self.status.clone();
        let is_asked = |status: &Option<Status>| {
            let mut hosts = status.iter().flat_map(|status| &status.hosts);
            hosts.all(|host| host.state != HostState::Unasked)
        };
        drop(timeout(limit, status.wait_for(is_asked)).await);
        let status = status.borrow();
        let problems = status.iter().flat_map(|status| &status.problems);
        let hosts = status.iter().flat_map(|status| &status.hosts);
        (hosts.filter_map(HostStatus::warning))
            .chain(problems.filter(|it| it.about == Subject::Relays).map(ToString::to_string))
            .collect()
    }

    /// Whether the enforcer has moved within `limit`, which is at most [`STALE`].
    pub(super) fn enforcer_moves(&self, limit: Duration) -> bool {
        self.enforcer.age() < limit.min(STALE)
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            unwritten: self.feeds.unwritten.load(Ordering::Relaxed),
            refused: self.refused.counts(),
            radius: self.radius.is_wanted.then(|| Arc::clone(&self.radius.statistics)),
            ..self.telemetry.totals()
        }
    }

    fn checks(&self) -> Vec<Check> {
        let files = self.reader.hangs().then(|| {
            "the files cannot be read (does their file system hang?): the policy in force stays"
                .to_owned()
        });
        let mut checks = vec![
            alive("enforcer", &self.enforcer, "the thread that talks to the kernel", None),
            alive(
                "telemetry",
                &self.feeds.telemetry,
                "the task that reads the counters",
                self.feeds.fault.get(),
            ),
            match self.feeds.writer.get() {
                Some(writer) => alive(
                    "event-log",
                    writer,
                    "the thread that writes the events",
                    self.feeds.log.get(),
                ),
                None => check("event-log", None, self.feeds.log.get()),
            },
            check("files", None, files),
        ];
        if self.radius.is_wanted {
            checks.push(check("radius", None, self.radius.fault.get()));
        }
        checks
    }
}

fn alive(name: &str, pulse: &Pulse, what: &str, fault: Option<String>) -> Check {
    let age = pulse.age();
    let stale = || format!("{what} has not responded for {} seconds", age.as_secs());
    check(name, Some(age.as_secs_f64()), fault.or_else(|| (age >= STALE).then(stale)))
}

fn check(name: &str, age: Option<f64>, error: Option<String>) -> Check {
    Check { name: name.to_owned(), ok: error.is_none(), age, error }
}
