//! Run-time entries in the control API.

use std::{
    collections::BTreeMap,
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
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
};

use super::{
    control::{self, App, ErrorResponse, How},
    enforcer::{ChangeError, Enforcer, Waiting},
    serve::{Caller, Crowd},
    threads::Threads,
    worker::{Worker, WorkerDied},
};
use crate::api::{entries::Addition, entries::ChangeResponse, entries::Removal, entries::Who};
use crate::{errors::one_line, subscribers::changes::Request};

/// Room for a request with a million entries.
const LARGEST_BODY: usize = 256 << 20;
/// Larger requests wait for each other: each is in memory as a whole, and what is read from JSON
/// takes a multiple of it.
const LARGE_BODY: u64 = 64 << 10;
/// The most large requests of one user, waiting or under way. A user that sends slowly delays the
/// others by no more than these.
const LARGE_OF_ONE: usize = 4;
/// Kibibytes of all requests that wait for the enforcer. A larger one waits alone.
const WAITING: u32 = 16 << 10;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/subscribers", get(list).post(add))
        .route("/v1/subscribers/remove", post(remove))
        .layer(from_fn_with_state(Arc::new(Large::default()), one_large_at_a_time))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
}

/// The turn of large requests, and the users that have such requests, waiting or under way.
struct Large {
    turn: Semaphore,
    of: Mutex<Vec<Crowd>>,
}

impl Default for Large {
    fn default() -> Self {
        Self { turn: Semaphore::new(1), of: Mutex::default() }
    }
}

impl Large {
    /// Counts a request. `None` if the crowd has reached its limit.
    fn enter(self: &Arc<Self>, crowd: Crowd) -> Option<Entered> {
        let mut of = self.of();
        if of.iter().filter(|&&it| it == crowd).count() >= LARGE_OF_ONE {
            return None;
        }
        of.push(crowd);
        Some(Entered(Arc::clone(self), crowd))
    }

    fn of(&self) -> std::sync::MutexGuard<'_, Vec<Crowd>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A counted request, until it is dropped.
struct Entered(Arc<Large>, Crowd);

impl Drop for Entered {
    fn drop(&mut self) {
        let mut of = self.0.of();
        if let Some(place) = of.iter().position(|it| *it == self.1) {
            of.swap_remove(place);
        }
    }
}

async fn one_large_at_a_time(
    State(large): State<Arc<Large>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: extract::Request,
    next: Next,
) -> Response {
    // A body without a length may be large; an empty one has the length 0.
    if request.body().size_hint().upper().is_some_and(|length| length <= LARGE_BODY) {
        return next.run(request).await;
    }
    let _entered = match peer.crowd() {
        None => None,
        Some(crowd) => match large.enter(crowd) {
            Some(entered) => Some(entered),
            None => {
                let error = format!("too many large requests: at most {LARGE_OF_ONE} per user");
                return ErrorResponse::new(StatusCode::TOO_MANY_REQUESTS, error).into_response();
            }
        },
    };
    let _turn = large.turn.acquire().await.ok();
    next.run(request).await
}

/// Collects requests while the enforcer is busy: one commit and one publication serve all of them.
/// The request of a client that hangs up stays queued: hence the limit of [`WAITING`].
#[derive(Clone)]
pub(super) struct BatchQueue {
    waiting: Arc<Mutex<Vec<(Waiting, OwnedSemaphorePermit)>>>,
    room: Arc<Semaphore>,
}

impl Default for BatchQueue {
    fn default() -> Self {
        Self { waiting: Arc::default(), room: Arc::new(Semaphore::new(WAITING as usize)) }
    }
}

impl BatchQueue {
    async fn ask(
        &self,
        enforcer: &Worker<Enforcer>,
        request: Request,
        confirm: Option<Duration>,
    ) -> Result<Result<ChangeResponse, ChangeError>, WorkerDied> {
        let size = u32::try_from(request.size().div_ceil(1024)).unwrap_or(u32::MAX).min(WAITING);
        let room = Arc::clone(&self.room).acquire_many_owned(size).await.map_err(|_| WorkerDied)?;
        let (reply, answer) = oneshot::channel();
        self.lock().push((Waiting { request, confirm, reply }, room));
        let batches = self.clone();
        // The first of these jobs serves all waiting requests, the others find none. Nobody waits
        // for the end of the job: it may answer this request first and serve later ones after it.
        let job = move |it: &mut Enforcer| {
            let (waiting, _room): (_, Vec<_>) =
                std::mem::take(&mut *batches.lock()).into_iter().unzip();
            it.serve(waiting);
        };
        enforcer.post(job).inspect_err(|_| self.lock().clear())?;
        answer.await.map_err(|_| WorkerDied)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Waiting, OwnedSemaphorePermit)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client at the other end of a connection.
#[derive(Clone)]
pub(super) struct Peer(pub(super) Arc<Who>, pub(super) Users);

impl Peer {
    /// The peer of `stream`, without its user name.
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
    fn crowd(&self) -> Option<Crowd> {
        let trusted = [0, Uid::effective().as_raw()];
        Some(self.0.uid).filter(|uid| !trusted.contains(uid)).map(Crowd::User)
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

async fn list(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Result<Response, ErrorResponse> {
    let lists = Arc::clone(&app.lists);
    let turn = match peer.crowd() {
        // Root has the next turn, so that others cannot keep it from the list.
        None => lists.acquire_owned().await.ok(),
        Some(_) => lists.try_acquire_owned().ok(),
    };
    let Some(turn) = turn else {
        app.board.refused.count(control::LIMITS.name, "lists");
        let error = "too many lists are being sent: try again";
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_requests_of_one_user_are_limited() {
        let (large, one, other) = (Arc::new(Large::default()), Crowd::User(1), Crowd::User(2));
        let mut entered: Vec<_> = (0..LARGE_OF_ONE).map(|_| large.enter(one)).collect();
        assert!(entered.iter().all(Option::is_some) && large.enter(one).is_none());
        let _other = large.enter(other).expect("room for others");
        entered.pop();
        assert!(large.enter(one).is_some());
        drop(entered);
        assert_eq!(*large.of(), [other]);
    }
}
