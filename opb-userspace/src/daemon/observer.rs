//! Feeds the telemetry: reads events as they come and the kernel's books once a second.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::syslog::{Facility, LogFlags, Severity, openlog, syslog};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::{enforcer::Enforcer, suspects::Alarms, worker::Worker};
use crate::{
    kernel::{Books, Events},
    node::{EventLog, Observe},
    telemetry::{
        Telemetry,
        events::{Event, Kind},
        privacy::Privacy,
    },
};

/// How often counters and talkers are read.
const LOOK: Duration = Duration::from_secs(1);

/// Starts to observe. What cannot be opened is left out with a warning: the filter matters more.
pub(super) async fn start(
    enforcer: &Worker<Enforcer>,
    observe: &Observe,
    state: &Path,
) -> Arc<Telemetry> {
    let privacy = Privacy::open(observe.addresses, state).unwrap_or_else(|error| {
        warn!("the key of the pseudonyms cannot be used, so addresses are not recorded: {error}");
        Privacy::None
    });
    let alarms = Alarms::start(observe.suspect.as_ref());
    let telemetry = Arc::new(Telemetry::new(observe, privacy, alarms.tallies()));
    let Ok(Ok(sightings)) = enforcer.call(|it| it.sightings()).await else {
        warn!("events and talkers cannot be read");
        return telemetry;
    };
    let (events, books) = sightings.split();
    let log = Arc::new(Log::open(&observe.events));
    tokio::spawn(look(Arc::clone(&telemetry), enforcer.clone(), books, Arc::clone(&log), alarms));
    if observe.events != EventLog::Off {
        let (telemetry, enforcer) = (Arc::clone(&telemetry), enforcer.clone());
        tokio::spawn(async move {
            if let Err(error) = drain(&telemetry, &enforcer, events, &log).await {
                warn!("events cannot be read any more: {error}");
            }
        });
    }
    telemetry
}

async fn look(
    telemetry: Arc<Telemetry>,
    enforcer: Worker<Enforcer>,
    books: Books,
    log: Arc<Log>,
    alarms: Alarms,
) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // Nobody there: the daemon stops.
        let Ok(look) = enforcer.call(|it| it.look()).await else { return };
        let events = telemetry.look(look, &books);
        events.iter().for_each(|event| log.write(event));
        let suspects: Vec<_> =
            events.into_iter().filter(|event| event.kind == Kind::Suspect).collect();
        for suspect in &suspects {
            let (group, packets) = (&suspect.group, suspect.packets);
            info!(group, packets, "suspect: a subscriber was denied too often within a minute");
        }
        alarms.raise(&suspects);
    }
}

async fn drain(
    telemetry: &Telemetry,
    enforcer: &Worker<Enforcer>,
    events: Events,
    log: &Log,
) -> io::Result<()> {
    // SAFETY: the ring owns its descriptor, and always names that one.
    let mut events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE)? };
    loop {
        let mut ready = events.readable_mut().await?;
        while let Some(event) = ready.get_inner_mut().next_event() {
            if !telemetry.knows(&event)
                && let Ok(slots) = enforcer.call(|it| it.slots()).await
            {
                telemetry.learn(slots);
            }
            log.write(&telemetry.denied(&event));
        }
        ready.clear_ready();
    }
}

/// Where events are written besides memory.
enum Log {
    None,
    Journal,
    Syslog,
    File(PathBuf),
}

impl Log {
    fn open(events: &EventLog) -> Self {
        match events {
            EventLog::Off | EventLog::Memory => Self::None,
            EventLog::Journal => Self::Journal,
            EventLog::Syslog => {
                if let Err(error) = openlog(Some(c"opb"), LogFlags::LOG_PID, Facility::LOG_DAEMON) {
                    warn!("events go to syslog without a name: {error}");
                }
                Self::Syslog
            }
            EventLog::File(path) => Self::File(path.clone()),
        }
    }

    fn write(&self, event: &Event) {
        let Ok(line) = serde_json::to_string(event) else { return };
        match self {
            Self::None => {}
            Self::Journal => info!(target: "opb::event", "{line}"),
            Self::Syslog => {
                if let Err(error) = syslog(Severity::LOG_NOTICE, &line) {
                    warn!("an event cannot be written to syslog: {error}");
                }
            }
            Self::File(path) => {
                // Opened for each line, so that whatever rotates it need not tell us. One write a line.
                let appended = append(path)
                    .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
                if let Err(error) = appended {
                    warn!("an event cannot be written to {}: {error}", path.display());
                }
            }
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}
