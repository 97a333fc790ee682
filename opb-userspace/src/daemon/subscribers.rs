//! Run-time entries in the control API.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{
        ConnectInfo, DefaultBodyLimit, Query as Parameters, State,
        connect_info::Connected,
        rejection::{JsonRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use nix::unistd::{Uid, User};
use tokio::{net::UnixListener, sync::oneshot};

use super::{
    control::{App, How, Refused},
    enforcer::{Enforcer, Refusal, Waiting},
    worker::{Gone, Worker},
};
use crate::subscribers::{
    Who,
    changes::{Addition, Answer, Removal, Request},
};

/// A request with a million entries is meant to fit.
const LARGEST_BODY: usize = 1 << 30;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/subscribers", get(list).post(add))
        .route("/v1/subscribers/remove", post(remove))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
}

/// Collects requests while the enforcer is busy, so that one commit and one publication serve all that came meanwhile.
#[derive(Clone, Default)]
pub(super) struct Desk(Arc<Mutex<Vec<Waiting>>>);

impl Desk {
    async fn ask(
        &self,
        enforcer: &Worker<Enforcer>,
        request: Request,
        trial: Option<Duration>,
    ) -> Result<Result<Answer, Refusal>, Gone> {
        let (reply, answer) = oneshot::channel();
        self.lock().push(Waiting { request, trial, reply });
        let desk = self.clone();
        // The first of these jobs finds all that are waiting, the others none. Its end is not waited for: it may serve those that
        // came later, and have the answer to this request behind it.
        let job = move |it: &mut Enforcer| it.serve(std::mem::take(&mut *desk.lock()));
        enforcer.post(job).inspect_err(|_| self.lock().clear())?;
        answer.await.map_err(|_| Gone)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer(pub(super) Arc<Who>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let who = match stream.io().peer_cred() {
            Ok(peer) => {
                let user = User::from_uid(Uid::from_raw(peer.uid())).ok().flatten();
                Who { uid: peer.uid(), pid: peer.pid(), user: user.map(|user| user.name) }
            }
            // The kernel always knows; if not, then nobody in particular.
            Err(_) => Who { uid: u32::MAX, pid: None, user: None },
        };
        Self(Arc::new(who))
    }
}

async fn list(State(app): State<App>) -> Result<Response, Refused> {
    Ok(Json(app.enforcer.call(|it| it.entries()).await?).into_response())
}

async fn add(
    State(app): State<App>,
    ConnectInfo(Peer(who)): ConnectInfo<Peer>,
    how: Result<Parameters<How>, QueryRejection>,
    body: Result<Json<Addition>, JsonRejection>,
) -> Result<Response, Refused> {
    let trial = How::trial(how)?;
    let Json(addition) = body.map_err(unreadable)?;
    let partial = addition.partial;
    change(&app, Request::Add(addition, who), trial, partial).await
}

async fn remove(
    State(app): State<App>,
    ConnectInfo(Peer(who)): ConnectInfo<Peer>,
    body: Result<Json<Removal>, JsonRejection>,
) -> Result<Response, Refused> {
    let Json(removal) = body.map_err(unreadable)?;
    let partial = removal.partial;
    change(&app, Request::Remove(removal, who), None, partial).await
}

async fn change(
    app: &App,
    request: Request,
    trial: Option<Duration>,
    partial: bool,
) -> Result<Response, Refused> {
    let answer = (app.desk.ask(&app.enforcer, request, trial).await?).map_err(|refusal| {
        let (status, error) = match refusal {
            Refusal::OnTrial(error) => (StatusCode::CONFLICT, error),
            Refusal::Failed(error) => (StatusCode::INTERNAL_SERVER_ERROR, error),
        };
        Refused::new(status, error)
    })?;
    let refused = !partial && !answer.failures.is_empty();
    let status = if refused { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok((status, Json(answer)).into_response())
}

fn unreadable(rejection: JsonRejection) -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, rejection.body_text())
}
