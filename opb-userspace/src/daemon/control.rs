//! The local API: HTTP and JSON on the control socket. docs/control-api.md describes it.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Query as Parameters, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
};

use super::{
    enforcer::{Asked, Enforcer},
    health::Board,
    serve::{self, Limits, Rate},
    subscribers::{self, BatchQueue, Peer, Users},
    worker::{Worker, WorkerDied},
};
use crate::api::{
    ApiError,
    counters::CountersQuery,
    events::{EventsQuery, TalkersQuery},
};
use crate::api::{explain::Query, reload::ReloadOutcome, reload::Trigger};
use crate::errors::causes;

#[derive(Clone)]
pub(super) struct App {
    pub(super) enforcer: Worker<Enforcer>,
    pub(super) batches: BatchQueue,
    pub(super) board: Board,
    explained: Arc<Rate>,
    /// Turns for lists of entries: each list is in memory until the client has received it.
    pub(super) lists: Arc<Semaphore>,
}

/// The most lists of entries at a time.
const LISTS: usize = 2;

pub(super) const LIMITS: Limits = Limits {
    name: "control",
    connections: 256,
    // One member of the group leaves connections for the others.
    of_one: 192,
    // Root can always connect.
    reserve: 16,
    head: 16 << 10,
    head_time: Duration::from_secs(10),
    body_time: Duration::from_secs(10),
    // An import of a million entries.
    request: Duration::from_secs(120),
    stall: Duration::from_secs(30),
};
/// Explanations per second, and in a burst.
const EXPLAINED: (u32, u32) = (200, 400);

/// Serves the control socket until `stop`.
pub(super) async fn serve(
    listener: UnixListener,
    enforcer: Worker<Enforcer>,
    board: Board,
    stop: watch::Receiver<bool>,
) {
    let limits = LIMITS.within_descriptors();
    let users = Users::new();
    let caller = |io: &UnixStream, _: &_| Peer::of(io, &users);
    let refused = Arc::clone(&board.refused);
    serve::serve(listener, limits, refused, caller, router(enforcer, board), stop).await;
}

pub(super) fn router(enforcer: Worker<Enforcer>, board: Board) -> Router {
    let explained = Arc::new(Rate::new(EXPLAINED.0, EXPLAINED.1));
    Router::new()
        .route("/v1/status", get(show_status))
        .route("/v1/reload", post(reload))
        .route("/v1/confirm", post(confirm))
        .route("/v1/diff", get(preview))
        .route("/v1/explain", get(explain))
        .route("/v1/counters", get(counters))
        .merge(subscribers::routes())
        .route("/v1/events", get(events))
        .route("/v1/talkers", get(talkers))
        .fallback(async || ErrorResponse::new(StatusCode::NOT_FOUND, "no such endpoint"))
        .method_not_allowed_fallback(async || {
            ErrorResponse::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
        })
        .with_state(App {
            enforcer,
            batches: BatchQueue::default(),
            board,
            explained,
            lists: Arc::new(Semaphore::new(LISTS)),
        })
}

/// Does not wait for the enforcer, which may be busy.
async fn show_status(State(app): State<App>) -> Response {
    Json(app.board.status()).into_response()
}

/// Parameters of commits that can be unconfirmed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    /// The confirmation timeout in seconds.
    confirm: Option<NonZeroU32>,
}

impl How {
    /// The confirmation timeout, if one was requested.
    pub(super) fn timeout(
        how: Result<Parameters<Self>, QueryRejection>,
    ) -> Result<Option<Duration>, ErrorResponse> {
        let Parameters(Self { confirm }) =
            how.map_err(|error| ErrorResponse::new(StatusCode::BAD_REQUEST, error.body_text()))?;
        Ok(confirm.map(|seconds| Duration::from_secs(seconds.get().into())))
    }
}

async fn reload(
    State(app): State<App>,
    ConnectInfo(Peer(who, _)): ConnectInfo<Peer>,
    how: Result<Parameters<How>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let asked = Asked { trigger: Trigger::Request, who: Some(who), confirm: How::timeout(how)? };
    let outcome = app.board.reader.reload(&app.enforcer, asked).await?;
    let status =
        if outcome.is_rejected() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok((status, Json(outcome)).into_response())
}

async fn confirm(
    State(app): State<App>,
    ConnectInfo(Peer(who, _)): ConnectInfo<Peer>,
) -> Result<Response, ErrorResponse> {
    match app.enforcer.call(move |it| it.confirm(&who)).await? {
        Ok(confirmation) => Ok(Json(confirmation).into_response()),
        Err(error) => Err(ErrorResponse::from(StatusCode::INTERNAL_SERVER_ERROR, &error)),
    }
}

async fn preview(State(app): State<App>) -> Result<Response, ErrorResponse> {
    Ok(match app.board.reader.preview(&app.enforcer).await? {
        Ok(preview) => Json(preview).into_response(),
        Err(error) => {
            let outcome = ReloadOutcome::Rejected { errors: error.problems() };
            (StatusCode::UNPROCESSABLE_ENTITY, Json(outcome)).into_response()
        }
    })
}

async fn explain(
    State(app): State<App>,
    query: Result<Parameters<Query>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let Parameters(query) =
        query.map_err(|error| ErrorResponse::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    if !app.explained.allows() {
        app.board.refused.count(LIMITS.name, "rate");
        let error = format!("too many requests: at most {} explanations per second", EXPLAINED.0);
        return Err(ErrorResponse::new(StatusCode::TOO_MANY_REQUESTS, error));
    }
    match app.enforcer.call(move |it| it.explain(&query)).await? {
        Ok(explanation) => Ok(Json(explanation).into_response()),
        Err(error) => Err(ErrorResponse::from(StatusCode::BAD_REQUEST, &error)),
    }
}

async fn counters(
    State(app): State<App>,
    query: Result<Parameters<CountersQuery>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let Parameters(CountersQuery { by }) =
        query.map_err(|error| ErrorResponse::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    Ok(Json(app.enforcer.call(move |it| it.counters(by)).await?).into_response())
}

/// The longest wait of a request, in seconds.
const LONGEST_WAIT: u64 = 30;
/// Rows of talkers if the request has no limit.
const TALKERS: usize = 100;

async fn events(
    State(app): State<App>,
    query: Result<Parameters<EventsQuery>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let Parameters(EventsQuery { after, group, wait }) =
        query.map_err(|error| ErrorResponse::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let wait = Duration::from_secs(wait.min(LONGEST_WAIT));
    Ok(Json(app.board.telemetry.events(after, group.as_deref(), wait).await).into_response())
}

async fn talkers(
    State(app): State<App>,
    query: Result<Parameters<TalkersQuery>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let Parameters(TalkersQuery { group, limit }) =
        query.map_err(|error| ErrorResponse::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    Ok(Json(app.board.telemetry.top(limit.unwrap_or(TALKERS), group.as_deref())).into_response())
}

/// An [`ApiError`] and its HTTP status.
pub(super) struct ErrorResponse {
    status: StatusCode,
    body: ApiError,
}

impl ErrorResponse {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, body: ApiError { error: error.into(), causes: Vec::new() } }
    }

    fn from(status: StatusCode, error: &dyn std::error::Error) -> Self {
        let causes = causes(error).map(ToString::to_string).collect();
        Self { status, body: ApiError { error: error.to_string(), causes } }
    }
}

impl From<WorkerDied> for ErrorResponse {
    fn from(error: WorkerDied) -> Self {
        Self::from(StatusCode::INTERNAL_SERVER_ERROR, &error)
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}
