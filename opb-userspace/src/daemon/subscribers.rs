//! Run-time entries in the control API.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::{Body, HttpBody as _},
    extract::{
        self, ConnectInfo, DefaultBodyLimit, Query as Parameters, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http_body_util::BodyExt as _;
use nix::unistd::{Uid, User};
use tokio::{
    net::UnixStream,
    sync::{Semaphore, oneshot},
};

use super::{
    control::{self, App, ErrorResponse, How},
    enforcer::{ChangeError, Enforcer, Waiting},
    serve::Caller,
    threads::Threads,
    worker::{Worker, WorkerDied},
};
use crate::api::{entries::Addition, entries::ChangeResponse, entries::Removal, entries::Who};
use crate::{errors::one_line, subscribers::changes::Request};

/// Room for a request with a million entries.
const LARGEST_BODY: usize = 256 << 20;
/// Larger requests wait for each other: each is in memory as a whole.
const LARGE_BODY: u64 = 1 << 20;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/subscribers", get(list).post(add))
        .route("/v1/subscribers/remove", post(remove))
        .layer(from_fn_with_state(Arc::new(Semaphore::new(1)), one_large_at_a_time))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
}

async fn one_large_at_a_time(
    State(turn): State<Arc<Semaphore>>,
    request: extract::Request,
    next: Next,
) -> Response {
    // A body without a length may be large; an empty one has the length 0.
    let is_small = request.body().size_hint().upper().is_some_and(|length| length <= LARGE_BODY);
    let _turn = if is_small { None } else { turn.acquire().await.ok() };
    next.run(request).await
}

/// Collects requests while the enforcer is busy: one commit and one publication serve all of them.
#[derive(Clone, Default)]
pub(super) struct BatchQueue(Arc<Mutex<Vec<Waiting>>>);

impl BatchQueue {
    async fn ask(
        &self,
        enforcer: &Worker<Enforcer>,
        request: Request,
        confirm: Option<Duration>,
    ) -> Result<Result<ChangeResponse, ChangeError>, WorkerDied> {
        let (reply, answer) = oneshot::channel();
        self.lock().push(Waiting { request, confirm, reply });
        let batches = self.clone();
        // The first of these jobs serves all waiting requests, the others find none. Nobody waits
        // for the end of the job: it may answer this request first and serve later ones after it.
        let job = move |it: &mut Enforcer| it.serve(std::mem::take(&mut *batches.lock()));
        enforcer.post(job).inspect_err(|_| self.lock().clear())?;
        answer.await.map_err(|_| WorkerDied)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client at the other end of a connection.
#[derive(Clone)]
pub(super) struct Peer(pub(super) Arc<Who>, pub(super) Users);

impl Peer {
    /// Without a name yet.
    pub(super) fn of(stream: &UnixStream, users: &Users) -> Self {
        let who = match stream.peer_cred() {
            Ok(peer) => Who { uid: peer.uid(), pid: peer.pid(), user: None },
            // Does not happen: the kernel always knows the peer.
            Err(_) => Who { uid: u32::MAX, pid: None, user: None },
        };
        Self(Arc::new(who), users.clone())
    }
}

#[cfg(fuzzing)]
impl Peer {
    pub(super) fn named(who: Who) -> Self {
        let users = Users::new();
        users.lock().insert(who.uid, (who.user.clone(), Instant::now()));
        Self(Arc::new(who), users)
    }
}

impl Caller for Peer {
    fn address(&self) -> Option<IpAddr> {
        None
    }

    async fn identify(self) -> Self {
        let Self(who, users) = self;
        let user = users.name(who.uid).await;
        Self(Arc::new(Who { user, ..Who::clone(&who) }), users)
    }
}

/// Names by number, and when they were looked up.
type Known = BTreeMap<u32, (Option<String>, Instant)>;

/// Names of users. A remote directory (LDAP) may hang: then users have numbers only.
#[derive(Clone)]
pub(super) struct Users {
    threads: Threads,
    known: Arc<Mutex<Known>>,
}

impl Users {
    /// The longest wait for a name.
    const PATIENCE: Duration = Duration::from_secs(1);
    /// How long a name, or its absence, is cached.
    const KEPT: Duration = Duration::from_secs(60);
    /// The most cached names.
    const MOST: usize = 1024;

    pub(super) fn new() -> Self {
        Self { threads: Threads::new("users"), known: Arc::default() }
    }

    async fn name(&self, uid: u32) -> Option<String> {
        let fresh = |(_, since): &&(Option<String>, Instant)| since.elapsed() < Self::KEPT;
        if let Some((name, _)) = self.lock().get(&uid).filter(fresh) {
            return name.clone();
        }
        let ask = move || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
        let name = self.threads.run(Self::PATIENCE, ask).await.ok().flatten();
        let mut known = self.lock();
        if known.len() >= Self::MOST {
            known.clear();
        }
        known.insert(uid, (name.clone(), Instant::now()));
        name
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn list(State(app): State<App>) -> Result<Response, ErrorResponse> {
    let Ok(turn) = Arc::clone(&app.lists).try_acquire_owned() else {
        app.board.refusals.count(control::LIMITS.name, "lists");
        let error = "other lists are still being sent: ask again";
        return Err(ErrorResponse::new(StatusCode::TOO_MANY_REQUESTS, error));
    };
    let response = Json(app.enforcer.call(|it| it.entries()).await?).into_response();
    // The turn ends with the body, which is in memory until it is sent.
    Ok(response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _turn = &turn;
            frame
        }))
    }))
}

async fn add(
    State(app): State<App>,
    ConnectInfo(Peer(who, _)): ConnectInfo<Peer>,
    how: Result<Parameters<How>, QueryRejection>,
    body: Result<Json<Addition>, JsonRejection>,
) -> Result<Response, ErrorResponse> {
    let confirm = How::timeout(how)?;
    let Json(addition) = body.map_err(unreadable)?;
    let partial = addition.partial;
    change(&app, Request::Add(addition, who), confirm, partial).await
}

async fn remove(
    State(app): State<App>,
    ConnectInfo(Peer(who, _)): ConnectInfo<Peer>,
    body: Result<Json<Removal>, JsonRejection>,
) -> Result<Response, ErrorResponse> {
    let Json(removal) = body.map_err(unreadable)?;
    let partial = removal.partial;
    change(&app, Request::Remove(removal, who), None, partial).await
}

async fn change(
    app: &App,
    request: Request,
    confirm: Option<Duration>,
    partial: bool,
) -> Result<Response, ErrorResponse> {
    let answer = (app.batches.ask(&app.enforcer, request, confirm).await?).map_err(|error| {
        let status = match error {
            ChangeError::Unconfirmed(_) => StatusCode::CONFLICT,
            ChangeError::Store(_) | ChangeError::Build(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        ErrorResponse::new(status, one_line(&error))
    })?;
    let refused = !partial && !answer.failures.is_empty();
    let status = if refused { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok((status, Json(answer)).into_response())
}

fn unreadable(rejection: JsonRejection) -> ErrorResponse {
    ErrorResponse::new(StatusCode::BAD_REQUEST, rejection.body_text())
}
