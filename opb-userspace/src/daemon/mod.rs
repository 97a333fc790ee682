//! The daemon: reads the node file, puts the policy in force, and keeps it there through reloads
//! and changing interfaces.
//!
//! [`enforcer`] owns the kernel objects, on a thread of its own, and does one job at a time.
//! [`reader`] reads files on threads that may hang. The other tasks wait for signals, serve the
//! control socket ([`control`]) and the read-only listener ([`http`]), receive accounting of sessions
//! ([`radius`]), read the programs' events ([`observer`]) and report suspects ([`suspects`]).

mod app;
mod batches;
mod body;
mod bypass;
mod changed;
mod choice;
mod commits;
pub mod control;
mod enforcer;
mod event_log;
mod files;
mod form;
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
mod http;
mod i18n;
pub(crate) mod interfaces;
mod limits;
mod links;
mod load;
mod logs;
mod observer;
mod other_rules;
mod page;
mod peer;
mod pulse;
mod radius;
mod reader;
mod serve;
mod service;
mod sessions;
mod socket;
mod stall;
mod subscribers;
mod suspects;
mod threads;
mod turns;
mod webhook;
mod worker;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout},
};
use tracing::{error, info, warn};

use self::{
    enforcer::{Channels, Enforcer},
    health::{Board, Feeds},
    links::Links,
    other_rules::OtherRulesReader,
    reader::Reader,
    socket::Socket,
    worker::Worker,
};
use crate::{
    compiled::LoadError,
    document::Diagnostics,
    relays::{DnsAnswer, resolver},
    telemetry::Telemetry,
};

/// The interval between comparisons of the interfaces with the node file.
const RESYNC: Duration = Duration::from_secs(1);
/// DNS answers may keep the enforcer busy for one part in so many of the time, even if name servers
/// change their addresses each time.
const SHARE: u32 = 10;
/// The most DNS answers in one image.
const TOGETHER: usize = 1024;
/// How long requests may take to end once the daemon stops.
const DRAIN: Duration = Duration::from_millis(800);

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
    Worker(#[from] worker::WorkerDied),
    #[error(transparent)]
    Hang(#[from] load::Hang),
}

impl Error {
    /// What the operator can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Kernel(error) => error.hint(),
            Self::Socket(socket::Error::InUse { .. }) => Some(
                "`opb reload` makes the running daemon read its files, `opb status` shows it; to \
                 replace it, stop it first: the kernel goes on enforcing"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// Enforces the node file at `path` until SIGTERM or SIGINT. The kernel goes on enforcing after
/// that.
pub async fn run(path: PathBuf) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(Error::Signals)?;
    let started = tokio::select! {
        biased;
        name = signals.stop() => Err(name),
        started = Daemon::start(path) => Ok(started?),
    };
    let mut daemon = match started {
        Ok(daemon) => daemon,
        Err(name) => {
            info!("{name}: stopping during the start");
            return Ok(());
        }
    };
    let service = tokio::spawn(service::follow(daemon.board.clone()));
    // A signal stops the daemon, whatever it is waiting for.
    let end = tokio::select! {
        biased;
        name = signals.stop() => {
            info!("{name}: stopping; the kernel goes on enforcing");
            Ok(())
        }
        end = daemon.work() => Err(end),
    };
    service.abort();
    service::stopping();
    daemon.stop().await;
    end.inspect_err(|_| error!("the kernel goes on enforcing"))
}

/// The running daemon.
struct Daemon {
    enforcer: Worker<Enforcer>,
    links: Links,
    answers: mpsc::UnboundedReceiver<(String, DnsAnswer)>,
    /// DNS answers wait until then.
    next_answers: Instant,
    resync: Interval,
    /// The kernel's messages about interfaces cannot be read at the moment.
    links_failed: bool,
    telemetry: Arc<Telemetry>,
    server: JoinHandle<()>,
    stop: watch::Sender<bool>,
    board: Board,
    _socket: Socket,
}

impl Daemon {
    async fn start(path: PathBuf) -> Result<Self, Error> {
        let hangups = signal(SignalKind::hangup()).map_err(Error::Signals)?;
        let reader = Reader::new(path);
        let (config, node) = reader.config().await?.map_err(Error::Config)?;
        // Before any change in the kernel, so that a second daemon fails here.
        let (socket, listener) = Socket::bind(&config.control, socket::group().await)?;
        // Also before any change: most errors are in the files.
        let choice = reader.choose(config.clone(), node).await??;

        let (status, reports) = watch::channel(None);
        let (logs, lines) = mpsc::unbounded_channel();
        tokio::spawn(logs::forward_all(lines));
        let (hosts, tasks) = watch::channel(resolver::Task::default());
        let channels = Channels { status, logs, hosts };
        // Before interfaces are first listed, so that no later change is missed.
        let links = Links::new().map_err(Error::Links)?;
        let enforcer = Worker::start(move || Enforcer::start(choice, channels)).await??;
        let (resolved, answers) = mpsc::unbounded_channel();
        tokio::spawn(resolver::follow(tasks, resolved));
        tokio::spawn(reader::follow(reader.clone(), enforcer.clone(), hangups));

        let feeds = Feeds::new();
        let telemetry = observer::start(&enforcer, &config.observe, &config.state, &feeds).await;
        let board = Board {
            status: reports,
            telemetry: Arc::clone(&telemetry),
            enforcer: enforcer.pulse().clone(),
            feeds,
            reader,
            http: health::Fault::default(),
            refused: Arc::default(),
            other_rules: OtherRulesReader::new(),
            radius: radius::start(config.sessions, enforcer.clone()),
        };
        let (stop, stopped) = watch::channel(false);
        http::start(config.http, config.http_names, enforcer.clone(), board.clone());
        let server =
            tokio::spawn(control::serve(listener, enforcer.clone(), board.clone(), stopped));
        let mut resync = interval(RESYNC);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            enforcer,
            links,
            answers,
            next_answers: Instant::now(),
            resync,
            links_failed: false,
            telemetry,
            server,
            stop,
            board,
            _socket: socket,
        })
    }

    /// Works until an error.
    async fn work(&mut self) -> Error {
        loop {
            // The resync comes before the links, which always have news in a storm of interfaces.
            let next = tokio::select! {
                biased;
                ended = &mut self.server => {
                    let ended = ended.map_or_else(io::Error::other, |()| {
                        io::Error::other("the listener ended")
                    });
                    return Error::Serve(ended);
                }
                _ = self.resync.tick() => Event::Resync,
                changed = self.links.changed(), if !self.links_failed => {
                    if let Err(error) = changed {
                        // The resync tries again within a second.
                        warn!("changes of interfaces cannot be followed: {error}");
                        self.links_failed = true;
                        continue;
                    }
                    Event::Links
                }
                Some(answers) = next_answers(&mut self.answers, self.next_answers) => {
                    Event::Resolved(answers)
                }
            };
            let start = Instant::now();
            let done = match next {
                Event::Resync => {
                    self.links_failed = false;
                    self.enforcer.call(Enforcer::resync).await
                }
                Event::Links => self.enforcer.call(Enforcer::follow_interfaces).await,
                Event::Resolved(answers) => {
                    let done = self.enforcer.call(move |it| it.resolved(answers)).await;
                    self.next_answers = Instant::now() + start.elapsed() * SHARE;
                    done
                }
            };
            if let Err(died) = done {
                return died.into();
            }
        }
    }

    async fn stop(self) {
        self.telemetry.close();
        self.stop.send_replace(true);
        if timeout(DRAIN, self.server).await.is_err() {
            warn!("requests on the control socket did not end in time");
        }
    }
}

/// The events that the daemon reacts to.
enum Event {
    Resync,
    Links,
    Resolved(Vec<(String, DnsAnswer)>),
}

/// Waits until `from`, and then for answers. Returns all that have arrived, or `None` once the
/// resolver has ended.
async fn next_answers(
    answers: &mut mpsc::UnboundedReceiver<(String, DnsAnswer)>,
    from: Instant,
) -> Option<Vec<(String, DnsAnswer)>> {
    sleep_until(from).await;
    let mut together = Vec::new();
    (answers.recv_many(&mut together, TOGETHER).await > 0).then_some(together)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for SIGTERM or SIGINT, and returns its name.
    async fn stop(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
