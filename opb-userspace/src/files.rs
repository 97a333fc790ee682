//! Reads files that other users may have created: only regular ones, never waiting for another
//! process, and only up to a limit.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

/// The most bytes of a node file, which sets the limits of all other files.
pub const NODE_FILE: u64 = MB;

const MB: u64 = 1_000_000;

/// The most bytes of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For a policy file.
    pub policy: u64,
    /// For a list that a `prefixes-file` names.
    pub prefixes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { policy: 64 * MB, prefixes: 1000 * MB }
    }
}

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("is {0}, not a file")]
    NotAFile(&'static str),
    #[error("is larger than {} bytes, the limit", .limit)]
    TooLarge { limit: u64 },
    #[error("no such file or directory")]
    Missing,
    #[error("permission denied")]
    Denied,
    /// Paths are kept and shown as JSON, which is text.
    #[error("has a path that is not UTF-8: rename it")]
    Path,
    #[error("cannot be read: {0}")]
    Io(io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::PermissionDenied => Self::Denied,
            io::ErrorKind::IsADirectory => Self::NotAFile("a directory"),
            _ => Self::Io(error),
        }
    }
}

/// Opens a regular file to read.
pub fn open(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// Reads a regular file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    read_all(open(path)?, limit)
}

/// Reads the rest of a file that [`open`] has opened, of at most `limit` bytes.
pub fn read_all(file: File, limit: u64) -> Result<Vec<u8>, Error> {
    let found = file.metadata()?;
    if found.len() > limit {
        return Err(Error::TooLarge { limit });
    }
    // The file may grow meanwhile, and files in /proc report the length 0.
    let mut bytes = Vec::with_capacity(usize::try_from(found.len()).unwrap_or_default() + 1);
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge { limit });
    }
    Ok(bytes)
}

/// Opens a regular file for appending, and creates it if necessary.
pub fn append(path: &Path, mode: u32) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(mode);
    let file = match options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path) {
        // A FIFO that nobody reads.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            return Err(Error::NotAFile("a FIFO or a device"));
        }
        opened => opened?,
    };
    regular(&file.metadata()?)?;
    Ok(file)
}

fn regular(found: &Metadata) -> Result<(), Error> {
    let kind = found.file_type();
    Err(Error::NotAFile(match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }))
}

/// A number of bytes as people write it: `500kB`, `64MB`, `1GB`.
pub fn size(text: &str) -> Option<u64> {
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let unit = match unit.trim_start() {
        "B" => 1,
        "kB" => 1000,
        "MB" => MB,
        "GB" => 1000 * MB,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit).filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn only_so_much_of_a_regular_file_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::write(path("file"), "four").expect("writes");
        assert_eq!(read(&path("file"), 4).expect("fits"), b"four");
        assert!(matches!(read(&path("file"), 3), Err(Error::TooLarge { limit: 3 })));
        // Says that its length is 0.
        assert!(!read(Path::new("/proc/self/stat"), 10_000).expect("fits").is_empty());
        assert!(matches!(read(Path::new("/proc/self/stat"), 3), Err(Error::TooLarge { .. })));
        mkfifo(&path("fifo"), Mode::S_IRWXU).expect("a FIFO");
        assert!(matches!(read(&path("fifo"), 4), Err(Error::NotAFile("a FIFO"))));
        assert!(matches!(append(&path("fifo"), 0o600), Err(Error::NotAFile(_))));
        assert!(matches!(read(directory.path(), 4), Err(Error::NotAFile("a directory"))));
        assert!(matches!(read(Path::new("/dev/zero"), 4), Err(Error::NotAFile("a device"))));
        assert!(matches!(read(&path("none"), 4), Err(Error::Missing)));
    }

    #[test]
    fn sizes_have_units() {
        let sizes = ["64MB", "1 GB", "500kB", "7B"].map(size);
        assert_eq!(sizes, [Some(64_000_000), Some(1_000_000_000), Some(500_000), Some(7)]);
        for wrong in ["", "64", "MB", "0MB", "1.5MB", "-1MB", "64mb", "99999999999999999999GB"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }
}
