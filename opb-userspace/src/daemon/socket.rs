//! The control socket as a file: its permissions, and a lock against a second daemon.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt, chown},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::{Gid, Group, Uid, getegid, getgroups};
use tokio::net::UnixListener;
use tracing::warn;

use super::threads::Threads;
use crate::private::{self, Access};

const GROUP: &str = "opb";

/// Why the control socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("another daemon answers at {}", path.display())]
    InUse { path: PathBuf },
    #[error("{} exists and is not a socket", path.display())]
    NotASocket { path: PathBuf },
    #[error(transparent)]
    Private(#[from] private::Error),
    #[error("the control socket {} cannot be made", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The bound socket. Dropping it removes the file.
pub(super) struct Socket {
    path: PathBuf,
    /// Held as long as the socket is ours. Without it, of two daemons that find a stale socket, one
    /// would remove the socket of the other.
    _lock: File,
}

/// The group whose members may use the control socket, if there is one. If the lookup hangs (LDAP),
/// only root may use the socket.
pub(super) async fn group() -> Option<Gid> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let found = Threads::new("groups").run(PATIENCE, || Group::from_name(GROUP)).await;
    match found.map_err(|error| error.to_string()) {
        Ok(Ok(Some(group))) if !may_give_to(group.gid) => {
            without_group("the daemon's user is not a member")
        }
        Ok(Ok(group)) => group.map(|group| group.gid),
        Ok(Err(error)) => without_group(&format!("it cannot be looked up: {error}")),
        Err(error) => without_group(&format!("it cannot be looked up: {error}")),
    }
}

/// Whether this process may give its files to that group (chown(2)).
fn may_give_to(group: Gid) -> bool {
    let is_member = || getgroups().is_ok_and(|groups| groups.contains(&group));
    Uid::effective().is_root() || getegid() == group || is_member()
}

fn without_group(why: &str) -> Option<Gid> {
    warn!(
        "group {GROUP} cannot use the control socket: {why}; until a restart, only root and the \
         daemon's user can use it"
    );
    None
}

impl Socket {
    /// Binds the socket at `path`, for root and the members of `group`.
    pub(super) fn bind(path: &Path, group: Option<Gid>) -> Result<(Self, UnixListener), Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            private::directory(directory, Access { group }, |found| found.starts_with(name))?;
        }
        // If others could open the file, they could lock it.
        let lock = private::file(&with_suffix(path, ".lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(Error::NotASocket { path: path.to_owned() });
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(Error::InUse { path: path.to_owned() });
            }
            _ => {}
        }
        let listener = listen(path, group).map_err(io)?;
        Ok((Self { path: path.to_owned(), _lock: lock }, listener))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // If this fails, the next daemon replaces the file.
        drop(fs::remove_file(&self.path));
    }
}

/// Binds under a temporary name, sets the permissions, then renames it to `path`.
fn listen(path: &Path, group: Option<Gid>) -> io::Result<UnixListener> {
    let draft = with_suffix(path, ".new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&draft)?;
    if let Some(group) = group {
        chown(&draft, None, Some(group.as_raw()))?;
    }
    fs::set_permissions(&draft, Permissions::from_mode(0o660))?;
    fs::rename(&draft, path)?;
    Ok(listener)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_daemon_at_a_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("run/opb.sock");
        let (first, listener) = Socket::bind(&path, None).expect("nobody else");
        let mode = fs::metadata(&path).expect("it exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        assert!(matches!(Socket::bind(&path, None), Err(Error::InUse { .. })));
        drop((first, listener));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_a_crash_left_behind_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("opb.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
        let bound = Socket::bind(&path, None).expect("stale sockets do not count");
        drop(bound);

        fs::write(&path, "precious").expect("writes");
        assert!(matches!(Socket::bind(&path, None), Err(Error::NotASocket { .. })));
        assert_eq!(fs::read(&path).expect("reads"), b"precious");
    }

    #[tokio::test]
    async fn a_listener_without_our_lock_is_respected() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("opb.sock");
        let _other = std::os::unix::net::UnixListener::bind(&path).expect("binds");
        assert!(matches!(Socket::bind(&path, None), Err(Error::InUse { .. })));
    }
}
