//! The local API: HTTP and JSON on the control socket. docs/control-api.md describes it.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Query as Parameters, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    enforcer::{Enforcer, ExplainError},
    report::{By, ReloadOutcome, Status, Trigger},
    subscribers::{self, Desk, Peer},
    worker::{Gone, Worker},
};
use crate::{errors::causes, explain::Query, telemetry::Telemetry};

/// Body of every answer that is no success and no rejected reload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    pub error: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}

#[derive(Clone)]
pub(super) struct App {
    pub(super) enforcer: Worker<Enforcer>,
    pub(super) desk: Desk,
    status: watch::Receiver<Option<Status>>,
    telemetry: Arc<Telemetry>,
}

pub(super) fn router(
    enforcer: Worker<Enforcer>,
    status: watch::Receiver<Option<Status>>,
    telemetry: Arc<Telemetry>,
) -> Router {
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
        .fallback(async || Refused::new(StatusCode::NOT_FOUND, "there is no such endpoint"))
        .method_not_allowed_fallback(async || {
            Refused::new(StatusCode::METHOD_NOT_ALLOWED, "the endpoint wants another method")
        })
        .with_state(App { enforcer, desk: Desk::default(), status, telemetry })
}

/// Never waits for the enforcer: it may be compiling.
async fn show_status(State(app): State<App>) -> Response {
    let mut status = app.status.borrow().clone();
    if let Some(status) = &mut status {
        status.alarms = app.telemetry.alarms();
    }
    Json(status).into_response()
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
    ) -> Result<Option<Duration>, Refused> {
        let Parameters(Self { confirm }) =
            how.map_err(|error| Refused::new(StatusCode::BAD_REQUEST, error.body_text()))?;
        Ok(confirm.map(|seconds| Duration::from_secs(seconds.get().into())))
    }
}

async fn reload(
    State(app): State<App>,
    ConnectInfo(Peer(who)): ConnectInfo<Peer>,
    how: Result<Parameters<How>, QueryRejection>,
) -> Result<Response, Refused> {
    let outcome = match How::trial(how)? {
        None => {
            let reload =
                move |it: &mut Enforcer| it.on_behalf(&who, |it| it.reload(Trigger::Request));
            app.enforcer.call(reload).await?
        }
        Some(limit) => {
            let reload =
                move |it: &mut Enforcer| it.on_behalf(&who, |it| it.reload_on_trial(limit));
            app.enforcer.call(reload).await?
        }
    };
    let status =
        if outcome.is_rejected() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok((status, Json(outcome)).into_response())
}

async fn confirm(
    State(app): State<App>,
    ConnectInfo(Peer(who)): ConnectInfo<Peer>,
) -> Result<Response, Refused> {
    match app.enforcer.call(move |it| it.on_behalf(&who, Enforcer::confirm)).await? {
        Ok(confirmation) => Ok(Json(confirmation).into_response()),
        Err(error) => Err(Refused::from(StatusCode::INTERNAL_SERVER_ERROR, &error)),
    }
}

async fn preview(State(app): State<App>) -> Result<Response, Refused> {
    Ok(match app.enforcer.call(|it| it.preview()).await? {
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
) -> Result<Response, Refused> {
    let Parameters(query) =
        query.map_err(|error| Refused::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    match app.enforcer.call(move |it| it.explain(&query)).await? {
        Ok(explanation) => Ok(Json(explanation).into_response()),
        Err(error @ ExplainError::Query(_)) => Err(Refused::from(StatusCode::BAD_REQUEST, &error)),
        Err(error) => Err(Refused::from(StatusCode::INTERNAL_SERVER_ERROR, &error)),
    }
}

/// What `GET /v1/counters` is asked.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountersQuery {
    #[serde(default)]
    pub by: By,
}

async fn counters(
    State(app): State<App>,
    query: Result<Parameters<CountersQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    let Parameters(CountersQuery { by }) =
        query.map_err(|error| Refused::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    Ok(Json(app.enforcer.call(move |it| it.counters(by)).await?).into_response())
}

/// What `GET /v1/events` is asked.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Number of the last event that is known.
    #[serde(default)]
    pub after: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Seconds to wait for something new.
    #[serde(default)]
    pub wait: u64,
}

/// What `GET /v1/talkers` is asked.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TalkersQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The most rows that are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// The longest that a request may wait.
const LONGEST_WAIT: u64 = 30;
/// Rows of talkers without a limit.
const TALKERS: usize = 100;

async fn events(
    State(app): State<App>,
    query: Result<Parameters<EventsQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    let Parameters(EventsQuery { after, group, wait }) =
        query.map_err(|error| Refused::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let wait = Duration::from_secs(wait.min(LONGEST_WAIT));
    Ok(Json(app.telemetry.events(after, group.as_deref(), wait).await).into_response())
}

async fn talkers(
    State(app): State<App>,
    query: Result<Parameters<TalkersQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    let Parameters(TalkersQuery { group, limit }) =
        query.map_err(|error| Refused::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    Ok(Json(app.telemetry.top(limit.unwrap_or(TALKERS), group.as_deref())).into_response())
}

/// A [`Refusal`] on its way out.
pub(super) struct Refused {
    status: StatusCode,
    body: Refusal,
}

impl Refused {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, body: Refusal { error: error.into(), causes: Vec::new() } }
    }

    fn from(status: StatusCode, error: &dyn std::error::Error) -> Self {
        let causes = causes(error).map(ToString::to_string).collect();
        Self { status, body: Refusal { error: error.to_string(), causes } }
    }
}

impl From<Gone> for Refused {
    fn from(gone: Gone) -> Self {
        Self::from(StatusCode::INTERNAL_SERVER_ERROR, &gone)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}
