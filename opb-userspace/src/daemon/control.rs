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
    /// Lists that may be on their way: each holds all entries in memory until the other end has taken them.
    pub(super) lists: Arc<Semaphore>,
}

/// Lists of entries at a time.
const LISTS: usize = 2;

pub(super) const LIMITS: Limits = Limits {
    name: "control",
    connections: 256,
    // One member of the group leaves something for the others.
    of_one: 192,
    // Root can always see what is going on.
    reserve: 16,
    head: 16 << 10,
    head_time: Duration::from_secs(10),
    body_time: Duration::from_secs(10),
    // An import of a million entries.
    request: Duration::from_secs(120),
    stall: Duration::from_secs(30),
};
/// Explanations a second, and at once.
const EXPLAINED: (u32, u32) = (200, 400);

/// Answers on the control socket until `stop` says so.
pub(super) async fn serve(
    listener: UnixListener,
    enforcer: Worker<Enforcer>,
    board: Board,
    stop: watch::Receiver<bool>,
) {
    let limits = LIMITS.within_descriptors();
    let users = Users::new();
    let caller = |io: &UnixStream, _: &_| Peer::of(io, &users);
    let refusals = Arc::clone(&board.refusals);
    serve::serve(listener, limits, refusals, caller, router(enforcer, board), stop).await;
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
        .fallback(async || ErrorResponse::new(StatusCode::NOT_FOUND, "there is no such endpoint"))
        .method_not_allowed_fallback(async || {
            ErrorResponse::new(StatusCode::METHOD_NOT_ALLOWED, "the endpoint wants another method")
        })
        .with_state(App {
            enforcer,
            batches: BatchQueue::default(),
            board,
            explained,
            lists: Arc::new(Semaphore::new(LISTS)),
        })
}

/// Never waits for the enforcer: it may be compiling.
async fn show_status(State(app): State<App>) -> Response {
    Json(app.board.status()).into_response()
}

/// Parameters of what can be on trial.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    /// Seconds within which it must be confirmed.
    confirm: Option<NonZeroU32>,
}

impl How {
    /// For how long it is on trial, if it shall be.
    pub(super) fn trial(
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
    let asked = Asked { trigger: Trigger::Request, who: Some(who), confirm: How::trial(how)? };
    let outcome = app.board.reader.reload(&app.enforcer, asked).await?;
    let status =
        if outcome.is_rejected() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok((status, Json(outcome)).into_response())
}

async fn confirm(
    State(app): State<App>,
    ConnectInfo(Peer(who, _)): ConnectInfo<Peer>,
) -> Result<Response, ErrorResponse> {
    match app.enforcer.call(move |it| it.on_behalf(Some(who), Enforcer::confirm)).await? {
        Ok(confirmation) => Ok(Json(confirmation).into_response()),
        Err(error) => Err(ErrorResponse::from(StatusCode::INTERNAL_SERVER_ERROR, &error)),
    }
}

async fn preview(State(app): State<App>) -> Result<Response, ErrorResponse> {
    Ok(match app.board.reader.preview(&app.enforcer).await? {
        Ok(preview) => Json(preview).into_response(),
        Err(errors) => {
            let outcome = ReloadOutcome::Rejected { errors };
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
        app.board.refusals.count(LIMITS.name, "rate");
        let error = format!("no more than {} explanations a second are given", EXPLAINED.0);
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

/// The longest that a request may wait.
const LONGEST_WAIT: u64 = 30;
/// Rows of talkers without a limit.
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

/// A [`ApiError`] on its way out.
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
