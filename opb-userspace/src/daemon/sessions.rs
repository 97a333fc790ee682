//! Sessions in the control API.

use axum::{
    Json, Router,
    extract::{
        ConnectInfo, Query as Parameters, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};

use super::{
    app::{App, ErrorResponse, valid},
    peer::Peer,
};
use crate::{
    api::sessions::{SessionRemoval, SessionRemoved, SessionsQuery},
    errors::one_line,
    subscribers::sessions::Key,
};

pub(super) fn routes() -> Router<App> {
    Router::new().route("/v1/sessions", get(list)).route("/v1/sessions/remove", post(remove))
}

async fn list(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    query: Result<Parameters<SessionsQuery>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let query = valid(query)?;
    let turn = app.list_turn(&peer).await?;
    let (rows, turn) = app.enforcer.request(move |it| (it.sessions(&query), turn)).await?;
    Ok(turn.answer(StatusCode::OK, rows).await)
}

async fn remove(
    State(app): State<App>,
    ConnectInfo(Peer(who, _)): ConnectInfo<Peer>,
    body: Result<Json<SessionRemoval>, JsonRejection>,
) -> Result<Response, ErrorResponse> {
    let Json(SessionRemoval { nas, id }) =
        body.map_err(|error| ErrorResponse::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let key = Key { nas, id };
    let removed = app.enforcer.request(move |it| it.remove_session(key, &who)).await?;
    let removed = removed
        .map_err(|error| ErrorResponse::new(StatusCode::INTERNAL_SERVER_ERROR, one_line(&error)))?;
    Ok(Json(SessionRemoved { removed: usize::from(removed) }).into_response())
}
