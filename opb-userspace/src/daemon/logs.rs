//! Forwards the debug lines of the kernel programs to the log.

use std::io;

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc::UnboundedReceiver,
};
use tracing::warn;

use crate::kernel::Logs;

/// Forwards the lines of each of `logs`, until the channel closes.
pub(super) async fn forward_all(mut logs: UnboundedReceiver<Logs>) {
    while let Some(log) = logs.recv().await {
        tokio::spawn(async {
            if let Err(error) = forward(log).await {
                warn!("debug lines of a program are lost: {error}");
            }
        });
    }
}

async fn forward(log: Logs) -> io::Result<()> {
    // SAFETY: the logger owns the descriptor of its ring buffer, and never replaces it.
    let mut log = unsafe { AsyncFd::register_with_interest(log, Interest::READABLE)? };
    loop {
        let mut ready = log.readable_mut().await?;
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}
