//! Turns for requests that take much memory or time. Root has turns of its own, so that nobody else
//! delays what root asks for.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use hyper::body::{Bytes, Frame, SizeHint};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::timeout,
};

use super::serve::Crowd;

/// How long a caller waits for a turn: the end of an answer frees its turn a moment after the client
/// has it.
const PATIENCE: Duration = Duration::from_secs(1);

/// So many turns for all crowds together, and as many for callers without a crowd.
#[derive(Clone)]
pub(super) struct Turns {
    of_crowds: Arc<Semaphore>,
    of_root: Arc<Semaphore>,
}

/// Ends when it is dropped. Work that goes on after its client has hung up must hold it.
pub(super) struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Turns {
    pub(super) fn new(most: usize) -> Self {
        let [of_crowds, of_root] = [most, most].map(|most| Arc::new(Semaphore::new(most)));
        Self { of_crowds, of_root }
    }

    /// The next turn. `None` if all turns of the crowds are taken.
    pub(super) async fn take(&self, crowd: Option<Crowd>) -> Option<Turn> {
        let permit = match crowd {
            None => Arc::clone(&self.of_root).acquire_owned().await.ok(),
            Some(_) => {
                let turn = Arc::clone(&self.of_crowds).acquire_owned();
                timeout(PATIENCE, turn).await.ok().and_then(Result::ok)
            }
        };
        permit.map(|_permit| Turn { _permit })
    }
}

impl Turn {
    /// A response with `value` as JSON. The turn ends when the client has read it, but for the last
    /// piece.
    pub(super) async fn answer<T>(self, status: StatusCode, value: T) -> Response
    where
        T: Serialize + Send + 'static,
    {
        // A large answer would keep a thread of the runtime from all others.
        let made = spawn_blocking(move || (serde_json::to_vec(&value), self)).await;
        let Ok((Ok(text), turn)) = made else {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        };
        let body = Body::new(Held { text: text.into(), _turn: turn });
        (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

/// An answer in memory, and the turn that it was made in.
struct Held {
    text: Bytes,
    _turn: Turn,
}

impl Held {
    /// An HTTP connection takes the whole of a piece at once, and drops the body with the last one.
    const PIECE: usize = 64 << 10;
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.text.len().min(Self::PIECE);
        let piece = self.text.split_to(length);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.text.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn crowds_leave_the_turns_of_root_alone() {
        let turns = Turns::new(1);
        let user = Some(Crowd::User(1000));
        let first = turns.take(user).await.expect("free");
        assert!(turns.take(Some(Crowd::User(1001))).await.is_none(), "taken");
        let _of_root = turns.take(None).await.expect("of its own");
        let response = first.answer(StatusCode::OK, "large").await;
        assert!(turns.take(user).await.is_none(), "it is being sent");
        drop(response);
        assert!(turns.take(user).await.is_some());
    }
}
