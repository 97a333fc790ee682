//! Limits of file descriptors. This process holds one for each pinned link; the processes that it
//! starts get the limit that it had itself.

use std::sync::LazyLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Linux's soft limit, in case a seccomp filter keeps ours a secret. Then it cannot be raised either.
const USUAL: (rlim_t, rlim_t) = (1024, 0);

/// The soft and hard limit that this process had when it started.
static AT_START: LazyLock<(rlim_t, rlim_t)> =
    LazyLock::new(|| getrlimit(Resource::RLIMIT_NOFILE).unwrap_or(USUAL));

/// The soft limit that this process had when it started.
pub fn descriptors_at_start() -> rlim_t {
    AT_START.0
}

/// Raises this process's soft limit to its hard limit.
pub(super) fn raise_limit() {
    let (_, hard) = *AT_START;
    if hard > 0 {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
