//! Reports suspects to a command and to a webhook.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::{AccessFlags, Pid, access},
};
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};
use tracing::warn;

use super::webhook::{self, Client};
use crate::api::events::Event;
use crate::{
    errors::one_line,
    kernel,
    node::{Suspect, Webhook},
    telemetry::alarms::{Alarm, Outcome},
};

/// The longest time that one report may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Length of a queue: as many as are kept as events. When a queue is full, further reports are
/// dropped and counted.
const WAITING: usize = 512;

/// The queues of suspects to report. Command and webhook have one each: one that hangs does not
/// delay the other.
pub(super) struct Alarms(Vec<(Arc<Alarm>, mpsc::Sender<Arc<Event>>)>);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Webhook(#[from] webhook::Error),
}

/// A destination of reports, as in the node file.
enum Listener {
    Command(PathBuf),
    Webhook(Webhook),
}

/// A destination that is ready for reports.
enum Target {
    Command(PathBuf),
    Webhook(Client),
}

impl Alarms {
    pub(super) fn start(suspect: Option<&Suspect>) -> Self {
        let command = suspect.and_then(|it| it.command.clone()).map(Listener::Command);
        let webhook = suspect.and_then(|it| it.webhook.clone()).map(Listener::Webhook);
        let queues = command.into_iter().chain(webhook).map(|listener| {
            let (sender, queue) = mpsc::channel(WAITING);
            let alarm = Arc::new(Alarm::new(listener.kind(), listener.to_string()));
            tokio::spawn(listener.listen(queue, Arc::clone(&alarm)));
            (alarm, sender)
        });
        Self(queues.collect())
    }

    /// The counts of each queue.
    pub(super) fn counts(&self) -> Vec<Arc<Alarm>> {
        self.0.iter().map(|(alarm, _)| Arc::clone(alarm)).collect()
    }

    /// Queues reports. Never waits: if a queue is full, the report is dropped and counted.
    pub(super) fn raise(&self, suspects: &[Arc<Event>]) {
        for (alarm, queue) in &self.0 {
            let mut dropped = 0;
            for suspect in suspects {
                alarm.raise();
                if queue.try_send(Arc::clone(suspect)).is_err() {
                    alarm.settle(Outcome::Dropped);
                    dropped += 1;
                }
            }
            if dropped > 0 {
                let name = alarm.name();
                warn!(
                    "{name}: {dropped} reports of suspects dropped: its queue of {WAITING} is full"
                );
            }
        }
    }
}

impl Listener {
    /// Reports one suspect after the other, so that connections and processes that hang do not pile
    /// up.
    async fn listen(self, mut queue: mpsc::Receiver<Arc<Event>>, alarm: Arc<Alarm>) {
        let target = match self {
            Self::Command(command) => Target::Command(command),
            Self::Webhook(webhook) => Target::Webhook(Client::open(webhook).await),
        };
        while let Some(suspect) = queue.recv().await {
            let failure = match timeout(LIMIT, target.report(&suspect)).await {
                Ok(Ok(())) => {
                    alarm.settle(Outcome::Delivered);
                    continue;
                }
                Ok(Err(error)) => one_line(&error),
                Err(_) => format!("timed out after {LIMIT:?}"),
            };
            alarm.settle(Outcome::Failed);
            let name = alarm.name();
            warn!("{name}: a report of a suspect failed: {failure}");
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Command(_) => "command",
            Self::Webhook(_) => "webhook",
        }
    }
}

impl Target {
    async fn report(&self, suspect: &Event) -> Result<(), Error> {
        let body = serde_json::to_vec(suspect).map_err(io::Error::from)?;
        match self {
            Self::Command(command) => Ok(run(command, &body).await?),
            Self::Webhook(client) => Ok(client.post(body).await?),
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(command) => command.display().fmt(f),
            Self::Webhook(webhook) => webhook.fmt(f),
        }
    }
}

async fn run(command: &Path, body: &[u8]) -> io::Result<()> {
    // The shell would only say 127.
    access(command, AccessFlags::X_OK)?;
    // The shell gives the command the limit that this process had when it started, unless a seccomp
    // filter forbids it. Nothing runs
    // between fork and exec here, so that this process is not copied: with a large policy, the copy
    // would take longer than the command.
    let mut wanted = Command::new("/bin/sh");
    wanted.arg("-c").arg("ulimit -S -n \"$0\" 2>/dev/null; exec \"$1\"");
    wanted.arg(kernel::descriptors_at_start().to_string()).arg(command);
    wanted.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).kill_on_drop(true);
    let mut child = wanted.spawn()?;
    let mut group = Group::of(&child);
    if let Some(mut input) = child.stdin.take() {
        // A command that does not read its input has not failed.
        drop(input.write_all(body).await);
    }
    let status = child.wait().await?;
    // Processes that a finished command has left may continue.
    group.0 = None;
    if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
}

/// A command and everything that it has started. Dropped before the command has ended, it kills
/// them all.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The child is dropped later, so its number is not reused yet. An empty group is not an
        // error.
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}
