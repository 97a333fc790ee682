//! The daemon: reads the node file, puts the policy in force, and keeps it there through reloads and changing interfaces.
//!
//! What blocks — files, compiling, the kernel — is done by [`enforcer`] on a thread of its own, one thing after the other.
//! The rest of the process waits for signals, answers on the control socket and on the read-only listener, and reads
//! what the programs write down ([`observer`]), of which it tells others ([`suspects`]).

pub mod control;
mod enforcer;
mod files;
mod http;
pub(crate) mod interfaces;
mod links;
mod logs;
mod observer;
mod page;
pub mod report;
mod socket;
mod subscribers;
mod suspects;
mod words;
mod worker;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tracing::{error, info, warn};

use self::{
    enforcer::{Enforcer, Outlets},
    links::Links,
    report::Trigger,
    socket::Socket,
    worker::Worker,
};
use crate::{
    compiled::LoadError,
    node::Config,
    policy::Diagnostics,
    relays::{Answer, resolver},
};

/// How often interfaces are compared with what the node file wants.
const RESYNC: Duration = Duration::from_secs(1);
/// How long requests may take to end once the daemon stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the daemon did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the node file is not valid")]
    Config(#[source] Diagnostics),
    #[error(transparent)]
    Policy(#[from] LoadError),
    #[error(transparent)]
    Socket(#[from] socket::Error),
    #[error(transparent)]
    Kernel(#[from] crate::kernel::Error),
    #[error(transparent)]
    Store(#[from] crate::subscribers::Error),
    #[error("changes of interfaces cannot be followed")]
    Links(#[source] io::Error),
    #[error("signals cannot be received")]
    Signals(#[source] io::Error),
    #[error("the control socket broke")]
    Serve(#[source] io::Error),
    #[error(transparent)]
    Worker(#[from] worker::Gone),
}

/// Enforces what the node file at `path` says until SIGTERM or SIGINT. The kernel goes on enforcing after that.
pub async fn run(path: PathBuf) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(Error::Signals)?;
    let config = Config::load(&path).map_err(Error::Config)?;
    // Before anything is touched in the kernel: that another daemon is at work must not come out halfway.
    let (socket, listener) = Socket::bind(&config.control)?;

    let (status, reports) = watch::channel(None);
    let (logs, lines) = mpsc::unbounded_channel();
    tokio::spawn(logs::forward_all(lines));
    let (hosts, tasks) = watch::channel(resolver::Task::default());
    let outlets = Outlets { status, logs, hosts };
    // Before interfaces are listed for the first time: what comes later is told.
    let links = Links::new().map_err(Error::Links)?;
    let (observe, state) = (config.observe.clone(), config.state.clone());
    let (address, names) = (config.http, config.http_names.clone());
    let enforcer = Worker::start(move || Enforcer::start(path, config, outlets)).await??;

    let (resolved, mut answers) = mpsc::unbounded_channel();
    tokio::spawn(resolver::follow(tasks, resolved));

    let (stop, stopped) = oneshot::channel::<()>();
    let telemetry = observer::start(&enforcer, &observe, &state).await;
    http::start(address, names, enforcer.clone(), reports.clone(), Arc::clone(&telemetry));
    let app = control::router(enforcer.clone(), reports, Arc::clone(&telemetry));
    let app = app.into_make_service_with_connect_info::<subscribers::Peer>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
    let mut server = tokio::spawn(server.into_future());

    let end = loop {
        tokio::select! {
            event = next(&mut signals, &links, &mut answers) => match event {
                Event::Reload => drop(enforcer.call(|it| it.reload(Trigger::Signal)).await?),
                Event::Resync => enforcer.call(Enforcer::resync).await?,
                Event::Links => enforcer.call(Enforcer::follow_interfaces).await?,
                Event::Resolved(name, answer) => {
                    enforcer.call(move |it| it.resolved(&name, answer)).await?;
                }
                Event::Stop(name) => {
                    info!("{name}: stopping; the kernel goes on enforcing");
                    break Ok(());
                }
            },
            ended = &mut server => break Err(ended.map_err(io::Error::other).and_then(|it| it)),
        }
    };
    telemetry.close();
    drop(stop);
    if end.is_ok() && timeout(DRAIN, server).await.is_err() {
        warn!("requests on the control socket did not end in time");
    }
    drop(socket);
    match end {
        Ok(()) => Ok(()),
        Err(Ok(())) => Err(Error::Serve(io::Error::other("it stopped listening"))),
        Err(Err(error)) => {
            error!("the kernel goes on enforcing");
            Err(Error::Serve(error))
        }
    }
}

/// What the daemon reacts to.
enum Event {
    Reload,
    Resync,
    Links,
    Resolved(String, Answer),
    Stop(&'static str),
}

/// Whatever happens next. Signals go first.
async fn next(
    signals: &mut Signals,
    links: &Links,
    answers: &mut mpsc::UnboundedReceiver<(String, Answer)>,
) -> Event {
    tokio::select! {
        biased;
        event = signals.next() => event,
        changed = links.changed() => {
            if let Err(error) = changed {
                // The resync follows, a second later.
                warn!("changes of interfaces cannot be followed: {error}");
                return Event::Resync;
            }
            Event::Links
        }
        Some((name, answer)) = answers.recv() => Event::Resolved(name, answer),
    }
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    resync: Interval,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let mut resync = interval(RESYNC);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            resync,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Event::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Event::Stop("SIGINT"),
            _ = self.hangup.recv() => Event::Reload,
            _ = self.resync.tick() => Event::Resync,
        }
    }
}
