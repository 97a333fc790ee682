//! Policy files: from text to a policy that is valid by construction.
//!
//! `file` knows the keys of a policy file, `verify` checks the rules between entries and files, and
//! `model` is the result, with `prefix` for addresses and `nat64` for IPv6 addresses that stand for
//! IPv4 ones.

mod file;
mod verify;
mod model;
mod prefix;
mod nat64;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

pub(crate) use file::{NODE_KEYS, POLICY_KEYS};
pub use model::{
    Action, Downstream, Exemption, Group, Matching, Owner, Policy, RelaySet, Softwire, Summary,
};
pub use prefix::{Prefix, PrefixError};

use crate::document::{Diagnostics, Form, Report, Source};
use crate::files::Limits;
use file::Draft;

impl Policy {
    /// Reads files, and every `*.yaml` of directories, as one policy. Reports all problems, not
    /// only the first.
    pub fn load(paths: &[PathBuf]) -> Result<Self, Diagnostics> {
        Self::load_within(paths, Limits::default())
    }

    /// Like [`Self::load`], with other limits for the size of files.
    pub fn load_within(paths: &[PathBuf], limits: Limits) -> Result<Self, Diagnostics> {
        Self::load_with_sources(paths, limits).map(|(policy, _)| policy)
    }

    /// Like [`Self::load_within`]. Also returns the files as they were read.
    pub fn load_with_sources(
        paths: &[PathBuf],
        limits: Limits,
    ) -> Result<(Self, Vec<Source>), Diagnostics> {
        let mut report = Report::within(limits);
        let mut draft = Draft::default();
        if paths.is_empty() {
            report.error(Path::new("."), "no policy file is given");
        }
        // A directory and one of its files may both be given. Read twice, all its entries would be
        // duplicates.
        let mut seen = HashSet::new();
        for path in paths {
            for file in yaml_files(&mut report, path) {
                if seen.insert(file.canonicalize().unwrap_or_else(|_| file.clone())) {
                    draft.read(&mut report, &file);
                }
            }
        }
        let sources = report.sources().to_vec();
        Ok((Self::verified(report, draft)?, sources))
    }

    /// Builds the policy again from the files that another load has returned.
    pub fn from_sources(sources: &[Source]) -> Result<Self, Diagnostics> {
        let mut report = Report::of(sources.to_vec());
        let mut draft = Draft::default();
        for file in sources.iter().filter(|source| source.form == Form::Yaml) {
            draft.read(&mut report, &file.path);
        }
        Self::verified(report, draft)
    }

    /// Warnings at every place where `sources`, which make a valid policy, name one of `hosts`.
    /// Each host has its message.
    pub fn warn_of_hosts(sources: &[Source], hosts: &BTreeMap<String, String>) -> Diagnostics {
        let mut report = Report::of(sources.to_vec());
        let mut draft = Draft::default();
        for file in sources.iter().filter(|source| source.form == Form::Yaml) {
            draft.read(&mut report, &file.path);
        }
        // Warnings of the reading are known already.
        report.forget_problems();
        for (host, spot) in draft.relays.iter().flat_map(|relay| &relay.hosts) {
            if let Some(message) = hosts.get(host) {
                report.warning(*spot, message);
            }
        }
        report.finish()
    }

    fn verified(mut report: Report, draft: Draft) -> Result<Self, Diagnostics> {
        let mut policy = verify::verify(&mut report, draft, Timestamp::now());
        let failed = report.has_errors();
        let diagnostics = report.finish();
        if failed {
            return Err(diagnostics);
        }
        policy.warnings = diagnostics.list;
        Ok(policy)
    }
}

/// The path itself, or the `*.yaml` files of a directory in the order of their names.
fn yaml_files(report: &mut Report, path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let listing = path.read_dir().and_then(|entries| {
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()
    });
    let mut files = match listing {
        Ok(files) => files,
        Err(error) => {
            report.error(path, format!("cannot be listed: {error}"));
            return Vec::new();
        }
    };
    // Editors leave hidden files beside those that they edit.
    files.retain(|file| {
        !file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
    });
    files.sort();
    for file in
        files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "yml"))
    {
        report.warning(&**file, "is not read: only `*.yaml` files are");
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    if files.is_empty() {
        report.error(path, "no `*.yaml` file in this directory");
    }
    files
}
