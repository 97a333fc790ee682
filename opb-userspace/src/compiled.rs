//! A policy as it holds now, and the image of it: what the daemon publishes, and what `explain` and `replay` judge by.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    document::Diagnostics,
    image::{Changes, CompileError, GroupIds, Image},
    policy::{Policy, Prefix},
    relays::Hosts,
    subscribers::{self, follow, overlay},
};

/// A policy without the exemptions that have expired and with what run time added, and the image of it or of what it was
/// before the last small changes.
pub struct Compiled {
    pub policy: Arc<Policy>,
    pub image: Image,
    made: Timestamp,
    /// When an exemption of the files runs out.
    expires: Option<Timestamp>,
}

/// What holds beside the files.
#[derive(Clone, Copy)]
pub struct RunTime<'a> {
    pub entries: &'a subscribers::Map,
    pub hosts: &'a Hosts,
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
    /// Reads and compiles the policy at `path`, with nothing from run time. Groups that `slots` knows keep their slots.
    pub fn load(path: PathBuf, slots: &GroupIds, generation: u64) -> Result<Self, LoadError> {
        let hosts = Hosts::new(BTreeMap::new(), Duration::ZERO);
        let run_time = RunTime { entries: &subscribers::Map::new(), hosts: &hosts };
        Ok(Self::new(&Policy::load(&[path])?, run_time, slots, generation, Timestamp::now())?)
    }

    /// The image of what `files` and `run_time` say at the time `now`. Its digest is that of the files: the same on all
    /// nodes that share them.
    pub fn new(
        files: &Policy,
        run_time: RunTime<'_>,
        slots: &GroupIds,
        generation: u64,
        now: Timestamp,
    ) -> Result<Self, CompileError> {
        let mut policy = files.clone();
        policy.exemptions.retain(|exemption| exemption.in_force(now));
        let digest = policy.digest();
        overlay(&mut policy, run_time.entries, now);
        run_time.hosts.apply(&mut policy);
        let image = Image::compile_as(&policy, digest, slots, generation, now)?;
        let exemptions = files.exemptions.iter().filter_map(|exemption| exemption.until);
        let expires = exemptions.filter(|&until| until > now).min();
        Ok(Self { policy: Arc::new(policy), image, made: now, expires })
    }

    /// Brings the policy up to date with the entries at `changed`, and leaves the image alone. Says for which prefixes the
    /// image is wrong now.
    pub fn follow(
        &mut self,
        files: &Policy,
        entries: &subscribers::Map,
        changed: &BTreeSet<Prefix>,
        now: Timestamp,
    ) -> Vec<Prefix> {
        follow(Arc::make_mut(&mut self.policy), files, entries, changed, now)
    }

    /// What an overlay on the image says, if the policy has changed at `prefixes` since.
    pub fn changes<'a>(&'a self, prefixes: &'a [Prefix]) -> Changes<'a> {
        let Self { policy, image, .. } = self;
        Changes { policy, slots: image.slots(), generation: image.generation(), prefixes }
    }

    /// When it was made. An image of later would lack exemptions that are still in force.
    pub fn made(&self) -> Timestamp {
        self.made
    }

    /// Whether an exemption of the files has run out since, or the clock was set back and one may be in force again.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        now < self.made || self.expires.is_some_and(|expires| now >= expires)
    }
}

/// A digest as people see it.
pub fn hex(digest: [u8; 16]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
