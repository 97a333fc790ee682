//! The content of files, compressed, under its SHA-256. Commits that share a file share its
//! content.

use std::{
    collections::HashSet,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::{Error, is_ours};
use crate::{
    api::commits::{Commit, CommitFile},
    document::Source,
    files,
    private::{self, Access},
};

/// zstd's default.
const LEVEL: i32 = 3;

/// Writes and reads content. It needs no other state than the directory, so that another thread can
/// do it.
#[derive(Clone, Debug)]
pub struct Keeper(PathBuf);

/// The files of a policy as they were read.
#[derive(Debug)]
pub struct Snapshot {
    /// The node file comes first.
    sources: Vec<Source>,
    /// Their descriptions, in the same order.
    files: Vec<CommitFile>,
}

impl Snapshot {
    pub fn new(node: Source, policy: Vec<Source>) -> Self {
        let sources: Vec<_> = [node].into_iter().chain(policy).collect();
        let files = sources.iter().map(describe).collect();
        Self { sources, files }
    }

    pub fn node(&self) -> &Source {
        &self.sources[0]
    }

    pub fn policy(&self) -> &[Source] {
        &self.sources[1..]
    }

    pub fn files(&self) -> &[CommitFile] {
        &self.files
    }

    /// Whether `commit` has the same files with the same content.
    pub fn is_of(&self, commit: &Commit) -> bool {
        self.files == commit.files
    }
}

impl Keeper {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// Writes what is not there yet, or is damaged. Content that no commit has is removed after the
    /// next commit.
    pub fn keep(&self, snapshot: &Snapshot) -> Result<(), Error> {
        private::directory(&self.0, Access::default(), is_ours)?;
        for (file, source) in snapshot.files.iter().zip(&snapshot.sources) {
            let path = self.0.join(&file.sha256);
            if is_kept(&path, file).unwrap_or_default() {
                continue;
            }
            zstd::encode_all(source.text.as_bytes(), LEVEL)
                .and_then(|bytes| private::replace(&path, &bytes))
                .map_err(|source| Error::Write { path, source })?;
        }
        Ok(())
    }

    /// The files of a commit.
    pub fn read(&self, commit: &Commit) -> Result<Snapshot, Error> {
        let sources = commit.files.iter().map(|file| self.read_file(file));
        let sources = sources.collect::<Result<Vec<_>, _>>()?;
        if sources.is_empty() {
            return Err(Error::Damaged { path: self.0.join(super::LIST) });
        }
        Ok(Snapshot { sources, files: commit.files.clone() })
    }

    /// One file of a commit.
    pub fn read_file(&self, file: &CommitFile) -> Result<Source, Error> {
        let path = self.0.join(&file.sha256);
        let text = decompress(&path, file.bytes)
            .map_err(|source| Error::Read { path: path.clone(), source })?;
        if sha256(&text) != file.sha256 {
            return Err(Error::Damaged { path });
        }
        Ok(Source { path: file.path.clone(), text, form: file.form })
    }

    /// Removes content that is not in `files`.
    pub(super) fn remove_others<'a>(&self, files: impl Iterator<Item = &'a CommitFile>) {
        let wanted: HashSet<_> = files.map(|file| file.sha256.as_str()).collect();
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) => return warn!("{} cannot be listed: {error}", self.0.display()),
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let is_content = is_ours(name) && name.len() == 64;
            if is_content
                && !wanted.contains(name)
                && let Err(error) = fs::remove_file(entry.path())
            {
                warn!("{} cannot be removed: {error}", entry.path().display());
            }
        }
    }
}

fn describe(source: &Source) -> CommitFile {
    CommitFile {
        path: source.path.clone(),
        form: source.form,
        bytes: source.text.len() as u64,
        sha256: sha256(&source.text),
    }
}

/// Whether the file at `path` has that content.
fn is_kept(path: &Path, file: &CommitFile) -> io::Result<bool> {
    let mut content = open(path)?.take(file.bytes.saturating_add(1));
    let (mut hash, mut part) = (Sha256::new(), vec![0; 64 << 10]);
    loop {
        match content.read(&mut part)? {
            0 => return Ok(format!("{:x}", hash.finalize()) == file.sha256),
            length => hash.update(&part[..length]),
        }
    }
}

fn sha256(text: &str) -> String {
    format!("{:x}", Sha256::digest(text.as_bytes()))
}

/// Reads at most `length` bytes: a damaged file may stand for more than there is memory.
fn decompress(path: &Path, length: u64) -> io::Result<Arc<str>> {
    let mut text = String::new();
    open(path)?.take(length.saturating_add(1)).read_to_string(&mut text)?;
    Ok(text.into())
}

fn open(path: &Path) -> io::Result<impl io::Read> {
    zstd::Decoder::new(files::open(path).map_err(io::Error::other)?)
}
