//! Commits in the control API.

use axum::{
    Router,
    extract::{ConnectInfo, Query as Parameters, State, rejection::QueryRejection},
    http::StatusCode,
    response::Response,
    routing::get,
};

use super::{
    app::{App, ErrorResponse, valid},
    peer::Peer,
};
use crate::{
    api::commits::{CommitText, WhichFile},
    commits,
};

pub(super) fn routes() -> Router<App> {
    Router::new().route("/v1/commits", get(list)).route("/v1/commits/file", get(file))
}

async fn list(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Result<Response, ErrorResponse> {
    let turn = app.list_turn(&peer).await?;
    let (rows, turn) = app.enforcer.request(|it| (it.commits(), turn)).await?;
    Ok(turn.answer(StatusCode::OK, rows).await)
}

/// The content of one file of a commit, as it was read.
async fn file(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    which: Result<Parameters<WhichFile>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let WhichFile { number, index } = valid(which)?;
    let missing = |error: &commits::Error| ErrorResponse::from(StatusCode::NOT_FOUND, error);
    // A list of prefixes may have a gigabyte.
    let turn = app.list_turn(&peer).await?;
    let found = app.enforcer.request(move |it| it.commit(number)).await?;
    let (commit, keeper) = found.map_err(|error| missing(&error))?;
    let Some(file) = commit.files.get(index).cloned() else {
        let error = format!("commit {number} has only {} files", commit.files.len());
        return Err(ErrorResponse::new(StatusCode::NOT_FOUND, error));
    };
    let read = app.board.reader.read_commit(keeper, file.clone(), turn).await;
    let (source, turn) =
        read.map_err(|error| ErrorResponse::from(StatusCode::INTERNAL_SERVER_ERROR, &error))?;
    let text = source.text.to_string();
    drop(source);
    Ok(turn.answer(StatusCode::OK, CommitText { file, text }).await)
}
