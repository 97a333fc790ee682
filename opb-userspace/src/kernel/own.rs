//! Directories that are ours alone, in a file system in which every user may make some.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{
    Error,
    hook::Hook,
    links::LinkName,
    sys::{self, PinnedKind},
};
use crate::private::{self, Access};

/// Makes a directory that is ours alone. Replaces what another user has put there, even repeatedly.
pub(super) fn own(path: &Path, is_ours: impl Fn(&str) -> bool) -> Result<(), Error> {
    const ATTEMPTS: usize = 10_000;
    const LOGGED: usize = 8;
    let mut attempts = 0;
    loop {
        let evicted = evict(path)?;
        attempts += 1;
        // At once: whoever was evicted may try to be first again.
        let made = private::directory(path, Access::default(), &is_ours);
        if let Some(Evicted { stranger, aside }) = evicted {
            if attempts <= LOGGED {
                tracing::warn!("{stranger}: it is {} now", aside.display());
            }
            // Succeeds only if it is an empty directory or a link.
            drop(fs::remove_dir(&aside).or_else(|_| fs::remove_file(&aside)));
        }
        match made {
            Err(error) if attempts < ATTEMPTS && is_of_a_moment(&error) => {}
            result => return Ok(result?),
        }
    }
}

/// Whether another user's file was in the way for a moment and may be gone by now.
fn is_of_a_moment(error: &private::Error) -> bool {
    match error {
        private::Error::Owner { .. } => true,
        private::Error::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        private::Error::Writable { .. } => false,
    }
}

/// What another user made where our directory belongs, and its new place.
struct Evicted {
    stranger: private::Error,
    aside: PathBuf,
}

/// Renames what another user made where our directory belongs: it may be too deep to examine or to
/// remove. If a filter is pinned in it, a daemon ran as that user: then this is an error.
fn evict(path: &Path) -> Result<Option<Evicted>, Error> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) if !private::is_trusted(&found) => found,
        _ => return Ok(None),
    };
    let has_pins = match found.is_dir() {
        true => has_pins(path, LEVELS).map_err(Error::path("list", path))?,
        false => false,
    };
    if has_pins {
        return Err(private::foreign(path, &found).into());
    }
    // bpffs allows no dots in names.
    let now = Timestamp::now().as_nanosecond();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!("{name}-not-ours-{now}"));
    match fs::rename(path, &aside) {
        Ok(()) => Ok(Some(Evicted { stranger: private::foreign(path, &found), aside })),
        // Its owner removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::path("rename", path)(error)),
    }
}

/// Levels of directories in which there may be pins, with the first one.
const LEVELS: usize = 3;

/// Whether a filter is pinned below `path` where a daemon would pin it: a link, or the program of a
/// filter on clsact. Any user can pin maps, but neither of these.
fn has_pins(path: &Path, levels: usize) -> io::Result<bool> {
    let gone = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    };
    let entries = match fs::read_dir(path) {
        Err(error) if gone(&error) => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let kind = match entry.file_type() {
            Err(error) if gone(&error) => continue,
            kind => kind?,
        };
        if kind.is_file() && is_filter(&entry.path())
            || kind.is_dir() && levels > 1 && has_pins(&entry.path(), levels - 1)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a link of ours, or the program of a filter of ours, is pinned at `path`.
fn is_filter(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| LinkName::parse(name.to_str()?)) else {
        return false;
    };
    let Ok(kind) = sys::pinned_kind(path) else { return false };
    match name.hook {
        Hook::Clsact => kind == PinnedKind::TcProgram,
        _ => kind == PinnedKind::Link,
    }
}
