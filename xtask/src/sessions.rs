use anyhow::Result;

use crate::exec::{cargo, exec};
use crate::setup;

/// Prints how a release build of the daemon keeps up with sessions that come and go.
pub(crate) fn run() -> Result<()> {
    setup::all()?;
    let mut cmd = cargo("bench");
    cmd.args(["--workspace", "--bench", "sessions"]);
    exec(&mut cmd)
}
