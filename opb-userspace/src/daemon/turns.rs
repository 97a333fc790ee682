//! Turns for requests that take much memory or time. Root has turns of its own, so that nobody else
//! delays what root asks for.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use http_body_util::BodyExt as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
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
    /// Ends with the body of `response`, which is in memory until it is sent.
    pub(super) fn until_sent(self, response: Response) -> Response {
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _turn = &self;
                frame
            }))
        })
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
        let response = first.until_sent(Response::new(Body::from("large")));
        assert!(turns.take(user).await.is_none(), "it is being sent");
        drop(response);
        assert!(turns.take(user).await.is_some());
    }
}
