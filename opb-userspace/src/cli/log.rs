//! Log lines on stderr, written by a thread of their own: whoever has stopped reading them stops nothing. What others wrote is
//! in them, too, so nothing in them steers a terminal.

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

/// Lines that may wait. Others are lost, and that is said when there is room again.
const WAITING: usize = 8192;
/// How long the last lines may take at the end.
const PATIENCE: Duration = Duration::from_millis(200);

/// Where `tracing` writes to.
#[derive(Clone)]
pub(super) struct Lines {
    queue: SyncSender<String>,
    lost: Arc<AtomicU64>,
}

/// Waits a moment for the last lines when it is dropped.
pub(super) struct Guard(SyncSender<String>, Receiver<()>);

/// One line.
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

/// An empty line is the last.
fn write_all(waiting: &Receiver<String>, lost: &AtomicU64) {
    while let Ok(line) = waiting.recv() {
        if line.is_empty() {
            break;
        }
        let mut stderr = io::stderr().lock();
        // Nobody there to be told.
        let _ = stderr.write_all(line.as_bytes());
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(stderr, "{lost} log lines are lost: nobody read them in time");
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
        // No room: nobody reads anyway.
        if self.0.try_send(String::new()).is_ok() {
            let _: Result<(), RecvTimeoutError> = self.1.recv_timeout(PATIENCE);
        }
    }
}
