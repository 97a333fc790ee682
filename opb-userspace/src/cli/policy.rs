//! Policy arguments, which may also name a node file.

use std::path::PathBuf;

use opb_userspace::node::{self, Config, PolicySource};

use super::failure::{self, Failure};

/// Returns `path`. If it is a node file, prints a note and returns the policy that it names.
pub(super) fn at(path: PathBuf) -> Result<PathBuf, Failure> {
    if !node::is_node_file(&path) {
        return Ok(path);
    }
    let PolicySource::Path(policy) = Config::load(&path)?.policy;
    let (shown, named) = (path.display(), policy.display());
    failure::warn([format!("note: {shown} is a node file: using its policy, {named}")]);
    Ok(policy)
}
