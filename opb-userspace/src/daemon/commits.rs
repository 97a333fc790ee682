//! Commits in the control API.

use axum::{
    Json, Router,
    extract::{Query as Parameters, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};

use super::app::{App, ErrorResponse, valid};
use crate::{
    api::commits::{CommitText, WhichFile},
    commits,
};

pub(super) fn routes() -> Router<App> {
    Router::new().route("/v1/commits", get(list)).route("/v1/commits/file", get(file))
}

async fn list(State(app): State<App>) -> Result<Response, ErrorResponse> {
    Ok(Json(app.enforcer.call(|it| it.commits()).await?).into_response())
}

/// The content of one file of a commit, as it was read.
async fn file(
    State(app): State<App>,
    which: Result<Parameters<WhichFile>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let WhichFile { number, index } = valid(which)?;
    let missing = |error: &commits::Error| ErrorResponse::from(StatusCode::NOT_FOUND, error);
    let found = app.enforcer.call(move |it| it.commit(number)).await?;
    let (commit, keeper) = found.map_err(|error| missing(&error))?;
    let Some(file) = commit.files.get(index).cloned() else {
        let error = format!("commit {number} has only {} files", commit.files.len());
        return Err(ErrorResponse::new(StatusCode::NOT_FOUND, error));
    };
    let source = app.board.reader.read_commit(keeper, file.clone()).await;
    let source =
        source.map_err(|error| ErrorResponse::from(StatusCode::INTERNAL_SERVER_ERROR, &error))?;
    Ok(Json(CommitText { file, text: source.text.to_string() }).into_response())
}
