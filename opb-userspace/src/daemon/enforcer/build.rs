//! Images of whole policies, compiled on another thread while the enforcer goes on: a reload of a
//! million prefixes delays no change at run time.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    compiled::{Compiled, RunTime},
    daemon::threads::GivenUp,
    image::{CompileError, GroupIds},
    kernel::{self, Kernel, Staged},
    policy::Policy,
    relays::Hosts,
    subscribers::Overrides,
};

/// Everything that an image is made from, at one moment. Cheap to make, however large the policy
/// is.
pub(in crate::daemon) struct Order {
    pub(super) files: Arc<Policy>,
    pub(super) entries: Overrides,
    pub(super) hosts: Hosts,
    pub(super) ids: GroupIds,
    pub(super) generation: u64,
    pub(super) now: Timestamp,
}

/// An image that the kernel holds and that is not in force yet.
pub(in crate::daemon) struct Built {
    pub(super) compiled: Compiled,
    pub(super) staged: Staged,
}

/// Why an image or an overlay is not in force.
#[derive(Debug, thiserror::Error)]
pub(in crate::daemon) enum BuildError {
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    #[error("the policy cannot be compiled (is the machine overloaded?)")]
    Slow(#[from] GivenUp),
    #[error("the thread that compiles has ended")]
    ThreadDied,
}

impl Order {
    pub(in crate::daemon) fn compile(&self) -> Result<Compiled, CompileError> {
        let Self { files, entries, hosts, ids, generation, now } = self;
        Compiled::new(files, RunTime { entries, hosts }, ids, *generation, *now)
    }

    pub(in crate::daemon) fn build(&self) -> Result<Built, BuildError> {
        let compiled = self.compile()?;
        let staged = Kernel::stage(&compiled.image)?;
        Ok(Built { compiled, staged })
    }
}
