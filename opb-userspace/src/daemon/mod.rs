//! The daemon: reads the node file, puts the policy in force, and keeps it there through reloads
//! and changing interfaces.
//!
//! What blocks — compiling, the kernel — is done by [`enforcer`] on a thread of its own, one thing
//! after the other; files are read by others ([`reader`]), which may hang. The rest of the process
//! waits for signals, answers on the control socket and on the read-only listener, and reads what
//! the programs write down ([`observer`]), of which it tells others ([`suspects`]).

mod body;
mod changed;
pub mod control;
mod enforcer;
mod event_log;
mod files;
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
mod http;
pub(crate) mod interfaces;
mod links;
mod logs;
mod observer;
mod page;
mod reader;

mod serve;
mod socket;
mod stall;
mod subscribers;
mod suspects;
mod webhook;
mod threads;
mod i18n;
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

/// How often interfaces are compared with what the node file wants.
const RESYNC: Duration = Duration::from_secs(1);
/// Answers of name servers take at most one part in this many of the enforcer's time, even if each
/// answer has new addresses.
const SHARE: u32 = 10;
/// The most answers that one generation serves.
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
    Hang(#[from] reader::Hang),
}

/// Enforces what the node file at `path` says until SIGTERM or SIGINT. The kernel goes on enforcing
/// after that.
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
            info!("{name}: stopping before anything was changed, or in the middle of it");
            return Ok(());
        }
    };
    // Whatever the daemon waits for, it can be told to stop.
    let end = tokio::select! {
        biased;
        name = signals.stop() => {
            info!("{name}: stopping; the kernel goes on enforcing");
            Ok(())
        }
        end = daemon.work() => Err(end),
    };
    daemon.stop().await;
    end.inspect_err(|_| error!("the kernel goes on enforcing"))
}

/// Everything that runs.
struct Daemon {
    enforcer: Worker<Enforcer>,
    links: Links,
    answers: mpsc::UnboundedReceiver<(String, DnsAnswer)>,
    /// Answers are not taken in before then.
    next_answers: Instant,
    resync: Interval,
    /// Reading the kernel's messages about interfaces failed: wait for the next resync.
    blind: bool,
    telemetry: Arc<Telemetry>,
    server: JoinHandle<()>,
    stop: watch::Sender<bool>,
    _socket: Socket,
}

impl Daemon {
    async fn start(path: PathBuf) -> Result<Self, Error> {
        let hangups = signal(SignalKind::hangup()).map_err(Error::Signals)?;
        let reader = Reader::new(path);
        let config = reader.config().await?.map_err(Error::Config)?;
        // Before anything is touched in the kernel: that another daemon is at work must not come
        // out halfway.
        let (socket, listener) = Socket::bind(&config.control, socket::group().await)?;
        // So must most mistakes, which are in the files.
        let loaded = reader.policy(config.clone()).await?.map_err(LoadError::from)?;

        let (status, reports) = watch::channel(None);
        let (logs, lines) = mpsc::unbounded_channel();
        tokio::spawn(logs::forward_all(lines));
        let (hosts, tasks) = watch::channel(resolver::Task::default());
        let channels = Channels { status, logs, hosts };
        // Before interfaces are listed for the first time: what comes later is told.
        let links = Links::new().map_err(Error::Links)?;
        let enforcer = Worker::start(move || Enforcer::start(loaded, channels)).await??;
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
            refusals: Arc::default(),
        };
        let (stop, stopped) = watch::channel(false);
        http::start(config.http, config.http_names, enforcer.clone(), board.clone());
        let server = tokio::spawn(control::serve(listener, enforcer.clone(), board, stopped));
        let mut resync = interval(RESYNC);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            enforcer,
            links,
            answers,
            next_answers: Instant::now(),
            resync,
            blind: false,
            telemetry,
            server,
            stop,
            _socket: socket,
        })
    }

    /// Ends with an error alone.
    async fn work(&mut self) -> Error {
        loop {
            // The resync comes before the links: while many interfaces come and go, there is always
            // a change of links.
            let next = tokio::select! {
                biased;
                ended = &mut self.server => {
                    let ended = ended.map_or_else(io::Error::other, |()| {
                        io::Error::other("it stopped listening")
                    });
                    return Error::Serve(ended);
                }
                _ = self.resync.tick() => Event::Resync,
                changed = self.links.changed(), if !self.blind => {
                    if let Err(error) = changed {
                        // The resync follows within a second.
                        warn!("changes of interfaces cannot be followed: {error}");
                        self.blind = true;
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
                    self.blind = false;
                    self.enforcer.call(Enforcer::resync).await
                }
                Event::Links => self.enforcer.call(Enforcer::follow_interfaces).await,
                Event::Resolved(answers) => {
                    let done = self.enforcer.call(move |it| it.resolved(answers)).await;
                    self.next_answers = Instant::now() + start.elapsed() * SHARE;
                    done
                }
            };
            if let Err(gone) = done {
                return gone.into();
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

/// What the daemon reacts to.
enum Event {
    Resync,
    Links,
    Resolved(Vec<(String, DnsAnswer)>),
}

/// Waits until `from`, then for answers. Returns all that have arrived, or `None` once the resolver
/// has ended.
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

    /// Waits until somebody wants the daemon to stop.
    async fn stop(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
