//! Limits of file descriptors. This process holds one for each pinned link; the processes that it
//! starts get the limits that it had itself.

use std::{io, sync::LazyLock};

use nix::{
    errno::Errno,
    libc,
    sys::resource::{Resource, getrlimit, rlim_t, setrlimit},
    unistd::Pid,
};

/// The soft and hard limit that this process had when it started.
pub fn descriptors_at_start() -> (rlim_t, rlim_t) {
    static LIMITS: LazyLock<(rlim_t, rlim_t)> =
        LazyLock::new(|| getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default());
    *LIMITS
}

/// Raises this process's soft limit to its hard limit.
pub(super) fn raise_limit() {
    let (_, hard) = descriptors_at_start();
    if hard > 0 {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Sets the limits of a process that this one has started.
pub fn limit_descriptors(pid: Pid, (soft, hard): (rlim_t, rlim_t)) -> io::Result<()> {
    let limits = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: reads one structure, and writes none.
    let result = unsafe {
        libc::prlimit(pid.as_raw(), libc::RLIMIT_NOFILE, &raw const limits, std::ptr::null_mut())
    };
    match Errno::result(result) {
        // The process has ended already.
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
