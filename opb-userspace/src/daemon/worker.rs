//! A thread that owns a value and runs jobs on it.

use std::{io, sync::Arc, thread};

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::pulse::Pulse;

/// The most requests of clients that wait for the thread.
const REQUESTS: usize = 32;

/// A handle to a thread that owns a `T` and runs one job at a time on it.
pub(super) struct Worker<T> {
    jobs: mpsc::UnboundedSender<Job<T>>,
    pulse: Pulse,
    /// Room for requests of clients in the queue.
    requests: Arc<Semaphore>,
}

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// The thread has ended, which only happens by a panic.
#[derive(Debug, thiserror::Error)]
#[error("the thread that talks to the kernel has ended")]
pub struct WorkerDied;

impl<T: 'static> Worker<T> {
    /// Starts a thread and makes the `T` on it. The thread ends when the last clone of the worker
    /// is dropped.
    pub(super) async fn start<E: Send + 'static>(
        make: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<Result<Self, E>, WorkerDied> {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job<T>>();
        let (ready, made) = oneshot::channel();
        let pulse = Pulse::new();
        let beats = pulse.clone();
        spawn(move || match make() {
            Ok(mut it) => {
                // If the caller has given up, the queue is closed, too.
                let _ = ready.send(Ok(()));
                beats.beat();
                while let Some(job) = queue.blocking_recv() {
                    job(&mut it);
                    beats.beat();
                }
            }
            Err(error) => drop(ready.send(Err(error))),
        })
        .map_err(|_| WorkerDied)?;
        Ok(made.await.map_err(|_| WorkerDied)?.map(|()| Self::new(jobs, pulse)))
    }

    fn new(jobs: mpsc::UnboundedSender<Job<T>>, pulse: Pulse) -> Self {
        Self { jobs, pulse, requests: Arc::new(Semaphore::new(REQUESTS)) }
    }

    /// A worker whose thread has ended.
    #[cfg(fuzzing)]
    pub(super) fn dead() -> Self {
        Self::new(mpsc::unbounded_channel().0, Pulse::new())
    }

    /// Runs `work` on the thread, and returns its result.
    pub(super) async fn call<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, WorkerDied> {
        let (reply, result) = oneshot::channel();
        self.post(move |it| drop(reply.send(work(it))))?;
        result.await.map_err(|_| WorkerDied)
    }

    /// Like [`Self::call`], for a request of a client. At most [`REQUESTS`] of them are queued, and
    /// work whose client has hung up is skipped: otherwise, a client that asks and hangs up all the
    /// time would keep the thread busy for hours, with everything else behind it.
    pub(super) async fn request<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, WorkerDied> {
        let room = Arc::clone(&self.requests).acquire_owned().await.map_err(|_| WorkerDied)?;
        let (reply, result) = oneshot::channel();
        self.post(move |it| {
            if !reply.is_closed() {
                drop(reply.send(work(it)));
            }
            drop(room);
        })?;
        result.await.map_err(|_| WorkerDied)
    }

    /// Beats after each job.
    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Queues `work`, and does not wait for it.
    pub(super) fn post(
        &self,
        work: impl FnOnce(&mut T) + Send + 'static,
    ) -> Result<(), WorkerDied> {
        self.jobs.send(Box::new(work)).map_err(|_| WorkerDied)
    }
}

impl<T> Clone for Worker<T> {
    fn clone(&self) -> Self {
        let Self { jobs, pulse, requests } = self;
        Self { jobs: jobs.clone(), pulse: pulse.clone(), requests: Arc::clone(requests) }
    }
}

fn spawn(body: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("kernel".to_owned()).spawn(body)
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::mpsc::channel, time::Duration};

    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn requests_that_nobody_waits_for_are_few_and_are_skipped() {
        let worker = Worker::start(|| Ok::<_, Infallible>(0)).await.expect("a thread");
        let worker = worker.expect("a worker");
        let (gate, waits) = channel::<()>();
        worker.post(move |_| assert!(waits.recv().is_err(), "closed")).expect("runs");
        let count = |made: &mut usize| *made += 1;
        for _ in 0..10 * REQUESTS {
            // Polled once, as for a client that hangs up.
            let asked = timeout(Duration::ZERO, worker.request(count)).await;
            assert!(asked.is_err(), "the thread is busy");
        }
        assert_eq!(worker.requests.available_permits(), 0, "no more are queued");
        drop(gate);
        timeout(LONG, worker.request(count)).await.expect("in time").expect("made");
        assert_eq!(worker.call(|made| *made).await.expect("lives"), 1, "no other was made");
        assert_eq!(worker.requests.available_permits(), REQUESTS);
    }
}
