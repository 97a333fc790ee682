//! Where a policy is asked for, the node file that names one will do.

use std::path::PathBuf;

use opb_userspace::node::{self, Config, PolicySource};

use super::failure::{self, Failure};

/// The policy at `path`, or the one that the node file at `path` names; then says so.
pub(super) fn at(path: PathBuf) -> Result<PathBuf, Failure> {
    if !node::is_node_file(&path) {
        return Ok(path);
    }
    let PolicySource::Path(policy) = Config::load(&path)?.policy;
    let (shown, named) = (path.display(), policy.display());
    failure::warn([format!(
        "note: {shown} is a node file: the policy that it names is used, {named}"
    )]);
    Ok(policy)
}
