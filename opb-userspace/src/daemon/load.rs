//! Reads the node file's policy, and keeps what a reload needs of it.

use std::{sync::Arc, time::SystemTime};

use jiff::Timestamp;

use super::{files::Watch, threads::GivenUp};
use crate::{
    api::status::FilesState,
    commits::{self, Keeper, Snapshot},
    document::{Diagnostics, Source},
    node::{Config, PolicySource},
    policy::Policy,
};

/// A policy with its settings, from files or from a commit.
pub(super) struct Loaded {
    pub(super) config: Config,
    pub(super) files: Arc<Policy>,
    /// The digest of the policy, computed here because it takes long.
    pub(super) digest: [u8; 16],
    /// The files that it was read from. `None` if it comes from a commit.
    pub(super) watch: Option<Watch>,
    pub(super) snapshot: Arc<Snapshot>,
    /// Why the disk does not have the snapshot, if it was to be kept there.
    pub(super) refused: Option<commits::Error>,
    /// The commit that this is a copy of.
    pub(super) repeats: Option<u64>,
}

/// Reading the files timed out.
#[derive(Debug, thiserror::Error)]
#[error("the files cannot be read (does their file system hang?)")]
pub struct Hang(#[from] GivenUp);

/// Reads the policy that `config` names, which was read from `node`. `started` is the time before
/// that.
pub(super) fn load(
    started: SystemTime,
    (config, node): (Config, Source),
) -> Result<Loaded, Diagnostics> {
    let PolicySource::Path(policy) = &config.policy;
    let paths = std::slice::from_ref(policy);
    let (files, sources) = Policy::load_with_sources(paths, config.limits)?;
    let snapshot = Arc::new(Snapshot::new(node, sources));
    let mut paths = vec![snapshot.node().path.clone(), policy.clone()];
    paths.extend(snapshot.policy().iter().map(|source| source.path.clone()));
    let watch = Watch::new(paths, started);
    Ok(loaded(config, files, Some(watch), snapshot))
}

/// Builds a policy again from what was kept of it. The settings that only a start can change are
/// those of `running`.
pub(super) fn load_again(snapshot: Arc<Snapshot>, running: &Config) -> Result<Loaded, Diagnostics> {
    let config = Config::from_source(snapshot.node().clone())?.with_start_only_of(running);
    let files = Policy::from_sources(snapshot.policy())?;
    Ok(loaded(config, files, None, snapshot))
}

fn loaded(config: Config, files: Policy, watch: Option<Watch>, snapshot: Arc<Snapshot>) -> Loaded {
    let digest = files.digest_at(Timestamp::now());
    let files = Arc::new(files);
    Loaded { config, files, digest, watch, snapshot, refused: None, repeats: None }
}

impl Loaded {
    /// The same, for another purpose.
    pub(super) fn again(&self) -> Self {
        let Self { config, files, digest, snapshot, .. } = self;
        Self {
            config: config.clone(),
            files: Arc::clone(files),
            digest: *digest,
            watch: None,
            snapshot: Arc::clone(snapshot),
            refused: None,
            repeats: None,
        }
    }

    /// These files, compared with a policy of that digest and its settings.
    pub(super) fn compared_with(&self, digest: [u8; 16], config: &Config) -> FilesState {
        let is_same = self.digest == digest && self.config == *config;
        if is_same { FilesState::Same } else { FilesState::Differ }
    }

    /// Keeps the snapshot on the disk.
    pub(super) fn keep(&mut self, keeper: &Keeper) {
        self.refused = keeper.keep(&self.snapshot).err();
    }

    /// The snapshot and the error, if the disk does not have it.
    pub(super) fn refused(&mut self) -> Option<(Arc<Snapshot>, commits::Error)> {
        self.refused.take().map(|error| (Arc::clone(&self.snapshot), error))
    }
}
