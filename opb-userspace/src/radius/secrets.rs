//! Secrets that are shared with clients.

use std::{fmt, os::unix::fs::MetadataExt as _, path::Path, path::PathBuf};

use crate::files;

/// The most bytes of a file of secrets, and the most secrets in it.
const LARGEST: u64 = 4096;
const MOST: usize = 2;

/// The secrets of a client: one, or two while the secret changes. A request may use either.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets(Vec<Vec<u8>>);

/// Without the secrets.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} {source}", path.display())]
    File { path: PathBuf, source: files::Error },
    #[error("{} can be read by other users: change its mode to 0600 or 0640", path.display())]
    Open { path: PathBuf },
    #[error("{} has {count} secrets: expected one, or two while it changes, one a line", path.display())]
    Count { path: PathBuf, count: usize },
}

impl Secrets {
    /// Reads a file with one secret a line. Spaces at both ends of a line, empty lines, and those
    /// that start with `#` do not count.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::File { path: path.into(), source };
        let file = files::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(|error| failed(error.into()))?.mode();
        if mode & 0o007 != 0 {
            return Err(Error::Open { path: path.into() });
        }
        let bytes = files::read_all(file, LARGEST).map_err(failed)?;
        let lines = bytes.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
        let secrets: Vec<_> =
            lines.filter(|line| !line.is_empty() && line[0] != b'#').map(<[u8]>::to_vec).collect();
        if secrets.is_empty() || secrets.len() > MOST {
            return Err(Error::Count { path: path.into(), count: secrets.len() });
        }
        Ok(Self(secrets))
    }

    /// The secret that `is_used` says is the right one.
    pub fn find(&self, is_used: impl Fn(&[u8]) -> bool) -> Option<&[u8]> {
        self.0.iter().map(Vec::as_slice).find(|secret| is_used(secret))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_file_has_one_secret_or_two_and_is_closed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        let read = |text: &str, mode| {
            fs::write(&path, text).expect("writes");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
            Secrets::read(&path)
        };
        let two = read("# since May\n one \n\ntwo\n", 0o640).expect("two secrets");
        assert_eq!(two.find(|secret| secret == b"two"), Some(&b"two"[..]));
        assert_eq!((two.find(|_| false), format!("{two:?}")), (None, "2 secrets".to_owned()));
        assert!(matches!(read("one", 0o644), Err(Error::Open { .. })));
        assert!(matches!(read("one", 0o602), Err(Error::Open { .. })));
        for (text, count) in [("", 0), ("# one\n", 0), ("1\n2\n3\n", 3)] {
            assert!(
                matches!(read(text, 0o600), Err(Error::Count { count: found, .. }) if found == count)
            );
        }
        assert!(Secrets::read(&directory.path().join("none")).is_err());
    }
}
