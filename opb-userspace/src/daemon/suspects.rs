//! Who is told of a suspect: a command, and a webhook.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::Stdio,
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
use tokio::{
    io::AsyncWriteExt as _, net::TcpStream, process::Command, sync::mpsc, task::JoinSet,
    time::timeout,
};
use tracing::warn;

use crate::{
    errors::one_line,
    node::{Suspect, Webhook},
    telemetry::events::Event,
};

/// How long it may take to tell one of one suspect.
const LIMIT: Duration = Duration::from_secs(10);
/// Suspects that wait to be told of; more of them are only events.
const WAITING: usize = 64;

/// Where suspects are reported. Each has a queue of its own: one that hangs does not hold up the other.
pub(super) struct Alarms(Vec<(String, mpsc::Sender<Event>)>);

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
            let name = listener.to_string();
            tokio::spawn(listener.listen(queue));
            (name, sender)
        });
        Self(queues.collect())
    }

    pub(super) fn raise(&self, suspect: &Event) {
        for (name, queue) in &self.0 {
            if queue.try_send(suspect.clone()).is_err() {
                warn!("{name} is not told of a suspect: {WAITING} others wait");
            }
        }
    }
}

impl Listener {
    /// One suspect after the other: what hangs must not pile up.
    async fn listen(self, mut queue: mpsc::Receiver<Event>) {
        while let Some(suspect) = queue.recv().await {
            match timeout(LIMIT, self.tell(&suspect)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!("{self} was not told of a suspect: {}", one_line(&error)),
                Err(_) => warn!("{self} was not told of a suspect: not within {LIMIT:?}"),
            }
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
    let mut child = Command::new(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A command that does not read is no failure.
        drop(input.write_all(body).await);
    }
    let status = child.wait().await?;
    if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
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
