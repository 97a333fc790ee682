//! Files and directories that only the daemon's user may use. A user who can open a file can lock
//! it, and one who can write to a directory can create its files first. Either could keep the
//! daemon from starting.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown,
    },
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid, User};
use tracing::warn;

/// Mode bits: all rights of group and others, their right to write, and the sticky bit.
const OTHERS: u32 = 0o077;
const WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Why a file or directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{} belongs to {owner}, and the daemon runs as {us}: change its owner, or use another path",
        path.display()
    )]
    Owner { path: PathBuf, owner: String, us: String },
    #[error("other users may write to {}: change its mode, or use another path", path.display())]
    Writable { path: PathBuf },
    #[error("cannot use {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The access to a directory besides its owner's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Access {
    /// The group that may list the directory and open its files.
    pub group: Option<Gid>,
}

impl Access {
    fn mode(self) -> u32 {
        if self.group.is_some() { 0o750 } else { 0o700 }
    }
}

/// Creates a directory that is closed to other users, or closes an existing one if it is ours: if
/// every name in it passes `is_ours`. Any other directory stays as it is, and is refused if other
/// users can write to it.
pub fn directory(path: &Path, access: Access, is_ours: impl Fn(&str) -> bool) -> Result<(), Error> {
    let failed = |source| Error::Io { path: path.into(), source };
    match examine(path) {
        Ok(found) => return check(path, &found, access, is_ours),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => close(path, access).map_err(failed),
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            check(path, &examine(path)?, access, is_ours)
        }
        Err(error) => Err(failed(error)),
    }
}

/// The metadata of `path`. Follows a link only if a trusted user owns it: otherwise, another user
/// could have us close any directory of ours.
fn examine(path: &Path) -> Result<Metadata, Error> {
    let failed = |source| Error::Io { path: path.into(), source };
    let found = fs::symlink_metadata(path).map_err(failed)?;
    match found.is_symlink() {
        false => Ok(found),
        true if is_trusted(&found) => fs::metadata(path).map_err(failed),
        true => Err(foreign(path, &found)),
    }
}

/// Opens or creates a file for reading and writing that other users can neither read nor lock.
pub fn file(path: &Path) -> Result<File, Error> {
    let failed = |source| Error::Io { path: path.into(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    // Opening a pipe must not block.
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    if found.uid() != Uid::effective().as_raw() {
        return Err(foreign(path, &found));
    }
    if found.mode() & OTHERS != 0 {
        file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
    }
    Ok(file)
}

/// Replaces a file as a whole: after a crash, it has the content before or `bytes`.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    let written = file(&draft).map_err(io::Error::other).and_then(|mut file| {
        file.set_len(0)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    });
    // A draft would take room that the next attempt needs.
    written.inspect_err(|_| drop(fs::remove_file(&draft)))
}

/// The kernel's name for this boot of the machine (Documentation/admin-guide/sysctl/kernel.rst,
/// `random`).
pub fn boot() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot.trim().to_owned()
}

/// Whether the owner is root or the daemon's user.
pub fn is_trusted(found: &Metadata) -> bool {
    [0, Uid::effective().as_raw()].contains(&found.uid())
}

pub fn foreign(path: &Path, found: &Metadata) -> Error {
    Error::Owner {
        path: path.into(),
        owner: user(found.uid()),
        us: user(Uid::effective().as_raw()),
    }
}

fn check(
    path: &Path,
    found: &Metadata,
    access: Access,
    is_ours: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    let failed = |source| Error::Io { path: path.into(), source };
    if !found.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()));
    }
    if !is_trusted(found) {
        return Err(foreign(path, found));
    }
    if found.mode() & OTHERS & !access.mode() == 0 {
        return Ok(());
    }
    let is_mine = found.uid() == Uid::effective().as_raw() && found.mode() & STICKY == 0;
    if is_mine && has_only(path, is_ours).map_err(failed)? {
        warn!("{} was open to other users: it is closed now", path.display());
        return close(path, access).map_err(failed);
    }
    if found.mode() & WRITE != 0 {
        return Err(Error::Writable { path: path.into() });
    }
    Ok(())
}

fn has_only(path: &Path, is_ours: impl Fn(&str) -> bool) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        if !entry?.file_name().to_str().is_some_and(&is_ours) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn close(path: &Path, access: Access) -> io::Result<()> {
    if let Some(group) = access.group {
        chown(path, None, Some(group.as_raw()))?;
    }
    fs::set_permissions(path, Permissions::from_mode(access.mode()))
}

fn user(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("user {uid} ({})", user.name),
        _ => format!("user {uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it exists").mode() & 0o7777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("ours");
    }

    #[test]
    fn our_directory_is_closed_and_a_shared_one_is_left_alone() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("a/state");
        let is_ours = |name: &str| name.starts_with("entries.");
        let directory = || directory(&path, Access::default(), is_ours);
        directory().expect("made");
        assert_eq!(mode(&path), 0o700);
        set(&path, 0o755);
        fs::write(path.join("entries.redb"), "").expect("writes");
        directory().expect("closed");
        assert_eq!(mode(&path), 0o700);

        fs::write(path.join("somebody's"), "").expect("writes");
        set(&path, 0o755);
        directory().expect("nobody else can write to it");
        assert_eq!(mode(&path), 0o755, "others may need it");
        for open in [0o775, 0o757, 0o1777] {
            set(&path, open);
            assert!(matches!(directory(), Err(Error::Writable { .. })), "{open:o}");
            assert_eq!(mode(&path), open);
        }
    }

    #[test]
    #[ignore = "root: cargo xtask test --lane kernel"]
    fn a_link_of_another_user_is_refused() {
        let place = tempfile::tempdir().expect("a directory");
        let [target, link] = ["target", "link"].map(|name| place.path().join(name));
        fs::create_dir(&target).expect("makes");
        set(&target, 0o755);
        std::os::unix::fs::symlink(&target, &link).expect("links");
        std::os::unix::fs::lchown(&link, Some(65534), Some(65534)).expect("gives away");
        let found = directory(&link, Access::default(), |_| true);
        assert!(matches!(found, Err(Error::Owner { .. })), "{found:?}");
        assert_eq!(mode(&target), 0o755, "nobody can have it closed");
        std::os::unix::fs::lchown(&link, Some(0), Some(0)).expect("takes back");
        directory(&link, Access::default(), |_| true).expect("ours");
        assert_eq!(mode(&target), 0o700);
    }

    #[test]
    fn files_are_closed_and_only_files_are_opened() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("file");
        fs::write(&path, "kept").expect("writes");
        set(&path, 0o644);
        file(&path).expect("opens");
        assert_eq!((mode(&path), fs::read(&path).expect("reads")), (0o600, b"kept".to_vec()));
        let link = place.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("links");
        assert!(matches!(file(&link), Err(Error::Io { .. })), "a link");
        let pipe = place.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("makes");
        assert!(matches!(file(&pipe), Err(Error::Io { .. })), "a pipe");
    }
}
