//! Who is told of a suspect: a command, and a webhook.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    process::{Child, Command},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tracing::warn;

use crate::api::events::Event;
use crate::{
    errors::one_line,
    kernel,
    node::{Suspect, Webhook},
    telemetry::alarms::{Alarm, Outcome},
};

/// How long it may take to tell one of one suspect.
const LIMIT: Duration = Duration::from_secs(10);
/// Suspects that wait to be told of: as many as are kept as events. More of them are left out, and counted.
const WAITING: usize = 512;

/// Where suspects are reported. Each has a queue of its own: one that hangs does not hold up the other.
pub(super) struct Alarms(Vec<(Arc<Alarm>, mpsc::Sender<Arc<Event>>)>);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
    #[error("the answer is {0}")]
    Refused(StatusCode),
}

/// Somebody to tell.
enum Listener {
    Command(PathBuf),
    Webhook(Webhook),
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

    /// Who is told of how many.
    pub(super) fn tallies(&self) -> Vec<Arc<Alarm>> {
        self.0.iter().map(|(alarm, _)| Arc::clone(alarm)).collect()
    }

    /// Never waits: whoever is slow is left out of what does not fit its queue.
    pub(super) fn raise(&self, suspects: &[Arc<Event>]) {
        for (alarm, queue) in &self.0 {
            let mut left_out = 0;
            for suspect in suspects {
                alarm.raise();
                if queue.try_send(Arc::clone(suspect)).is_err() {
                    alarm.settle(Outcome::LeftOut);
                    left_out += 1;
                }
            }
            if left_out > 0 {
                let name = alarm.name();
                warn!("{name} is not told of suspects, {left_out} of them: {WAITING} others wait");
            }
        }
    }
}

impl Listener {
    /// One suspect after the other: what hangs must not pile up.
    async fn listen(self, mut queue: mpsc::Receiver<Arc<Event>>, alarm: Arc<Alarm>) {
        while let Some(suspect) = queue.recv().await {
            let failure = match timeout(LIMIT, self.tell(&suspect)).await {
                Ok(Ok(())) => {
                    alarm.settle(Outcome::Told);
                    continue;
                }
                Ok(Err(error)) => one_line(&error),
                Err(_) => format!("not within {LIMIT:?}"),
            };
            alarm.settle(Outcome::Failed);
            warn!("{self} was not told of a suspect: {failure}");
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Command(_) => "command",
            Self::Webhook(_) => "webhook",
        }
    }

    async fn tell(&self, suspect: &Event) -> Result<(), Error> {
        let body = serde_json::to_vec(suspect).map_err(io::Error::from)?;
        match self {
            Self::Command(command) => Ok(run(command, &body).await?),
            Self::Webhook(webhook) => post(webhook, body).await,
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
    let mut wanted = Command::new(command);
    wanted.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).kill_on_drop(true);
    // Nothing is done between fork and exec, so that the process is not copied: of a large policy, the copy would take longer than
    // the command.
    let mut child = wanted.spawn()?;
    let mut group = Group::of(&child);
    group.limit_descriptors()?;
    if let Some(mut input) = child.stdin.take() {
        // A command that does not read is no failure.
        drop(input.write_all(body).await);
    }
    let status = child.wait().await?;
    // What it leaves running in good order is its own business.
    group.0 = None;
    if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
}

/// A command and everything that it has started, which end with it if it takes too long.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }

    /// Gives the command the limits that this process had when it started.
    fn limit_descriptors(&self) -> io::Result<()> {
        let Some(pid) = self.0 else { return Ok(()) };
        kernel::limit_descriptors(pid, kernel::descriptors_at_start())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Dropped before the child, whose number is nobody else's until then; a group of which nobody is left is no error.
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// A connection for each: suspects are rare.
async fn post(webhook: &Webhook, body: Vec<u8>) -> Result<(), Error> {
    let request = Request::post(webhook.path())
        .header(HOST, webhook.authority())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let stream = TcpStream::connect((webhook.host(), webhook.port())).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with this function, whatever the other end does.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let answer = sender.send_request(request).await?;
    if answer.status().is_success() { Ok(()) } else { Err(Error::Refused(answer.status())) }
}
