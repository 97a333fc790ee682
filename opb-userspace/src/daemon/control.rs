//! The local API: HTTP and JSON on the control socket. docs/control-api.md describes it.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Query as Parameters, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
};

use super::{
    app::{App, EXPLAINED, ErrorResponse, How, LIMITS, LISTS},
    batches::BatchQueue,
    enforcer::{Asked, Enforcer},
    health::Board,
    peer::{Peer, Users},
    serve::{self, Rate},
    subscribers,
    worker::Worker,
};
use crate::api::{
    counters::CountersQuery,
    events::{EventsQuery, TalkersQuery},
};
use crate::api::{explain::Query, reload::ReloadOutcome, reload::Trigger};

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
    match app.enforcer.request(move |it| it.confirm(&who)).await? {
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
    match app.enforcer.request(move |it| it.explain(&query)).await? {
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
    Ok(Json(app.enforcer.request(move |it| it.counters(by)).await?).into_response())
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
