//! The local API: HTTP and JSON on the control socket. docs/control-api.md describes it.

use axum::{
    Json, Router,
    extract::{Query as Parameters, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    enforcer::{Enforcer, ExplainError},
    report::{Status, Trigger},
    worker::{Gone, Worker},
};
use crate::{errors::causes, explain::Query};

/// Body of every answer that is no success and no rejected reload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    pub error: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}

#[derive(Clone)]
struct App {
    enforcer: Worker<Enforcer>,
    status: watch::Receiver<Option<Status>>,
}

pub(super) fn router(
    enforcer: Worker<Enforcer>,
    status: watch::Receiver<Option<Status>>,
) -> Router {
    Router::new()
        .route("/v1/status", get(show_status))
        .route("/v1/reload", post(reload))
        .route("/v1/explain", get(explain))
        .route("/v1/counters", get(counters))
        .fallback(async || Refused::new(StatusCode::NOT_FOUND, "there is no such endpoint"))
        .method_not_allowed_fallback(async || {
            Refused::new(StatusCode::METHOD_NOT_ALLOWED, "the endpoint wants another method")
        })
        .with_state(App { enforcer, status })
}

/// Never waits for the enforcer: it may be compiling.
async fn show_status(State(app): State<App>) -> Response {
    Json(&*app.status.borrow()).into_response()
}

async fn reload(State(app): State<App>) -> Result<Response, Refused> {
    let outcome = app.enforcer.call(|it| it.reload(Trigger::Request)).await?;
    let status =
        if outcome.is_rejected() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok((status, Json(outcome)).into_response())
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

async fn counters(State(app): State<App>) -> Result<Response, Refused> {
    match app.enforcer.call(|it| it.counters()).await? {
        Ok(lines) => Ok(Json(lines).into_response()),
        Err(error) => Err(Refused::from(StatusCode::INTERNAL_SERVER_ERROR, &error)),
    }
}

/// A [`Refusal`] on its way out.
struct Refused {
    status: StatusCode,
    body: Refusal,
}

impl Refused {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
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
