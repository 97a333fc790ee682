//! A daemon that runs as an ordinary user with some capabilities, as `opb.service` starts it.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    process::Command,
};

use anyhow::{Context, Result};

use super::Node;
use crate::process;

/// Nobody else has this user and group id.
pub const USER: u32 = 52_525;

impl Node {
    /// Gives the node's files and its bpffs to [`USER`], with everything that is pinned there.
    pub fn give_to_user(&self) -> Result<()> {
        fs::set_permissions(self.mount(), Permissions::from_mode(0o700))?;
        let owner = format!("{USER}:{USER}");
        process::check(Command::new("chown").args(["-R", &owner]).arg(self.directory()))?;
        Ok(())
    }

    /// `opb ARGUMENTS` as [`USER`], with these capabilities (such as `net_admin`) and no other.
    pub fn command_of_user(&self, capabilities: &[&str], arguments: &[&str]) -> Result<Command> {
        // The user may not be allowed to enter the directory where the program was built.
        let binary = self.path("opb");
        if !binary.exists() {
            fs::copy(&self.binary, &binary).context("cannot copy opb")?;
        }
        let user = USER.to_string();
        let sets = capabilities.iter().fold("-all".to_owned(), |sets, name| sets + ",+" + name);
        let mut command = self.command_of("setpriv", &["--clear-groups", "--no-new-privs"]);
        command.args(["--reuid", &user, "--regid", &user, "--bounding-set", &sets]);
        command.args(["--inh-caps", &sets, "--ambient-caps", &sets]);
        // The kernel forgets the signal that the lab has asked for when the user changes.
        command.args(["--pdeathsig", "KILL"]).arg(binary).args(arguments);
        Ok(command)
    }
}
