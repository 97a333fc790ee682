//! Emergency bypasses in the control API.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{ConnectInfo, Query as Parameters, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};

use super::{
    app::{App, ErrorResponse, valid},
    peer::Peer,
};
use crate::api::bypass::{BypassEnd, BypassRequest};

pub(super) fn routes() -> Router<App> {
    Router::new().route("/v1/bypass", get(list).post(start)).route("/v1/bypass/end", post(end))
}

async fn list(State(app): State<App>) -> Result<Response, ErrorResponse> {
    Ok(Json(app.enforcer.request(|it| it.bypasses()).await?).into_response())
}

async fn start(
    State(app): State<App>,
    ConnectInfo(Peer(who, _)): ConnectInfo<Peer>,
    request: Result<Parameters<BypassRequest>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let request = valid(request)?;
    match app.enforcer.request(move |it| it.start_bypass(&request, &who)).await? {
        Ok(line) => Ok(Json(line).into_response()),
        Err(error) => Err(ErrorResponse::from(StatusCode::BAD_REQUEST, &error)),
    }
}

async fn end(
    State(app): State<App>,
    ConnectInfo(Peer(who, _)): ConnectInfo<Peer>,
    which: Result<Parameters<BypassEnd>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let BypassEnd { group } = valid(which)?;
    let who = Arc::clone(&who);
    let ended = app.enforcer.request(move |it| it.end_bypass(group.as_deref(), &who)).await?;
    Ok(Json(ended).into_response())
}
