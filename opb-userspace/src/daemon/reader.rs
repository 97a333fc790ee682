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
    choice::{Choice, choose},
    enforcer::{Asked, BuildError, Enforcer, Look, Next, ReloadError},
    files::{Stamps, sample},
    load::{Hang, Loaded, load, load_again},
    threads::Threads,
    turns::Turn,
    worker::{Worker, WorkerDied},
};
use crate::api::commits::CommitFile;
use crate::api::reload::{PolicyRef, Preview, ReloadOutcome, Trigger};
use crate::{
    commits::Keeper,
    compiled::LoadError,
    document::{Diagnostics, Source},
    node::Config,
};

/// How long reading may take. A policy of a million prefixes takes a second.
const LIMIT: Duration = Duration::from_secs(30);
/// The limit while another read hangs, and for stamps of files.
const SHORT: Duration = Duration::from_secs(5);

/// The interval between samples of watched files.
const SAMPLE: Duration = Duration::from_secs(1);
/// The interval while the file system hangs: each sample may keep a thread.
const REST: Duration = Duration::from_secs(30);

/// Where a policy comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Files,
    /// The commit with this number.
    Commit(u64),
}

/// Reads the node file at `path` and the files that it names. Clones share the threads and their
/// state.
#[derive(Clone)]
pub(super) struct Reader {
    path: PathBuf,
    threads: Threads,
    /// Threads that read commits for clients, who may hang up: their threads must not look like a
    /// file system that hangs, which would keep everybody from a reload.
    reading: Threads,
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
            reading: Threads::new("commits"),
            compiling: Threads::new("compile"),
            turn: Arc::default(),
            previews: Arc::default(),
        }
    }

    /// Whether a read hangs now.
    pub(super) fn hangs(&self) -> bool {
        self.threads.hang()
    }

    /// The node file alone, with its text.
    pub(super) async fn config(&self) -> Result<Result<(Config, Source), Diagnostics>, Hang> {
        let path = self.path.clone();
        Ok(self.threads.run(LIMIT, move || Config::load_with_source(&path)).await?)
    }

    /// What a start puts in force. Files that hang do not keep it from a commit: after a reboot, there
    /// is no filter without it.
    pub(super) async fn choose(
        &self,
        config: Config,
        node: Source,
    ) -> Result<Result<Choice, LoadError>, Hang> {
        let (path, read) = (node.path.clone(), config.clone());
        let work = move || load(SystemTime::now(), (read, node));
        let files = self.threads.run(LIMIT, work).await.map_err(Hang::from);
        self.threads.run(LIMIT, move || choose(&config, path, files)).await?
    }

    /// The node file and its policy, or why they are not valid.
    async fn load(&self) -> Result<Loaded, ReloadError> {
        let path = self.path.clone();
        let work = move || {
            let started = SystemTime::now();
            Config::load_with_source(&path).and_then(|node| load(started, node))
        };
        // A hung file system is unlikely to answer one more request.
        let limit = if self.hangs() { SHORT } else { LIMIT };
        Ok(self.threads.run(limit, work).await.map_err(Hang::from)??)
    }

    /// Reads the files, or a commit, and puts them in force. If the caller drops this future, as
    /// happens when a client hangs up, a reload that has begun still completes, and holds `of_client`
    /// until then. One that waits for its turn does not begin.
    pub(super) async fn reload(
        &self,
        enforcer: &Worker<Enforcer>,
        origin: Origin,
        asked: Asked,
        of_client: Option<Turn>,
    ) -> Result<ReloadOutcome, WorkerDied> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let (reader, enforcer) = (self.clone(), enforcer.clone());
        to_its_end(async move {
            let _turns = (turn, of_client);
            reader.reload_now(&enforcer, origin, asked).await
        })
        .await
    }

    /// Runs the slow parts here, so that the enforcer stays available.
    async fn reload_now(
        &self,
        enforcer: &Worker<Enforcer>,
        origin: Origin,
        asked: Asked,
    ) -> Result<ReloadOutcome, WorkerDied> {
        let loaded = match origin {
            Origin::Files => self.load_to_keep(enforcer).await?,
            Origin::Commit(number) => self.load_again(enforcer, number).await?,
        };
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

    /// Reads the files, and keeps them for their commit.
    async fn load_to_keep(
        &self,
        enforcer: &Worker<Enforcer>,
    ) -> Result<Result<Loaded, ReloadError>, WorkerDied> {
        let mut loaded = match self.load().await {
            Ok(loaded) => loaded,
            Err(error) => return Ok(Err(error)),
        };
        let keeper = enforcer.call(|it| it.keeper()).await?;
        let work = move || {
            loaded.keep(&keeper);
            loaded
        };
        Ok(self.threads.run(LIMIT, work).await.map_err(|error| Hang::from(error).into()))
    }

    /// Reads a commit again.
    async fn load_again(
        &self,
        enforcer: &Worker<Enforcer>,
        number: u64,
    ) -> Result<Result<Loaded, ReloadError>, WorkerDied> {
        let (commit, config) = enforcer.call(move |it| (it.commit(number), it.config())).await?;
        let (commit, keeper) = match commit {
            Ok(commit) => commit,
            Err(error) => return Ok(Err(error.into())),
        };
        let work = move || -> Result<Loaded, ReloadError> {
            let mut loaded = load_again(Arc::new(keeper.read(&commit)?), &config)?;
            loaded.repeats = Some(number);
            Ok(loaded)
        };
        let loaded = self.threads.run(LIMIT, work).await;
        Ok(loaded.unwrap_or_else(|given_up| Err(Hang::from(given_up).into())))
    }

    /// Reads one file of a commit. The turn does not end before the work does, even if the client
    /// hangs up.
    pub(super) async fn read_commit(
        &self,
        keeper: Keeper,
        file: CommitFile,
        turn: Turn,
    ) -> Result<(Source, Turn), ReloadError> {
        let read = self.reading.run(LIMIT, move || (keeper.read_file(&file), turn)).await;
        let (source, turn) = read.map_err(Hang::from)?;
        Ok((source?, turn))
    }

    /// Reads the files, and notes how they compare with what is in force. Returns whether they
    /// could be read at all.
    async fn compare(&self, enforcer: &Worker<Enforcer>) -> Result<bool, WorkerDied> {
        let loaded = match self.load().await {
            Ok(loaded) => Ok(loaded),
            Err(ReloadError::Files(diagnostics)) => Err(diagnostics),
            Err(_) => return Ok(false),
        };
        enforcer.call(move |it| it.note_files(loaded)).await?;
        Ok(true)
    }

    /// Compares two policies. Clients wait for each other. If one hangs up, its preview still
    /// completes before the next begins, and holds `of_client` until then.
    pub(super) async fn preview(
        &self,
        enforcer: &Worker<Enforcer>,
        sides: [PolicyRef; 2],
        of_client: Turn,
    ) -> Result<(Result<Preview, ReloadError>, Turn), WorkerDied> {
        let turn = Arc::clone(&self.previews).lock_owned().await;
        let (reader, enforcer) = (self.clone(), enforcer.clone());
        to_its_end(async move {
            let _turn = turn;
            Ok((reader.preview_now(&enforcer, sides).await?, of_client))
        })
        .await
    }

    async fn preview_now(
        &self,
        enforcer: &Worker<Enforcer>,
        [from, to]: [PolicyRef; 2],
    ) -> Result<Result<Preview, ReloadError>, WorkerDied> {
        let mut loaded = Vec::new();
        for side in [from, to] {
            loaded.push(match side {
                PolicyRef::Now => None,
                PolicyRef::Files => Some(self.load().await),
                PolicyRef::Commit(number) => Some(self.load_again(enforcer, number).await?),
            });
        }
        let order = move |it: &mut Enforcer| {
            let to = loaded.pop().flatten().transpose()?;
            let from = loaded.pop().flatten().transpose()?;
            it.preview(from.as_ref(), to.as_ref())
        };
        Ok(match enforcer.call(order).await? {
            Ok(order) => {
                let preview = self.compiling.run(LIMIT, move || order.compile()).await;
                preview.unwrap_or_else(|given_up| Err(BuildError::Slow(given_up).into()))
            }
            Err(error) => Err(error),
        })
    }

    /// Looks whether the files have changed, and does what `watch` says. Returns whether they could
    /// be looked at.
    async fn look(&self, enforcer: &Worker<Enforcer>) -> Result<bool, WorkerDied> {
        let Some(paths) = enforcer.call(|it| it.watched()).await? else { return Ok(true) };
        let Some(stamps) = self.sample(paths).await else { return Ok(false) };
        match enforcer.call(move |it| it.look(stamps)).await? {
            Look::Nothing => Ok(true),
            Look::Compare => self.compare(enforcer).await,
            Look::Reload(confirm) => {
                let asked = Asked { confirm, ..Asked::by_itself(Trigger::Files) };
                self.reload(enforcer, Origin::Files, asked, None).await.map(|_| true)
            }
        }
    }

    /// The current stamps of the files. `None` if reading them timed out.
    async fn sample(&self, paths: Vec<PathBuf>) -> Option<Stamps> {
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

/// Reloads after each hangup signal, and looks after the files. Ends with the enforcer.
pub(super) async fn follow(reader: Reader, enforcer: Worker<Enforcer>, mut hangups: Signal) {
    let mut tick = interval(SAMPLE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // After a sample that hung, the next one waits until then.
    let mut rest = Instant::now();
    loop {
        let done = tokio::select! {
            biased;
            received = hangups.recv() => match received {
                Some(()) => {
                    let asked = Asked::by_itself(Trigger::Signal);
                    reader.reload(&enforcer, Origin::Files, asked, None).await.map(|_| true)
                }
                None => return,
            },
            _ = tick.tick() => {
                if reader.hangs() && Instant::now() < rest {
                    continue;
                }
                reader.look(&enforcer).await
            }
        };
        match done {
            Ok(true) => {}
            Ok(false) => {
                rest = Instant::now() + REST;
                error!(
                    "the files cannot be read (does their file system hang?): \
                        the policy in force stays"
                );
            }
            Err(_) => return,
        }
    }
}
