//! The policy in force: its image, the small changes since, and whether both are what they should
//! be.
//!
//! A large change makes a new image, a new generation. What changes while another thread compiles
//! it goes to the image in force at once, and is remembered: the new image comes into force with an
//! overlay that holds it.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use opb_common::outcome::MAX_GROUPS;
use tracing::info;

use super::{
    build::{BuildError, Built, Order},
    delta::Delta,
    fault::Fault,
    group_ids,
};
use crate::{
    api::{
        reload::ReloadOutcome,
        status::{OverlayStatus, Subject, Trouble},
    },
    compiled::{Compiled, LoadError, RunTime, hex},
    daemon::{self, changed::Changed},
    image::{GroupIds, Image, Overlay},
    kernel::{Kernel, Live},
    policy::{Policy, Prefix},
    relays::Hosts,
    subscribers::{self, Entries},
};

/// Publishing goes through this type: image, overlay and policy stay in step.
pub(super) struct Active {
    compiled: Compiled,
    delta: Delta,
    stale: Fault<Stale>,
}

/// What a policy in force is made from.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) files: &'a Arc<Policy>,
    pub(super) entries: &'a Entries,
    pub(super) hosts: &'a Hosts,
}

/// Why the policy in force is not what its sources say. The daemon tries again every second.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stale {
    #[error("what has changed at run time is not in force")]
    NotPublished(#[source] BuildError),
    #[error("entries that were refused are in the store")]
    NotReverted(#[source] subscribers::Error),
}

/// What became of an image that was compiled elsewhere.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Publication {
    InForce,
    /// Another image came into force meanwhile, or too much changed for an overlay.
    Outdated,
}

/// An image of an earlier daemon, which the kernel enforces.
pub(super) struct Adoption {
    generation: u64,
    digest: String,
    ids: GroupIds,
}

impl Active {
    /// Compiles the first policy of this daemon. It is in force if the kernel had none; otherwise
    /// [`Self::adopt`] follows.
    pub(super) fn start(
        kernel: &mut Kernel,
        sources: Sources<'_>,
    ) -> Result<(Self, Option<Adoption>), daemon::Error> {
        let Sources { files, entries, hosts } = sources;
        let adoption = kernel.live()?.map(|Live { image, .. }| Adoption {
            generation: image.generation(),
            digest: hex(image.digest()),
            ids: image.group_ids().clone(),
        });
        let (ids, generation) = match &adoption {
            Some(Adoption { ids, generation, .. }) => (ids.clone(), *generation),
            None => (GroupIds::default(), 0),
        };
        let ids = group_ids::with_room(&ids, files, files, entries);
        let run_time = RunTime { entries: &entries.overrides(), hosts };
        let compiled = Compiled::new(files, run_time, &ids, generation + 1, Timestamp::now())
            .map_err(LoadError::from)?;
        if adoption.is_none() {
            // Nobody knows which groups the present counts belong to.
            kernel.reset_counters(&(1..MAX_GROUPS as u16).collect::<Vec<_>>());
            kernel.publish(&compiled.image)?;
        }
        let active = Self { compiled, delta: Delta::default(), stale: Fault::default() };
        Ok((active, adoption))
    }

    /// Replaces the image of an earlier daemon. Programs of this daemon must be attached before:
    /// those of the other do not know ports that the new policy adds.
    pub(super) fn adopt(
        &self,
        kernel: &mut Kernel,
        adoption: Adoption,
    ) -> Result<(), daemon::Error> {
        let Adoption { generation, digest, ids } = adoption;
        info!(generation, digest, "adopted what an earlier daemon left enforcing");
        let image = &self.compiled.image;
        kernel.publish(image)?;
        kernel
            .reset_counters(&image.group_ids().reused(&ids).map(|(id, _)| id).collect::<Vec<_>>());
        Ok(())
    }

    /// The policy with everything that changed at run time.
    pub(super) fn policy(&self) -> &Arc<Policy> {
        &self.compiled.policy
    }

    /// The image without the small changes in [`Self::overlay`].
    pub(super) fn image(&self) -> &Image {
        &self.compiled.image
    }

    pub(super) fn overlay(&self) -> Option<&Overlay> {
        self.delta.overlay()
    }

    pub(super) fn generation(&self) -> u64 {
        self.image().generation()
    }

    /// Whether no change of its sources is missing.
    pub(super) fn is_stale(&self) -> bool {
        self.stale.is_raised()
    }

    pub(super) fn mark_stale(&mut self, cause: Stale) -> Changed {
        self.stale.raise(cause)
    }

    /// The value of a publication that nobody waits for. After a failure the policy is stale until
    /// the next publication.
    #[must_use]
    pub(super) fn tolerate<T>(&mut self, result: Result<T, BuildError>) -> Option<T> {
        result.map_err(|error| self.mark_stale(Stale::NotPublished(error))).ok()
    }

    pub(super) fn problem(&self) -> Option<Trouble> {
        self.stale.trouble(Subject::Image)
    }

    pub(super) fn outcome(&self) -> ReloadOutcome {
        ReloadOutcome::Applied { generation: self.generation(), digest: hex(self.image().digest()) }
    }

    pub(super) fn overlay_status(&self) -> OverlayStatus {
        OverlayStatus { prefixes: self.delta.len(), revision: self.delta.revision() }
    }

    /// Adopts what does not matter to the image: warnings and file names.
    pub(super) fn adopt_notes(&mut self, files: &Policy) {
        let policy = Arc::make_mut(&mut self.compiled.policy);
        policy.warnings.clone_from(&files.warnings);
        policy.files.clone_from(&files.files);
    }

    /// Brings the policy, not the image, back to the entries at `changed`, after an overlay with
    /// others was refused.
    pub(super) fn revert(&mut self, sources: Sources<'_>, changed: &BTreeSet<Prefix>) {
        let Sources { files, entries, .. } = sources;
        self.compiled.follow(files, &entries.overrides(), changed, Timestamp::now());
    }

    /// For the next generation.
    pub(super) fn order(&self, sources: Sources<'_>) -> Order {
        let Sources { files, entries, hosts } = sources;
        let image = self.image();
        Order {
            files: Arc::clone(files),
            entries: entries.overrides(),
            hosts: hosts.clone(),
            ids: group_ids::with_room(image.group_ids(), files, &self.compiled.policy, entries),
            generation: image.generation() + 1,
            now: Timestamp::now(),
        }
    }

    /// As [`Self::order`], for an image that [`Self::publish_built`] will publish: changes are
    /// remembered for it from now on.
    pub(super) fn order_to_publish(&mut self, sources: Sources<'_>) -> Order {
        self.delta.since_order = Some(BTreeSet::new());
        self.order(sources)
    }

    /// Puts an image of `sources` in force, if no other generation came into force since it was
    /// ordered.
    pub(super) fn publish_built(
        &mut self,
        kernel: &mut Kernel,
        sources: Sources<'_>,
        built: Built,
    ) -> Result<Publication, BuildError> {
        let is_next = built.compiled.image.generation() == self.generation() + 1;
        let Some(later) = self.delta.since_order.take().filter(|_| is_next) else {
            return Ok(Publication::Outdated);
        };
        let Built { mut compiled, staged } = built;
        let Sources { files, entries, .. } = sources;
        let moved = compiled.follow(files, &entries.overrides(), &later, Timestamp::now());
        let overlay = if moved.is_empty() {
            None
        } else {
            let Some(overlay) = self.overlay_for_both(&compiled, &moved) else {
                return Ok(Publication::Outdated);
            };
            kernel.publish_overlay_and_wait(&overlay)?;
            Some(overlay)
        };
        self.publish(kernel, Built { compiled, staged })?;
        if let Some(overlay) = overlay {
            self.delta.hold(&moved, overlay);
        }
        Ok(Publication::InForce)
    }

    /// The changes since the image in force was compiled, and those since the image of `next` was.
    fn overlay_for_both(&self, next: &Compiled, moved: &[Prefix]) -> Option<Overlay> {
        let prefixes: Vec<_> = self.delta.prefixes().collect();
        let changes = [self.compiled.changes(&prefixes), next.changes(moved)];
        Overlay::compile(Timestamp::now(), &changes)
    }

    /// Puts what `sources` say now in force, as a new generation. Every change between two reloads
    /// ends here or in [`Self::renew_at`].
    pub(super) fn renew(
        &mut self,
        kernel: &mut Kernel,
        sources: Sources<'_>,
    ) -> Result<(), BuildError> {
        let built = self.order(sources).build()?;
        self.publish(kernel, built)
    }

    /// Puts changed entries at `changed` in force. Returns whether that made a difference.
    pub(super) fn renew_at(
        &mut self,
        kernel: &mut Kernel,
        sources: Sources<'_>,
        changed: &BTreeSet<Prefix>,
    ) -> Result<Changed, BuildError> {
        let now = Timestamp::now();
        self.delta.remember_for_order(changed);
        if self.needs_renewal(now) {
            return self.renew(kernel, sources).map(|()| Changed::Yes);
        }
        let Sources { files, entries, .. } = sources;
        let moved = self.compiled.follow(files, &entries.overrides(), changed, now);
        if moved.is_empty() {
            return Ok(Changed::No);
        }
        self.delta.add(&moved);
        match self.delta.small_overlay(&self.compiled, now) {
            Some(overlay) => self.delta.publish(kernel, overlay)?,
            None => self.renew(kernel, sources)?,
        }
        Ok(Changed::Yes)
    }

    /// Whether a small change would not do: the image itself is not what it should be at the time
    /// `now`.
    pub(super) fn needs_renewal(&self, now: Timestamp) -> bool {
        self.compiled.is_stale(now) || self.is_stale()
    }

    /// Without regard to changes since the image was ordered: for one that was ordered and built at
    /// once.
    pub(super) fn publish(&mut self, kernel: &mut Kernel, built: Built) -> Result<(), BuildError> {
        let Built { compiled, staged } = built;
        let [retired, replaced] = group_ids::reused(&compiled, &self.compiled);
        kernel.reset_counters(&retired);
        kernel.publish_staged(&compiled.image, staged)?;
        kernel.reset_counters(&replaced);
        (self.compiled, self.delta) = (compiled, Delta::default());
        // The caller reports: there is a new generation.
        let _ = self.stale.clear();
        Ok(())
    }

    /// Moves many small changes from the overlay into an image, in the background.
    pub(super) fn merge(&mut self, kernel: &mut Kernel) -> Changed {
        let Self { compiled, delta, .. } = self;
        match delta.merge(compiled) {
            Some((image, staged, later)) => delta.merged(kernel, compiled, (image, staged), later),
            None => Changed::No,
        }
    }
}
