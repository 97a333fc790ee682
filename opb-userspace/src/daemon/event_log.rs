//! Writes events to a file, the journal or syslog, on a thread of its own. If the destination
//! hangs, events are lost, and nothing else waits.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use nix::syslog::{Facility, LogFlags, Severity, openlog, syslog};
use tracing::{info, warn};

use super::{health::Feeds, pulse::Pulse};
use crate::api::events::Event;
use crate::{errors::one_line, files, node, text};

/// The length of the queue, in lines.
const WAITING: usize = 4096;
/// The most lines in one write.
const TOGETHER: usize = 256;
/// The interval between tests of an idle destination.
const IDLE: Duration = Duration::from_secs(5);

/// Why events are lost.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("events cannot be written to syslog")]
    Syslog(#[source] nix::Error),
    #[error("events cannot be written: {} {error}", path.display())]
    File { path: PathBuf, error: files::Error },
}

/// The sending end of the queue.
pub(super) struct EventLog {
    lines: Option<SyncSender<String>>,
    feeds: Feeds,
}

enum Destination {
    Journal,
    Syslog,
    File(PathBuf),
}

impl EventLog {
    pub(super) fn start(events: &node::EventLog, feeds: &Feeds) -> Self {
        let destination = match events {
            node::EventLog::Off | node::EventLog::Memory => None,
            node::EventLog::Journal => Some(Destination::Journal),
            node::EventLog::Syslog => Some(Destination::Syslog),
            node::EventLog::File(path) => Some(Destination::File(path.clone())),
        };
        let lines = destination.and_then(|destination| {
            let (sender, receiver) = sync_channel(WAITING);
            let of_thread = feeds.clone();
            let body = move || destination.write_all(&receiver, &of_thread);
            match thread::Builder::new().name("events".to_owned()).spawn(body) {
                Ok(_) => Some(sender),
                Err(error) => {
                    warn!("events are not written: cannot start a thread: {error}");
                    feeds.log.set(Some(format!("cannot start a thread: {error}")));
                    None
                }
            }
        });
        Self { lines, feeds: feeds.clone() }
    }

    /// Queues an event. Never waits: if the queue is full, the event is lost and counted.
    pub(super) fn write(&self, event: &Event) {
        let Some(lines) = &self.lines else { return };
        let Ok(line) = serde_json::to_string(event) else { return };
        let line = text::json(&line).into_owned();
        if lines.try_send(line).is_err() {
            self.feeds.unwritten.fetch_add(1, Ordering::Relaxed);
            self.feeds
                .log
                .set(Some(format!("the queue of {WAITING} events is full: further ones are lost")));
        }
    }
}

impl Destination {
    fn write_all(&self, lines: &Receiver<String>, feeds: &Feeds) {
        let pulse = feeds.writer.get_or_init(Pulse::new);
        if let Self::Syslog = self
            && let Err(error) = openlog(Some(c"opb"), LogFlags::LOG_PID, Facility::LOG_DAEMON)
        {
            warn!("events in syslog have no program name: {error}");
        }
        // An error is logged when it starts, not for each of thousands of events.
        let mut wrong = String::new();
        // An empty batch tests an idle destination, so that errors show before events are lost.
        let mut batch = Vec::new();
        loop {
            let error = self.write(&batch).err().map(|error| one_line(&error));
            if let Some(error) = &error {
                feeds.unwritten.fetch_add(batch.len() as u64, Ordering::Relaxed);
                if *error != wrong {
                    warn!("{error}");
                }
            }
            wrong = error.clone().unwrap_or_default();
            feeds.log.set(error);
            pulse.beat();
            batch.clear();
            match lines.recv_timeout(IDLE) {
                Ok(first) => {
                    batch.extend(std::iter::once(first).chain(lines.try_iter().take(TOGETHER)))
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn write(&self, batch: &[String]) -> Result<(), WriteError> {
        match self {
            Self::Journal => batch.iter().for_each(|line| info!(target: "opb::event", "{line}")),
            Self::Syslog => {
                let mut results = batch.iter().map(|line| syslog(Severity::LOG_NOTICE, line));
                results.try_for_each(|it| it).map_err(WriteError::Syslog)?;
            }
            Self::File(path) => append(path, batch)
                .map_err(|error| WriteError::File { path: path.clone(), error })?,
        }
        Ok(())
    }
}

/// Opens the file each time, so that log rotation needs no signal.
fn append(path: &Path, batch: &[String]) -> Result<(), files::Error> {
    let text: String = batch.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    let written: io::Result<()> = files::append(path, 0o640)?.write_all(text.as_bytes());
    Ok(written?)
}
