//! The queue in front of the enforcer for changes of run-time entries.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    enforcer::{ChangeError, Enforcer, Waiting},
    worker::{Worker, WorkerDied},
};
use crate::{api::entries::ChangeResponse, subscribers::changes::Request};

/// Kibibytes of all requests that wait for the enforcer. A larger one waits alone.
const WAITING: u32 = 16 << 10;

/// Collects requests while the enforcer is busy: one commit and one publication serve all of them.
/// The request of a client that hangs up stays queued: hence the limit of [`WAITING`].
#[derive(Clone)]
pub(super) struct BatchQueue {
    waiting: Arc<Mutex<Vec<(Waiting, OwnedSemaphorePermit)>>>,
    room: Arc<Semaphore>,
}

impl Default for BatchQueue {
    fn default() -> Self {
        Self { waiting: Arc::default(), room: Arc::new(Semaphore::new(WAITING as usize)) }
    }
}

impl BatchQueue {
    /// Returns the answer to one request.
    pub(super) async fn ask(
        &self,
        enforcer: &Worker<Enforcer>,
        request: Request,
        confirm: Option<Duration>,
    ) -> Result<Result<ChangeResponse, ChangeError>, WorkerDied> {
        let size = u32::try_from(request.size().div_ceil(1024)).unwrap_or(u32::MAX).min(WAITING);
        let room = Arc::clone(&self.room).acquire_many_owned(size).await.map_err(|_| WorkerDied)?;
        let (reply, answer) = oneshot::channel();
        self.lock().push((Waiting { request, confirm, reply }, room));
        let batches = self.clone();
        // The first of these jobs serves all waiting requests, the others find none. Nobody waits
        // for the end of the job: it may answer this request first and serve later ones after it.
        let job = move |it: &mut Enforcer| {
            let (waiting, _room): (_, Vec<_>) =
                std::mem::take(&mut *batches.lock()).into_iter().unzip();
            it.serve(waiting);
        };
        enforcer.post(job).inspect_err(|_| self.lock().clear())?;
        answer.await.map_err(|_| WorkerDied)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Waiting, OwnedSemaphorePermit)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
