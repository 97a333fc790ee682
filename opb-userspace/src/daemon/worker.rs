//! A thread of its own for work that blocks.

use std::{io, thread};

use tokio::sync::{mpsc, oneshot};

use super::health::Pulse;

/// Owns a `T` on a thread of its own and does one thing after the other with it.
pub(super) struct Worker<T> {
    jobs: mpsc::UnboundedSender<Job<T>>,
    pulse: Pulse,
}

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// The thread has ended, which only a panic on it can do.
#[derive(Debug, thiserror::Error)]
#[error("the thread that talks to the kernel has ended")]
pub struct WorkerDied;

impl<T: 'static> Worker<T> {
    /// Makes the `T` on the new thread. The thread ends when the last clone of the worker is dropped.
    pub(super) async fn start<E: Send + 'static>(
        make: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<Result<Self, E>, WorkerDied> {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job<T>>();
        let (ready, made) = oneshot::channel();
        let pulse = Pulse::new();
        let beats = pulse.clone();
        spawn(move || match make() {
            Ok(mut it) => {
                // Whoever asked may have given up; then the queue is closed, too.
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
        Ok(made.await.map_err(|_| WorkerDied)?.map(|()| Self { jobs, pulse }))
    }

    /// One whose thread has ended already.
    #[cfg(fuzzing)]
    pub(super) fn gone() -> Self {
        Self { jobs: mpsc::unbounded_channel().0, pulse: Pulse::new() }
    }

    /// Waits for its turn, and for the result.
    pub(super) async fn call<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, WorkerDied> {
        let (reply, result) = oneshot::channel();
        self.post(move |it| drop(reply.send(work(it))))?;
        result.await.map_err(|_| WorkerDied)
    }

    /// When it last finished something. Somebody has to ask something of it for that to be young.
    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Waits for nothing.
    pub(super) fn post(
        &self,
        work: impl FnOnce(&mut T) + Send + 'static,
    ) -> Result<(), WorkerDied> {
        self.jobs.send(Box::new(work)).map_err(|_| WorkerDied)
    }
}

impl<T> Clone for Worker<T> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone(), pulse: self.pulse.clone() }
    }
}

fn spawn(body: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("kernel".to_owned()).spawn(body)
}
