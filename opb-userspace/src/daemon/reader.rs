//! The files of the policy, read where nobody waits for them: a file system that hangs keeps a thread, and nothing else.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use tokio::{
    signal::unix::Signal,
    sync::Mutex,
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::error;

use super::{
    enforcer::{Asked, Enforcer, Next},
    files::{Stamps, Watch, look},
    threads::{GivenUp, Threads},
    worker::{Worker, WorkerDied},
};
use crate::api::{reload::Preview, reload::Problem, reload::ReloadOutcome, reload::Trigger};
use crate::{
    document::{Diagnostic, Diagnostics},
    errors::one_line,
    node::{Config, PolicySource},
    policy::Policy,
};

/// How long reading may take. A policy of a million prefixes takes a second.
const LIMIT: Duration = Duration::from_secs(30);
/// The same where something hangs already, and for looking at files.
const SHORT: Duration = Duration::from_secs(5);

/// How often files are looked at for changes.
const LOOK: Duration = Duration::from_secs(1);
/// The same where they do not answer: each look may keep a thread.
const REST: Duration = Duration::from_secs(30);

/// Reads the node file at `path` and what it names. All clones share what they know of files that hang.
#[derive(Clone)]
pub(super) struct Reader {
    path: PathBuf,
    threads: Threads,
    /// Those that compile what was read.
    compiling: Threads,
    /// One reload after the other: what is read later is put in force later.
    turn: Arc<Mutex<()>>,
    /// One preview after the other: each holds a whole policy in memory.
    previews: Arc<Mutex<()>>,
}

/// What the files say.
pub(super) struct Loaded {
    pub(super) config: Config,
    pub(super) files: Arc<Policy>,
    /// Names what the files said when they were read; made here, where nobody waits for it.
    pub(super) digest: [u8; 16],
    pub(super) watch: Watch,
}

/// The files do not answer.
#[derive(Debug, thiserror::Error)]
#[error("the files cannot be read (does their file system hang?)")]
pub struct Hang(#[from] GivenUp);

/// No thread compiles.
#[derive(Debug, thiserror::Error)]
#[error("the policy cannot be compiled (is the machine overloaded?)")]
struct Slow(#[from] GivenUp);

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

    /// Whether something hangs now.
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

    /// Everything, or why it is not valid.
    async fn load(&self) -> Result<Loaded, Vec<Problem>> {
        let path = self.path.clone();
        let work = move || {
            let started = SystemTime::now();
            Config::load(&path).and_then(|config| load(&path, started, config))
        };
        // What hangs already will hardly end because somebody asks again.
        let limit = if self.hangs() { SHORT } else { LIMIT };
        match self.threads.run(limit, work).await {
            Ok(loaded) => loaded.map_err(|found| problems(found.errors())),
            Err(given_up) => Err(vec![one_line(&Hang(given_up)).into()]),
        }
    }

    /// Reads the files and puts in force what they say. A reload that has begun goes on to its end when the caller
    /// drops this future, as a client does that hangs up; one that waits for its turn does not begin.
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

    /// The slow parts run here, while the enforcer goes on.
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
                    let built = built.unwrap_or_else(|given_up| Err(one_line(&Slow(given_up))));
                    next = enforcer.call(move |it| it.finish(reload, built)).await?;
                }
            }
        }
    }

    /// Returns what a reload would change. Clients wait for each other, and one that hangs up while its preview is made
    /// does not let the next one begin.
    pub(super) async fn preview(
        &self,
        enforcer: &Worker<Enforcer>,
    ) -> Result<Result<Preview, Vec<Problem>>, WorkerDied> {
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
    ) -> Result<Result<Preview, Vec<Problem>>, WorkerDied> {
        let loaded = self.load().await;
        let previewed = enforcer.call(move |it| it.preview(&loaded?)).await?;
        Ok(match previewed {
            Ok(previewed) => {
                let preview = self.compiling.run(LIMIT, move || previewed.diff()).await;
                preview.unwrap_or_else(|given_up| Err(vec![one_line(&Slow(given_up)).into()]))
            }
            Err(errors) => Err(errors),
        })
    }

    /// How the files look now; nothing if they do not answer.
    pub(super) async fn look(&self, paths: Vec<PathBuf>) -> Option<Stamps> {
        self.threads.run(SHORT, move || look(&paths)).await.ok()
    }
}

/// Runs `work` in a task of its own, which ends when the work does, whoever still waits for it.
async fn to_its_end<R: Send + 'static>(
    work: impl Future<Output = Result<R, WorkerDied>> + Send + 'static,
) -> Result<R, WorkerDied> {
    // A task ends without a result where the runtime stops.
    tokio::spawn(work).await.unwrap_or(Err(WorkerDied))
}

fn load(path: &Path, started: SystemTime, config: Config) -> Result<Loaded, Diagnostics> {
    let PolicySource::Path(policy) = &config.policy;
    let files = Policy::load_within(std::slice::from_ref(policy), config.limits)?;
    let mut paths = vec![path.to_owned(), policy.clone()];
    paths.extend(files.files.iter().cloned());
    let digest = files.digest_at(Timestamp::now());
    Ok(Loaded { watch: Watch::new(paths, started), config, files: Arc::new(files), digest })
}

pub(super) fn problems<'a>(diagnostics: impl Iterator<Item = &'a Diagnostic>) -> Vec<Problem> {
    diagnostics.map(Problem::from).collect()
}

/// Reads the files again whenever `hangups` says so, and when they have changed. Ends with the enforcer.
pub(super) async fn follow(reader: Reader, enforcer: Worker<Enforcer>, mut hangups: Signal) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // After a look that was given up, until when nobody looks.
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
                let Some(stamps) = reader.look(paths).await else {
                    rest = Instant::now() + REST;
                    error!("the files do not answer: does their file system hang? \
                            What is in force stays in force");
                    continue;
                };
                match enforcer.call(|it| it.have_changed(stamps)).await {
                    Ok(true) => Trigger::Files,
                    Ok(false) => continue,
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
