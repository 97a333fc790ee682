//! One `opb` node: its files, its daemon and its commands, used only as an operator can use them.
//!
//! A suite that needs more than one subscriber interface keeps a [`Node`] beside its namespaces; most need one, and
//! use a [`Site`].

mod ask;
mod daemon;
mod kernel;
mod site;
mod user;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    bpffs::Bpffs,
    netns::Netns,
    process::{self, Output, Process},
};

pub use kernel::{Links, Objects};
pub use site::Site;
pub use user::USER;

/// Longer than any command takes, on an emulated machine too: a hang has to end.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Files, pins and daemon of one node. Dropping it ends the daemon and detaches.
#[derive(Debug)]
pub struct Node {
    // Fields drop in this order: the daemon has to be gone before what it uses.
    daemon: Option<Process>,
    binary: PathBuf,
    /// The namespace in which daemon and commands run.
    pub gateway: Netns,
    bpffs: Bpffs,
}

impl Node {
    /// Writes the node's files; nothing runs yet.
    ///
    /// `binary` is the program `opb`, `interfaces` the value of the node file's key, and `more` are further lines of
    /// that file. The listener is off unless `more` says where it is.
    pub fn prepare(
        binary: &Path,
        gateway: &Netns,
        policy: &str,
        interfaces: &str,
        more: &str,
    ) -> Result<Self> {
        let missing = || format!("there is no opb at {}", binary.display());
        let binary = binary.canonicalize().with_context(missing)?;
        let node = Self { daemon: None, binary, gateway: gateway.clone(), bpffs: Bpffs::mount()? };
        node.write("policy.yaml", policy)?;
        node.configure(interfaces, more)?;
        Ok(node)
    }

    /// Replaces the node file; see [`Self::prepare`].
    pub fn configure(&self, interfaces: &str, more: &str) -> Result<()> {
        let listens = more.lines().any(|line| line.starts_with("http:"));
        let text = format!(
            "version: 1\npolicy: policy.yaml\ninterfaces: {interfaces}\nstate: {}\ncontrol: {}\npins: {}\n{}{more}",
            self.path("state").display(),
            self.path("opb.sock").display(),
            self.pins().display(),
            if listens { "" } else { "http: off\n" },
        );
        self.write("opb.yaml", &text)
    }

    /// Rewrites the node file.
    pub fn edit(&self, change: impl FnOnce(String) -> String) -> Result<()> {
        self.write("opb.yaml", &change(fs::read_to_string(self.path("opb.yaml"))?))
    }

    /// Replaces a file in one step: the daemon may read it at any moment.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let draft = self.path(&format!(".{name}"));
        fs::write(&draft, text)?;
        Ok(fs::rename(draft, self.path(name))?)
    }

    /// Makes an empty directory, for a policy of several files.
    pub fn make_directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.path(name);
        fs::create_dir(&directory)?;
        Ok(directory)
    }

    /// Makes a directory the policy, for the next start or reload.
    pub fn select(&self, directory: &Path) -> Result<()> {
        let new = self.path("policy.new");
        symlink(directory, &new)?;
        Ok(fs::rename(new, self.path("policy.yaml"))?)
    }

    /// Path of one of the node's files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// The directory that has the node's files. Relative paths of commands start here.
    pub fn directory(&self) -> &Path {
        self.bpffs.directory()
    }

    /// The node's own bpffs.
    pub fn mount(&self) -> &Path {
        self.bpffs.path()
    }

    /// The directory in it that the node file names.
    pub fn pins(&self) -> PathBuf {
        self.mount().join("opb")
    }

    /// `opb ARGUMENTS` with this node's file and socket as defaults, by the node's clock.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(&self.binary, arguments)
    }

    /// The same by another program that becomes or starts `opb`.
    pub fn command_of(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
        let mut command = self.gateway.command(program);
        command.args(arguments).current_dir(self.directory());
        command.env("OPB_CONFIG", self.path("opb.yaml")).env("OPB_CONTROL", self.path("opb.sock"));
        let clock = self.path("clock");
        if clock.exists() {
            // libfaketime, between the program and the C library's clock.
            command.env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1");
            command.env("FAKETIME_TIMESTAMP_FILE", clock).env("FAKETIME_NO_CACHE", "1");
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_DISABLE_SHM", "1");
        }
        command
    }

    /// Sets the clock of daemon and commands. They use the machine's clock until the first call.
    pub fn set_clock(&self, ahead: Duration) -> Result<()> {
        self.write("clock", &format!("+{}s", ahead.as_secs()))
    }

    /// Runs a command to its end, however it ends.
    pub fn opb(&self, arguments: &[&str]) -> Result<Output> {
        process::run(&mut self.command(arguments), LIMIT)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.daemon.take());
        if self.pins().exists() {
            let _ = self.opb(&["detach"]);
        }
    }
}
