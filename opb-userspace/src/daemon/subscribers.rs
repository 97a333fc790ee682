//! Run-time entries in the control API.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::HttpBody as _,
    extract::{
        self, ConnectInfo, DefaultBodyLimit, Query as Parameters, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::sync::Semaphore;

use super::{
    app::{App, ErrorResponse, How},
    enforcer::ChangeError,
    peer::Peer,
    serve::{Caller as _, Crowd},
};
use crate::api::{entries::Addition, entries::Removal};
use crate::{errors::one_line, subscribers::changes::Request};

/// Room for a request with a million entries.
const LARGEST_BODY: usize = 256 << 20;
/// Larger requests wait for each other: each is in memory as a whole, and what is read from JSON
/// takes a multiple of it.
const LARGE_BODY: u64 = 64 << 10;
/// The most large requests of one user, waiting or under way. A user that sends slowly delays the
/// others by no more than these.
const LARGE_OF_ONE: usize = 4;

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
    /// The turn of callers without a crowd: nobody else delays what root imports.
    of_root: Semaphore,
    of: Mutex<Vec<Crowd>>,
}

impl Default for Large {
    fn default() -> Self {
        let [turn, of_root] = [1, 1].map(Semaphore::new);
        Self { turn, of_root, of: Mutex::default() }
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
    let (turn, _entered) = match peer.crowd() {
        None => (&large.of_root, None),
        Some(crowd) => match large.enter(crowd) {
            Some(entered) => (&large.turn, Some(entered)),
            None => {
                let error = format!("too many large requests: at most {LARGE_OF_ONE} per user");
                return ErrorResponse::new(StatusCode::TOO_MANY_REQUESTS, error).into_response();
            }
        },
    };
    let _turn = turn.acquire().await.ok();
    next.run(request).await
}

async fn list(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Result<Response, ErrorResponse> {
    let turn = app.list_turn(&peer).await?;
    // The turn does not end before the work does, even if the client hangs up.
    let (rows, turn) = app.enforcer.request(|it| (it.entries(), turn)).await?;
    Ok(turn.answer(StatusCode::OK, rows).await)
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
