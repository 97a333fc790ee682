//! Images of whole policies, compiled on another thread while the enforcer goes on: a reload of a million prefixes holds up no
//! change at run time.
//!
//! An [`Order`] is everything that an image is made from, at one moment. What changes while the image is being compiled goes to the
//! image in force at once, and is remembered: the new image comes into force with an overlay that holds it.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;

use super::{Enforcer, slots};
use crate::api::status::Subject;
use crate::{
    compiled::{Compiled, RunTime},
    errors::one_line,
    image::{GroupIds, Overlay},
    kernel::{self, Kernel, Staged},
    policy::{Policy, Prefix},
    relays::Hosts,
    subscribers,
};

/// What an image is made from. Cheap to take, however large the policy is.
pub(in crate::daemon) struct Order {
    files: Arc<Policy>,
    entries: subscribers::Map,
    hosts: Hosts,
    slots: GroupIds,
    generation: u64,
    now: Timestamp,
}

/// An image that the kernel has, and that is not in force yet.
pub(in crate::daemon) struct Built {
    pub(super) compiled: Compiled,
    staged: Staged,
}

impl Order {
    pub(in crate::daemon) fn compile(&self) -> Result<Compiled, String> {
        let Self { files, entries, hosts, slots, generation, now } = self;
        let run_time = RunTime { entries, hosts };
        Compiled::new(files, run_time, slots, *generation, *now).map_err(|error| one_line(&error))
    }

    pub(in crate::daemon) fn build(&self) -> Result<Built, String> {
        let compiled = self.compile()?;
        let staged = Kernel::stage(&compiled.image).map_err(|error| one_line(&error))?;
        Ok(Built { compiled, staged })
    }
}

impl Enforcer {
    /// For the image that follows the one in force, of `files` and of what holds beside them.
    pub(super) fn order(&self, files: &Arc<Policy>) -> Order {
        let image = &self.compiled.image;
        let slots = slots::with_room(image.slots(), files, &self.compiled.policy, &self.entries);
        Order {
            files: Arc::clone(files),
            entries: self.entries.map().clone(),
            hosts: self.hosts.clone(),
            slots,
            generation: image.generation() + 1,
            now: Timestamp::now(),
        }
    }

    /// The same, for an image that will be published: from now on, changes are remembered for it.
    pub(super) fn order_to_publish(&mut self, files: &Arc<Policy>) -> Order {
        self.delta.since_order = Some(BTreeSet::new());
        self.order(files)
    }

    /// Puts an image of `files` in force, if it follows the one that is in force now. Whether it does.
    pub(super) fn publish_built(&mut self, built: Built, files: &Policy) -> Result<bool, String> {
        let follows = built.compiled.image.generation() == self.compiled.image.generation() + 1;
        let Some(later) = self.delta.since_order.take().filter(|_| follows) else {
            return Ok(false);
        };
        let Built { mut compiled, staged } = built;
        let moved = compiled.follow(files, self.entries.map(), &later, Timestamp::now());
        let overlay = if moved.is_empty() {
            None
        } else {
            let Some(overlay) = self.overlay_for_both(&compiled, &moved) else {
                // Too much has changed for an overlay.
                return Ok(false);
            };
            self.kernel.publish_overlay_and_wait(&overlay).map_err(|error| one_line(&error))?;
            Some(overlay)
        };
        self.publish_staged(compiled, staged).map_err(|error| one_line(&error))?;
        if let Some(overlay) = overlay {
            self.delta.hold(&moved, overlay);
        }
        Ok(true)
    }

    /// What has changed since the image in force was compiled, and what has since that of `next` was.
    fn overlay_for_both(&self, next: &Compiled, moved: &[Prefix]) -> Option<Overlay> {
        let prefixes: Vec<_> = self.delta.prefixes().collect();
        let changes = [self.compiled.changes(&prefixes), next.changes(moved)];
        Overlay::compile(Timestamp::now(), &changes)
    }

    /// Puts in force what files, run-time entries and relay hosts say now, as a new generation. Every change between two
    /// reloads ends here or in [`Self::renew_at`].
    pub(super) fn renew(&mut self) -> Result<(), String> {
        let built = self.order(&self.files).build()?;
        self.publish(built)
    }

    /// Without a look at what has changed since the image was ordered: for one that was ordered and built at once.
    pub(super) fn publish(&mut self, Built { compiled, staged }: Built) -> Result<(), String> {
        self.publish_staged(compiled, staged).map_err(|error| one_line(&error))
    }

    fn publish_staged(&mut self, compiled: Compiled, staged: Staged) -> Result<(), kernel::Error> {
        let [retired, replaced] = slots::reused(&compiled, &self.compiled);
        self.kernel.reset_counters(&retired);
        self.kernel.publish_staged(&compiled.image, staged)?;
        self.kernel.reset_counters(&replaced);
        (self.compiled, self.delta) = (compiled, Default::default());
        self.troubles.remove(&Subject::Image);
        Ok(())
    }
}
