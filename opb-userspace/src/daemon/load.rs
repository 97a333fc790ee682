//! Reads the node file's policy, and keeps what a reload needs of it.

use std::{path::Path, sync::Arc, time::SystemTime};

use jiff::Timestamp;

use super::{files::Watch, threads::GivenUp};
use crate::{
    document::Diagnostics,
    node::{Config, PolicySource},
    policy::Policy,
};

/// The content of the files.
pub(super) struct Loaded {
    pub(super) config: Config,
    pub(super) files: Arc<Policy>,
    /// The digest of the policy, computed here because it takes long.
    pub(super) digest: [u8; 16],
    pub(super) watch: Watch,
}

/// Reading the files timed out.
#[derive(Debug, thiserror::Error)]
#[error("the files cannot be read (does their file system hang?)")]
pub struct Hang(#[from] GivenUp);

/// Reads the policy that `config` names. `started` is the time before the node file at `path` was
/// read.
pub(super) fn load(
    path: &Path,
    started: SystemTime,
    config: Config,
) -> Result<Loaded, Diagnostics> {
    let PolicySource::Path(policy) = &config.policy;
    let files = Policy::load_within(std::slice::from_ref(policy), config.limits)?;
    let mut paths = vec![path.to_owned(), policy.clone()];
    paths.extend(files.files.iter().cloned());
    let digest = files.digest_at(Timestamp::now());
    Ok(Loaded { watch: Watch::new(paths, started), config, files: Arc::new(files), digest })
}
