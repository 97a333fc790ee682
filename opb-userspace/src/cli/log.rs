//! Log lines on stderr, written by a thread of their own, so that a blocked stderr does not block
//! the daemon. Control characters in them are escaped.

use std::{
    io::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use opb_userspace::text;
use tracing_subscriber::fmt::MakeWriter;

/// Capacity of the queue, in lines. Further lines are dropped; a later line gives their number.
const WAITING: usize = 8192;
/// Maximum time to write the last lines at exit.
const PATIENCE: Duration = Duration::from_millis(200);

/// The writer for `tracing`.
#[derive(Clone)]
pub(super) struct Lines {
    queue: SyncSender<String>,
    lost: Arc<AtomicU64>,
}

/// Waits up to [`PATIENCE`] for the last lines when dropped.
pub(super) struct Guard(SyncSender<String>, Receiver<()>);

/// One line, queued when dropped.
pub(super) struct Line<'a> {
    lines: &'a Lines,
    bytes: Vec<u8>,
}

pub(super) fn start() -> io::Result<(Lines, Guard)> {
    let (queue, waiting) = sync_channel(WAITING);
    let (done, end) = sync_channel(1);
    let lost = Arc::new(AtomicU64::new(0));
    let lines = Lines { queue: queue.clone(), lost: Arc::clone(&lost) };
    thread::Builder::new().name("log".to_owned()).spawn(move || {
        write_all(&waiting, &lost);
        let _ = done.send(());
    })?;
    Ok((lines, Guard(queue, end)))
}

/// Writes lines until an empty one, which ends the log.
fn write_all(waiting: &Receiver<String>, lost: &AtomicU64) {
    while let Ok(line) = waiting.recv() {
        if line.is_empty() {
            break;
        }
        let mut stderr = io::stderr().lock();
        // There is nowhere to report an error of stderr.
        let _ = stderr.write_all(line.as_bytes());
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(stderr, "dropped {lost} log lines: stderr was blocked");
        }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: self, bytes: Vec::new() }
    }
}

impl io::Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        let line = text::lines(&String::from_utf8_lossy(&self.bytes)).into_owned();
        if self.lines.queue.try_send(line).is_err() {
            self.lines.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A full queue means a blocked stderr: do not wait.
        if self.0.try_send(String::new()).is_ok() {
            let _: Result<(), RecvTimeoutError> = self.1.recv_timeout(PATIENCE);
        }
    }
}
