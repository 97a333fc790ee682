//! Debug lines of the kernel programs, on their way into the log.

use std::io;

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc::UnboundedReceiver,
};
use tracing::warn;

use crate::kernel::Logs;

/// Forwards what comes out of each of `logs`, as long as more of them can come.
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
    // SAFETY: the logger owns the file descriptor of its ring buffer, and always names that one.
    let mut log = unsafe { AsyncFd::register_with_interest(log, Interest::READABLE)? };
    loop {
        let mut ready = log.readable_mut().await?;
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}
