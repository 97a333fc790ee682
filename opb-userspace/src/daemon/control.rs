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
    sync::watch,
};

use super::{
    app::{App, EXPLAINED, ErrorResponse, LIMITS, LISTS, RELOADS, confirmation_timeout, valid},
    batches::BatchQueue,
    bypass, commits,
    enforcer::{Asked, Enforcer},
    health::Board,
    peer::{Peer, Users},
    reader::Origin,
    serve::{self, Rate},
    sessions, subscribers,
    turns::Turns,
    worker::Worker,
};
use crate::api::{
    counters::CountersQuery,
    events::{EventsQuery, TalkersQuery},
};
use crate::api::{explain::Query, reload::DiffQuery, reload::Trigger};
use crate::api::{reload::ReloadOutcome, reload::ReloadResponse};

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
        .route("/v1/rollback", post(roll_back))
        .merge(commits::routes())
        .merge(bypass::routes())
        .route("/v1/diff", get(preview))
        .route("/v1/explain", get(explain))
        .route("/v1/counters", get(counters))
        .merge(subscribers::routes())
        .merge(sessions::routes())
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
            lists: Turns::new(LISTS),
            reloads: Turns::new(RELOADS),
        })
}

/// Does not wait for the enforcer, which may be busy.
async fn show_status(State(app): State<App>) -> Response {
    Json(app.board.status()).into_response()
}

/// Parameters of a reload.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadParameters {
    /// The confirmation timeout in seconds.
    confirm: Option<NonZeroU32>,
    comment: Option<String>,
    /// The commit to put in force again, instead of the files.
    commit: Option<u64>,
}

async fn reload(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    parameters: Result<Parameters<ReloadParameters>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let ReloadParameters { confirm, comment, commit } = valid(parameters)?;
    if comment.as_ref().is_some_and(|comment| comment.chars().count() > LONGEST_COMMENT) {
        let error = format!("the comment has more than {LONGEST_COMMENT} characters");
        return Err(ErrorResponse::new(StatusCode::BAD_REQUEST, error));
    }
    let confirm = confirmation_timeout(confirm)?;
    let turn = app.reload_turn(&peer).await?;
    let who = Some(Arc::clone(&peer.0));
    let asked = Asked { trigger: Trigger::Request, who, confirm, comment };
    let origin = commit.map_or(Origin::Files, Origin::Commit);
    let outcome = app.board.reader.reload(&app.enforcer, origin, asked, Some(turn)).await?;
    if outcome.is_rejected() {
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, Json(outcome)).into_response());
    }
    let warnings = app.board.relay_warnings(RESOLVED).await;
    Ok(Json(ReloadResponse { outcome, warnings }).into_response())
}

/// How long a reload waits for the addresses of new relay hosts.
const RESOLVED: Duration = Duration::from_secs(5);

/// The longest comment on a commit, in characters.
const LONGEST_COMMENT: usize = 500;

async fn confirm(
    State(app): State<App>,
    ConnectInfo(Peer(who, _)): ConnectInfo<Peer>,
) -> Result<Response, ErrorResponse> {
    match app.enforcer.request(move |it| it.confirm(&who)).await? {
        Ok(confirmation) => Ok(Json(confirmation).into_response()),
        Err(error) => Err(ErrorResponse::from(StatusCode::INTERNAL_SERVER_ERROR, &error)),
    }
}

async fn roll_back(
    State(app): State<App>,
    ConnectInfo(Peer(who, _)): ConnectInfo<Peer>,
) -> Result<Response, ErrorResponse> {
    Ok(Json(app.enforcer.request(move |it| it.roll_back_now(&who)).await?).into_response())
}

async fn preview(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    sides: Result<Parameters<DiffQuery>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let DiffQuery { from, to } = valid(sides)?;
    let turn = app.list_turn(&peer).await?;
    let (preview, turn) = app.board.reader.preview(&app.enforcer, [from, to], turn).await?;
    Ok(match preview {
        Ok(preview) => turn.answer(StatusCode::OK, preview).await,
        Err(error) => {
            let outcome = ReloadOutcome::Rejected { errors: error.problems() };
            turn.answer(StatusCode::UNPROCESSABLE_ENTITY, outcome).await
        }
    })
}

async fn explain(
    State(app): State<App>,
    query: Result<Parameters<Query>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let query = valid(query)?;
    if !app.explained.allows() {
        app.board.refused.count(LIMITS.name, "rate");
        let error = format!("too many requests: at most {} explanations per second", EXPLAINED.0);
        return Err(ErrorResponse::new(StatusCode::TOO_MANY_REQUESTS, error));
    }
    let packet = query.clone();
    match app.enforcer.request(move |it| it.explain(&packet)).await? {
        Ok(mut explanation) => {
            app.board.other_rules.complete(&query, &mut explanation).await;
            Ok(Json(explanation).into_response())
        }
        Err(error) => Err(ErrorResponse::from(StatusCode::BAD_REQUEST, &error)),
    }
}

async fn counters(
    State(app): State<App>,
    query: Result<Parameters<CountersQuery>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let CountersQuery { by } = valid(query)?;
    Ok(Json(app.enforcer.request(move |it| it.counters(by)).await?).into_response())
}

/// The longest wait of a request, in seconds.
const LONGEST_WAIT: u64 = 30;
/// Rows of talkers if the request has no limit.
const TALKERS: usize = 100;
/// More rows of talkers are a large answer.
const FEW_TALKERS: usize = 1000;

async fn events(
    State(app): State<App>,
    query: Result<Parameters<EventsQuery>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let EventsQuery { after, group, wait } = valid(query)?;
    app.known_group(group.as_deref())?;
    let wait = Duration::from_secs(wait.min(LONGEST_WAIT));
    Ok(Json(app.board.telemetry.events(after, group.as_deref(), wait).await).into_response())
}

async fn talkers(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    query: Result<Parameters<TalkersQuery>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let TalkersQuery { group, limit } = valid(query)?;
    app.known_group(group.as_deref())?;
    let limit = limit.unwrap_or(TALKERS);
    let turn = if limit > FEW_TALKERS { Some(app.list_turn(&peer).await?) } else { None };
    let talkers = app.board.telemetry.top(limit, group.as_deref());
    Ok(match turn {
        Some(turn) => turn.answer(StatusCode::OK, talkers).await,
        None => Json(talkers).into_response(),
    })
}
