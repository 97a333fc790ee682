//! The client of the daemon's control socket.

use std::{
    io,
    os::{fd::AsRawFd as _, unix::net::UnixStream as StdStream},
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use nix::sys::{
    socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, sockopt::SendTimeout},
    time::{TimeVal, TimeValLike as _},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, runtime::Runtime, time::timeout};

use super::{failure::Failure, upload::Upload};
use opb_userspace::api::{ApiError, reload::ReloadOutcome};

/// The longest wait for a place in the queue of the socket.
const PATIENCE: Duration = Duration::from_secs(10);

/// The option that names the control socket.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Control {
    /// Control socket of the daemon
    #[arg(long, value_name = "SOCKET", env = "OPB_CONTROL", default_value = "/run/opb/opb.sock")]
    control: PathBuf,
}

/// A response, or a rejection because the files are invalid.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Rejectable<T> {
    Rejected(ReloadOutcome),
    Done(T),
}

/// Why a request has no answer.
pub(crate) enum Unanswered {
    /// The daemon refuses, or this user may not ask it.
    Refused(Failure),
    /// No daemon answers, or not in time, or it is broken.
    Silent(Failure),
}

impl Control {
    pub(crate) fn at(control: PathBuf) -> Self {
        Self { control }
    }

    /// Sends a GET request for `path`, which includes the query.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::GET, path, Upload::default())
    }

    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::POST, path, Upload::default())
    }

    /// Sends a POST request with a JSON body.
    pub(crate) fn send<T: DeserializeOwned>(&self, path: &str, body: Upload) -> Result<T, Failure> {
        self.call(Method::POST, path, body)
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Upload,
    ) -> Result<T, Failure> {
        let runtime = runtime()?;
        let (status, body) = runtime.block_on(self.exchange(method, path, body))?;
        decode(path, status, &body)
    }

    /// As [`Self::get`], but tells a refusal from silence.
    pub(crate) fn get_within<T: DeserializeOwned>(
        &self,
        path: &str,
        limit: Duration,
    ) -> Result<T, Unanswered> {
        self.call_within(Method::GET, path, limit)
    }

    /// As [`Self::post`], but tells a refusal from silence.
    pub(crate) fn post_within<T: DeserializeOwned>(
        &self,
        path: &str,
        limit: Duration,
    ) -> Result<T, Unanswered> {
        self.call_within(Method::POST, path, limit)
    }

    fn call_within<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        limit: Duration,
    ) -> Result<T, Unanswered> {
        let runtime = runtime().map_err(Unanswered::Refused)?;
        let asked = async { timeout(limit, self.exchange(method, path, Upload::default())).await };
        let late = || {
            let socket = self.control.display();
            Failure::new(format!("the daemon at {socket} does not answer within {limit:?}"))
        };
        let (status, body) = match runtime.block_on(asked) {
            Err(_) => return Err(Unanswered::Silent(late())),
            Ok(Err(failure)) => return Err(Unanswered::Silent(failure)),
            Ok(Ok(answer)) => answer,
        };
        decode(path, status, &body).map_err(|failure| match status.is_server_error() {
            true => Unanswered::Silent(failure),
            false => Unanswered::Refused(failure),
        })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Upload,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let stream = connect(&self.control).and_then(UnixStream::from_std);
        let stream = stream.map_err(|error| self.unreachable(&error))?;
        exchange(stream, method, path, body).await.map_err(|error| {
            let socket = self.control.display();
            Failure::new(format!("the daemon at {socket} closed the connection"))
                .caused_by(Some(&error))
        })
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let socket = self.control.display();
        if error.kind() == io::ErrorKind::WouldBlock {
            let seconds = PATIENCE.as_secs();
            return Failure::new(format!("the queue of {socket} was full for {seconds} seconds"))
                .hint("too many processes connect to it, or the daemon hangs: see its log");
        }
        let failure = Failure::new(format!("no daemon answers at {socket}")).caused_by(Some(error));
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                failure.hint("only root and members of the group opb may use the socket")
            }
            _ => failure.hint("start it with `opb run`, or name its socket with --control"),
        }
    }
}

/// Waits for a place in the queue of the socket, which other users may keep full.
///
/// # Errors
///
/// [`io::ErrorKind::WouldBlock`] if there was none for [`PATIENCE`] (unix(7), `SO_SNDTIMEO`).
fn connect(path: &Path) -> io::Result<StdStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    setsockopt(&socket, SendTimeout, &TimeVal::seconds(PATIENCE.as_secs() as i64))?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = StdStream::from(socket);
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn runtime() -> Result<Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::from_error(&error))
}

fn decode<T: DeserializeOwned>(path: &str, status: StatusCode, body: &Bytes) -> Result<T, Failure> {
    if !status.is_success()
        && let Ok(refusal) = serde_json::from_slice::<ApiError>(body)
    {
        return Err(refused(refusal, status));
    }
    serde_json::from_slice(body).map_err(|error| {
        Failure::new(format!("cannot parse the daemon's response to {path} ({status})"))
            .caused_by(Some(&error))
            .hint("if opb was upgraded since the daemon started, restart the daemon")
    })
}

/// Returns `path` with these parameters as its query, which is absent if there are none.
pub(crate) fn with_query(path: &str, parameters: &impl Serialize) -> Result<String, Failure> {
    let query =
        serde_urlencoded::to_string(parameters).map_err(|error| Failure::from_error(&error))?;
    Ok(if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") })
}

async fn exchange(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: Upload,
) -> Result<(StatusCode, Bytes), hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::new(body);
    *request.method_mut() = method;
    // The paths are constants, and queries are URL-encoded, so parsing cannot fail.
    *request.uri_mut() = path.parse().unwrap_or_default();
    request
        .headers_mut()
        .insert(hyper::header::HOST, hyper::header::HeaderValue::from_static("opb"));
    let json = hyper::header::HeaderValue::from_static("application/json");
    request.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

fn refused(refusal: ApiError, status: StatusCode) -> Failure {
    let ApiError { error, causes } = refusal;
    let failure = if status == StatusCode::BAD_REQUEST {
        Failure::invalid(error)
    } else {
        Failure::new(error)
    };
    failure.caused_by_text(causes)
}
