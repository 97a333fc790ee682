//! What the handlers of the control API share: the parts of the daemon, the listener's limits, and
//! the form of an error.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Query as Parameters, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    batches::BatchQueue,
    enforcer::Enforcer,
    health::Board,
    limits::Limits,
    peer::Peer,
    serve::{Caller as _, Rate},
    turns::{Turn, Turns},
    worker::{Worker, WorkerDied},
};
use crate::{api::ApiError, errors::causes};

#[derive(Clone)]
pub(super) struct App {
    pub(super) enforcer: Worker<Enforcer>,
    pub(super) batches: BatchQueue,
    pub(super) board: Board,
    pub(super) explained: Arc<Rate>,
    /// Turns for answers that may be large: each is in memory until the client has received it.
    pub(super) lists: Turns,
    /// Turns for reloads, waiting or under way.
    pub(super) reloads: Turns,
}

/// The most large answers at a time.
pub(super) const LISTS: usize = 2;
/// The most groups that an error names.
const GROUPS: usize = 20;
/// The most reloads, waiting or under way. Each may take seconds, one after the other.
pub(super) const RELOADS: usize = 4;

impl App {
    /// A turn for a large answer.
    pub(super) async fn list_turn(&self, peer: &Peer) -> Result<Turn, ErrorResponse> {
        let turn = self.lists.take(peer.crowd()).await;
        turn.ok_or_else(|| self.crowded("lists", "too many lists are being sent: try again"))
    }

    /// A turn for a reload.
    pub(super) async fn reload_turn(&self, peer: &Peer) -> Result<Turn, ErrorResponse> {
        let turn = self.reloads.take(peer.crowd()).await;
        turn.ok_or_else(|| self.crowded("reloads", "too many reloads are waiting: try again"))
    }

    /// Refuses the name of a group that the policy does not have, unless something is recorded of it.
    pub(super) fn known_group(&self, name: Option<&str>) -> Result<(), ErrorResponse> {
        let Some(name) = name.filter(|name| *name != "-") else { return Ok(()) };
        let status = self.board.status.borrow();
        let mut groups = status.iter().flat_map(|status| &status.policy.groups);
        if groups.clone().any(|group| group.name == name) || self.board.telemetry.has_group(name) {
            return Ok(());
        }
        let names: Vec<_> = groups.by_ref().take(GROUPS).map(|group| &*group.name).collect();
        let more = groups.count();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let error = format!("unknown group `{name}`: known are {}{more}", names.join(", "));
        Err(ErrorResponse::new(StatusCode::BAD_REQUEST, error))
    }

    fn crowded(&self, why: &'static str, error: &str) -> ErrorResponse {
        self.board.refused.count(LIMITS.name, why);
        ErrorResponse::new(StatusCode::TOO_MANY_REQUESTS, error)
    }
}

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
pub(super) const EXPLAINED: (u32, u32) = (200, 400);

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
        Ok(confirmation_timeout(valid(how)?.confirm))
    }
}

/// The parameter `confirm`, in seconds, as a length of time.
pub(super) fn confirmation_timeout(seconds: Option<NonZeroU32>) -> Option<Duration> {
    seconds.map(|seconds| Duration::from_secs(seconds.get().into()))
}

/// The parameters of a request, or what is wrong with them.
pub(super) fn valid<T>(
    parameters: Result<Parameters<T>, QueryRejection>,
) -> Result<T, ErrorResponse> {
    let Parameters(parameters) = parameters
        .map_err(|error| ErrorResponse::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    Ok(parameters)
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

    pub(super) fn from(status: StatusCode, error: &dyn std::error::Error) -> Self {
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
