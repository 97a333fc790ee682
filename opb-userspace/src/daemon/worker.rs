//! A thread that owns a value and runs jobs on it.

use std::{io, thread};

use tokio::sync::{mpsc, oneshot};

use super::pulse::Pulse;

/// A handle to a thread that owns a `T` and runs one job at a time on it.
pub(super) struct Worker<T> {
    jobs: mpsc::UnboundedSender<Job<T>>,
    pulse: Pulse,
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
        Ok(made.await.map_err(|_| WorkerDied)?.map(|()| Self { jobs, pulse }))
    }

    /// A worker whose thread has ended.
    #[cfg(fuzzing)]
    pub(super) fn dead() -> Self {
        Self { jobs: mpsc::unbounded_channel().0, pulse: Pulse::new() }
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
        Self { jobs: self.jobs.clone(), pulse: self.pulse.clone() }
    }
}

fn spawn(body: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("kernel".to_owned()).spawn(body)
}
