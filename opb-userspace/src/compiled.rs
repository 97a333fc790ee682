//! A policy as it holds now, and the image of it: what the daemon publishes, and what `explain` and `replay` judge by.

use std::path::PathBuf;

use jiff::Timestamp;

use crate::{
    image::{CompileError, Image, Slots},
    policy::{Diagnostics, Policy},
};

/// A policy without the exemptions that have expired, and its image.
pub struct Compiled {
    pub policy: Policy,
    pub image: Image,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Invalid(#[from] Diagnostics),
    #[error("the policy does not fit an image")]
    Compile(#[from] CompileError),
}

impl Compiled {
    /// Reads and compiles the policy at `path`. Groups that `slots` knows keep their slots.
    pub fn load(path: PathBuf, slots: &Slots, generation: u64) -> Result<Self, LoadError> {
        Ok(Self::new(Policy::load(&[path])?, slots, generation, Timestamp::now())?)
    }

    /// The image of `policy` as it is at the time `now`.
    pub fn new(
        mut policy: Policy,
        slots: &Slots,
        generation: u64,
        now: Timestamp,
    ) -> Result<Self, CompileError> {
        policy.exemptions.retain(|exemption| exemption.in_force(now));
        let image = Image::compile(&policy, slots, generation, now)?;
        Ok(Self { policy, image })
    }

    /// Whether an exemption has expired since, so that the image no longer says what the policy does.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        self.policy.exemptions.iter().any(|exemption| !exemption.in_force(now))
    }
}

/// A digest as people see it.
pub fn hex(digest: [u8; 16]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
