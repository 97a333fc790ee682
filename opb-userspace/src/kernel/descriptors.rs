//! Limits of file descriptors. This process holds one for each pinned link; the processes that it
//! starts get the limits that it had itself.

use std::sync::LazyLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use tokio::process::Command;

/// The soft and hard limit that this process had when it started.
fn limits_at_start() -> (rlim_t, rlim_t) {
    static LIMITS: LazyLock<(rlim_t, rlim_t)> =
        LazyLock::new(|| getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default());
    *LIMITS
}

/// Raises this process's soft limit to its hard limit.
pub(super) fn raise_limit() {
    let (_, hard) = limits_at_start();
    if hard > 0 {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Gives a process that is to be started the limits that this one had when it started, before it
/// runs.
pub fn limit_descriptors(command: &mut Command) {
    let (soft, hard) = limits_at_start();
    let limit = move || Ok(setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?);
    // SAFETY: between fork and exec, it calls setrlimit(2) only, and allocates nothing.
    unsafe { command.pre_exec(limit) };
}
