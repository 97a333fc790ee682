//! Feeds the telemetry: reads events as they come and the kernel's statistics once a second.

use std::{io, path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{Interest, unix::AsyncFd},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::{
    enforcer::Enforcer, event_log::EventLog, health::Feeds, suspects::Alarms, threads::Threads,
    worker::Worker,
};
use crate::api::events::Kind;
use crate::{
    kernel::{Events, Statistics},
    node::{self, Observe},
    telemetry::{Telemetry, privacy::Privacy, reported::Reported},
};

/// The interval between samples of counters and talkers.
const SAMPLE: Duration = Duration::from_secs(1);
/// How long writing the reported suspects may take.
const SAVE: Duration = Duration::from_secs(10);

/// Starts the telemetry. Parts that cannot be opened only cause a warning: the filter matters more.
pub(super) async fn start(
    enforcer: &Worker<Enforcer>,
    observe: &Observe,
    state: &Path,
    feeds: &Feeds,
) -> Arc<Telemetry> {
    let privacy = Privacy::open(observe.addresses, state).unwrap_or_else(|error| {
        warn!("the key of the pseudonyms cannot be used, addresses are not recorded: {error}");
        Privacy::None
    });
    let alarms = Alarms::start(observe.suspect.as_ref());
    let telemetry =
        Arc::new(Telemetry::new(observe, privacy, Reported::open(state), alarms.counts()));
    let Ok(Ok(observations)) = enforcer.call(|it| it.observations()).await else {
        warn!("events and talkers cannot be read");
        feeds.fault.set(Some("events and talkers cannot be read".to_owned()));
        return telemetry;
    };
    let (events, statistics) = observations.split();
    let log = Arc::new(EventLog::start(&observe.events, feeds));
    let beats = (feeds.clone(), Arc::clone(&log));
    tokio::spawn(sample_every_second(
        Arc::clone(&telemetry),
        enforcer.clone(),
        statistics,
        beats,
        alarms,
    ));
    if observe.events != node::EventLog::Off {
        let (telemetry, enforcer) = (Arc::clone(&telemetry), enforcer.clone());
        let fault = feeds.fault.clone();
        tokio::spawn(async move {
            if let Err(error) = drain(&telemetry, &enforcer, events, &log).await {
                warn!("events cannot be read any more: {error}");
                fault.set(Some(format!("events cannot be read any more: {error}")));
            }
        });
    }
    telemetry
}

async fn sample_every_second(
    telemetry: Arc<Telemetry>,
    enforcer: Worker<Enforcer>,
    statistics: Statistics,
    (feeds, log): (Feeds, Arc<EventLog>),
    alarms: Alarms,
) {
    let mut tick = interval(SAMPLE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (threads, mut saving) = (Threads::new("suspects"), None);
    loop {
        tick.tick().await;
        // Without an enforcer, the daemon stops.
        let Ok(sample) = enforcer.call(|it| it.sample()).await else { return };
        let events = telemetry.take_sample(sample, &statistics);
        events.iter().for_each(|event| log.write(event));
        let suspects: Vec<_> =
            events.into_iter().filter(|event| event.kind == Kind::Suspect).collect();
        for suspect in &suspects {
            let (group, packets) = (&suspect.group, suspect.packets);
            info!(group, packets, "suspect: a subscriber has too many denied packets in a minute");
        }
        alarms.raise(&suspects);
        // One at a time: the disk may hang.
        if saving.as_ref().is_none_or(JoinHandle::is_finished) {
            saving = telemetry.to_save().map(|news| {
                let threads = threads.clone();
                // A failure is in the log, or the thread hangs.
                tokio::spawn(async move { drop(threads.run(SAVE, move || news.write()).await) })
            });
        }
        feeds.telemetry.beat();
    }
}

async fn drain(
    telemetry: &Telemetry,
    enforcer: &Worker<Enforcer>,
    events: Events,
    log: &EventLog,
) -> io::Result<()> {
    // SAFETY: the ring owns its descriptor, and never replaces it.
    let mut events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE)? };
    loop {
        let mut ready = events.readable_mut().await?;
        while let Some(event) = ready.get_inner_mut().next_event() {
            if !telemetry.knows(&event)
                && let Ok(group_ids) = enforcer.call(|it| it.group_ids()).await
            {
                telemetry.learn(group_ids);
            }
            log.write(&telemetry.denied(&event));
        }
        ready.clear_ready();
    }
}
