//! Work that may hang, such as reading from a network file system: it blocks a thread of its own,
//! and the caller gives up after a while.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

/// The most hanging threads of a kind. No new one starts until one of them ends.
const HANGING: usize = 4;

/// The threads for one kind of work. Clones count together.
#[derive(Clone)]
pub(super) struct Threads {
    name: &'static str,
    /// Threads that were given up and have not ended.
    hanging: Arc<AtomicUsize>,
}

/// The work did not end in time, or did not start because too many threads hang.
#[derive(Debug, thiserror::Error)]
#[error("not done within {} seconds", .0.as_secs())]
pub struct GivenUp(Duration);

impl Threads {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, hanging: Arc::default() }
    }

    /// Whether a thread hangs now.
    pub(super) fn hang(&self) -> bool {
        self.hanging.load(Ordering::Acquire) > 0
    }

    /// Does `work` on a thread of its own, and gives the thread up after `limit`.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, GivenUp> {
        if self.hanging.load(Ordering::Acquire) >= HANGING {
            return Err(GivenUp(limit));
        }
        let (done, result) = oneshot::channel();
        let mut end = End { done: Some(done), hanging: Arc::clone(&self.hanging) };
        let body = move || end.send(Some(work()));
        let spawned = thread::Builder::new().name(self.name.to_owned()).spawn(body);
        if spawned.is_err() {
            // `End` was dropped without being given up, so nothing is counted.
            return Err(GivenUp(limit));
        }
        let mut waiting = Waiting { result, hanging: &self.hanging, answered: false };
        match timeout(limit, &mut waiting.result).await {
            Ok(answer) => {
                waiting.answered = true;
                answer.ok().flatten().ok_or(GivenUp(limit))
            }
            Err(_) => Err(GivenUp(limit)),
        }
    }
}

/// The end of the work: sends the result, or `None` after a panic. If the caller has given up, it
/// has counted the thread as hanging; this takes it off the count.
struct End<R> {
    done: Option<oneshot::Sender<Option<R>>>,
    hanging: Arc<AtomicUsize>,
}

impl<R> End<R> {
    fn send(&mut self, result: Option<R>) {
        if self.done.take().is_some_and(|done| done.send(result).is_err()) {
            self.hanging.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl<R> Drop for End<R> {
    fn drop(&mut self) {
        self.send(None);
    }
}

/// The waiting caller. Counts the thread as hanging if it is dropped before the result.
struct Waiting<'a, R> {
    result: oneshot::Receiver<Option<R>>,
    hanging: &'a AtomicUsize,
    answered: bool,
}

impl<R> Drop for Waiting<'_, R> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        // Counted first, so that the thread is counted when it finds the channel closed.
        self.hanging.fetch_add(1, Ordering::AcqRel);
        self.result.close();
        if self.result.try_recv().is_ok() {
            self.hanging.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn what_hangs_is_given_up_and_counted_until_it_ends() {
        let threads = Threads::new("test");
        let mut gates = Vec::new();
        for _ in 0..HANGING {
            let (gate, waits) = mpsc::channel::<()>();
            gates.push(gate);
            assert!(threads.run(SHORT, move || waits.recv().is_ok()).await.is_err());
        }
        assert!(threads.hang());
        assert!(threads.run(LONG, || ()).await.is_err(), "one more thread");
        drop(gates);
        end_of(&threads).await;
        assert_eq!(threads.run(LONG, || 7).await.expect("in time"), 7);
    }

    #[tokio::test]
    async fn work_that_panics_after_it_was_given_up_no_longer_counts() {
        let threads = Threads::new("test");
        let (gate, waits) = mpsc::channel::<()>();
        let work = move || {
            let _ = waits.recv();
            panic!("after it was given up");
        };
        assert!(threads.run(SHORT, work).await.is_err());
        assert!(threads.hang());
        drop(gate);
        end_of(&threads).await;
    }

    async fn end_of(threads: &Threads) {
        let end = tokio::time::Instant::now() + LONG;
        while threads.hang() && tokio::time::Instant::now() < end {
            tokio::time::sleep(SHORT).await;
        }
        assert!(!threads.hang());
    }
}
