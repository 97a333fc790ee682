//! A policy in force and its image. The daemon publishes it; `explain` and `replay` use it for
//! their verdicts.

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
    subscribers::{Overrides, follow, overlay},
};

/// A policy without expired exemptions and with the run-time additions, and an image. The image may
/// be older than the last small changes of the policy.
pub struct Compiled {
    pub policy: Arc<Policy>,
    pub image: Image,
    made: Timestamp,
    /// When the next exemption of the files expires.
    expires: Option<Timestamp>,
}

/// Run-time additions to the files.
#[derive(Clone, Copy)]
pub struct RunTime<'a> {
    pub entries: &'a Overrides,
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
    /// Reads and compiles the policy at `path`, without run-time additions. Groups in `group_ids`
    /// keep their ids.
    pub fn load(path: PathBuf, group_ids: &GroupIds, generation: u64) -> Result<Self, LoadError> {
        let hosts = Hosts::new(BTreeMap::new(), Duration::ZERO);
        let run_time = RunTime { entries: &Overrides::default(), hosts: &hosts };
        Ok(Self::new(&Policy::load(&[path])?, run_time, group_ids, generation, Timestamp::now())?)
    }

    /// Compiles `files` with `run_time` as of `now`. The digest is that of the files: the same on
    /// all nodes that share them.
    pub fn new(
        files: &Policy,
        run_time: RunTime<'_>,
        group_ids: &GroupIds,
        generation: u64,
        now: Timestamp,
    ) -> Result<Self, CompileError> {
        let mut policy = files.clone();
        policy.exemptions.retain(|exemption| exemption.in_force(now));
        let digest = policy.digest();
        overlay(&mut policy, run_time.entries, now);
        run_time.hosts.apply(&mut policy);
        let image = Image::compile_as(&policy, digest, group_ids, generation, now)?;
        let exemptions = files.exemptions.iter().filter_map(|exemption| exemption.until);
        let expires = exemptions.filter(|&until| until > now).min();
        Ok(Self { policy: Arc::new(policy), image, made: now, expires })
    }

    /// Applies the entries at `changed` to the policy, but not to the image. Returns the prefixes
    /// for which the image is now wrong.
    pub fn follow(
        &mut self,
        files: &Policy,
        entries: &Overrides,
        changed: &BTreeSet<Prefix>,
        now: Timestamp,
    ) -> Vec<Prefix> {
        follow(Arc::make_mut(&mut self.policy), files, entries, changed, now)
    }

    /// The input of an overlay on the image, for changes of the policy at `prefixes`.
    pub fn changes<'a>(&'a self, prefixes: &'a [Prefix]) -> Changes<'a> {
        let Self { policy, image, .. } = self;
        Changes { policy, group_ids: image.group_ids(), generation: image.generation(), prefixes }
    }

    /// When it was compiled. A later image would lack exemptions that are still in force.
    pub fn made(&self) -> Timestamp {
        self.made
    }

    /// Whether an exemption of the files has expired since. Also true if the clock was set back,
    /// which may put one into force again.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        now < self.made || self.expires.is_some_and(|expires| now >= expires)
    }
}

/// A digest in hexadecimal, as it is shown.
pub fn hex(digest: [u8; 16]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
