//! Reads the policy files on threads of their own, so that a file system that hangs blocks only
//! such a thread.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    signal::unix::Signal,
    sync::Mutex,
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::error;

use super::{
    changed::Changed,
    enforcer::{Asked, BuildError, Enforcer, Next, ReloadError},
    files::{Stamps, sample},
    load::{Hang, Loaded, load},
    threads::Threads,
    worker::{Worker, WorkerDied},
};
use crate::api::reload::{Preview, ReloadOutcome, Trigger};
use crate::{document::Diagnostics, node::Config};

/// How long reading may take. A policy of a million prefixes takes a second.
const LIMIT: Duration = Duration::from_secs(30);
/// The limit while another read hangs, and for stamps of files.
const SHORT: Duration = Duration::from_secs(5);

/// The interval between samples of watched files.
const SAMPLE: Duration = Duration::from_secs(1);
/// The interval while the file system hangs: each sample may keep a thread.
const REST: Duration = Duration::from_secs(30);

/// Reads the node file at `path` and the files that it names. Clones share the threads and their
/// state.
#[derive(Clone)]
pub(super) struct Reader {
    path: PathBuf,
    threads: Threads,
    /// Threads that compile policies.
    compiling: Threads,
    /// One reload after the other, so that files come into force in the order in which they are
    /// read.
    turn: Arc<Mutex<()>>,
    /// One preview after the other: each holds a whole policy in memory.
    previews: Arc<Mutex<()>>,
}

impl Reader {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            threads: Threads::new("files"),
            compiling: Threads::new("compile"),
            turn: Arc::default(),
            previews: Arc::default(),
        }
    }

    /// Whether a read hangs now.
    pub(super) fn hangs(&self) -> bool {
        self.threads.hang()
    }

    /// The node file alone.
    pub(super) async fn config(&self) -> Result<Result<Config, Diagnostics>, Hang> {
        let path = self.path.clone();
        Ok(self.threads.run(LIMIT, move || Config::load(&path)).await?)
    }

    /// The policy that `config` names.
    pub(super) async fn policy(&self, config: Config) -> Result<Result<Loaded, Diagnostics>, Hang> {
        let path = self.path.clone();
        Ok(self.threads.run(LIMIT, move || load(&path, SystemTime::now(), config)).await?)
    }

    /// The node file and its policy, or why they are not valid.
    async fn load(&self) -> Result<Loaded, ReloadError> {
        let path = self.path.clone();
        let work = move || {
            let started = SystemTime::now();
            Config::load(&path).and_then(|config| load(&path, started, config))
        };
        // A hung file system is unlikely to answer one more request.
        let limit = if self.hangs() { SHORT } else { LIMIT };
        Ok(self.threads.run(limit, work).await.map_err(Hang::from)??)
    }

    /// Reads the files and puts them in force. If the caller drops this future, as happens when a
    /// client hangs up, a reload that has begun still completes. One that waits for its turn does
    /// not begin.
    pub(super) async fn reload(
        &self,
        enforcer: &Worker<Enforcer>,
        asked: Asked,
    ) -> Result<ReloadOutcome, WorkerDied> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let (reader, enforcer) = (self.clone(), enforcer.clone());
        to_its_end(async move {
            let _turn = turn;
            reader.reload_now(&enforcer, asked).await
        })
        .await
    }

    /// Runs the slow parts here, so that the enforcer stays available.
    async fn reload_now(
        &self,
        enforcer: &Worker<Enforcer>,
        asked: Asked,
    ) -> Result<ReloadOutcome, WorkerDied> {
        let loaded = self.load().await;
        let mut next = enforcer.call(move |it| it.begin(asked, loaded)).await?;
        loop {
            match next {
                Next::Done(outcome) => return Ok(outcome),
                Next::Build(reload, order) => {
                    let built = self.compiling.run(LIMIT, move || order.build()).await;
                    let built = built.unwrap_or_else(|given_up| Err(BuildError::Slow(given_up)));
                    next = enforcer.call(move |it| it.finish(reload, built)).await?;
                }
            }
        }
    }

    /// Returns what a reload would change. Clients wait for each other. If one hangs up, its
    /// preview still completes before the next begins.
    pub(super) async fn preview(
        &self,
        enforcer: &Worker<Enforcer>,
    ) -> Result<Result<Preview, ReloadError>, WorkerDied> {
        let turn = Arc::clone(&self.previews).lock_owned().await;
        let (reader, enforcer) = (self.clone(), enforcer.clone());
        to_its_end(async move {
            let _turn = turn;
            reader.preview_now(&enforcer).await
        })
        .await
    }

    async fn preview_now(
        &self,
        enforcer: &Worker<Enforcer>,
    ) -> Result<Result<Preview, ReloadError>, WorkerDied> {
        let loaded = self.load().await;
        let order = enforcer.call(move |it| it.preview(&loaded?)).await?;
        Ok(match order {
            Ok(order) => {
                let preview = self.compiling.run(LIMIT, move || order.compile()).await;
                preview.unwrap_or_else(|given_up| Err(BuildError::Slow(given_up).into()))
            }
            Err(error) => Err(error),
        })
    }

    /// The current stamps of the files. `None` if reading them timed out.
    pub(super) async fn sample(&self, paths: Vec<PathBuf>) -> Option<Stamps> {
        self.threads.run(SHORT, move || sample(&paths)).await.ok()
    }
}

/// Runs `work` to its end in a task of its own, even if the caller is dropped.
async fn to_its_end<R: Send + 'static>(
    work: impl Future<Output = Result<R, WorkerDied>> + Send + 'static,
) -> Result<R, WorkerDied> {
    // The task has no result if the runtime stops.
    tokio::spawn(work).await.unwrap_or(Err(WorkerDied))
}

/// Reloads after each hangup signal, and when watched files have changed. Ends with the enforcer.
pub(super) async fn follow(reader: Reader, enforcer: Worker<Enforcer>, mut hangups: Signal) {
    let mut tick = interval(SAMPLE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // After a sample that hung, the next one waits until then.
    let mut rest = Instant::now();
    loop {
        let trigger = tokio::select! {
            biased;
            received = hangups.recv() => match received {
                Some(()) => Trigger::Signal,
                None => return,
            },
            _ = tick.tick() => {
                if reader.hangs() && Instant::now() < rest {
                    continue;
                }
                let Ok(watched) = enforcer.call(|it| it.watched()).await else { return };
                let Some(paths) = watched else { continue };
                let Some(stamps) = reader.sample(paths).await else {
                    rest = Instant::now() + REST;
                    error!("the files cannot be read (does their file system hang?): \
                            the policy in force stays");
                    continue;
                };
                match enforcer.call(|it| it.observe_files(stamps)).await {
                    Ok(Changed::Yes) => Trigger::Files,
                    Ok(Changed::No) => continue,
                    Err(_) => return,
                }
            }
        };
        let asked = Asked { trigger, who: None, confirm: None };
        if reader.reload(&enforcer, asked).await.is_err() {
            return;
        }
    }
}
