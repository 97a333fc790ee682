//! Small changes to a large policy: an overlay puts them in force at once. When there are many, a
//! thread compiles an image that contains them.

use std::{
    collections::BTreeSet,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tracing::{info, warn};

use super::build::BuildError;
use crate::{
    compiled::Compiled,
    daemon::changed::Changed,
    errors::one_line,
    image::{Image, Overlay},
    kernel::{self, Kernel, Staged},
    policy::Prefix,
};

/// From this many prefixes on, they are merged into an image. That takes a fraction of a second for
/// a policy of a million, and every change compiles the overlay again.
const MANY: usize = 2048;
/// From this many on, a request waits for the image: an import, or more changes than merging keeps
/// up with.
const TOO_MANY: usize = 4 * MANY;

/// The pause after a failed merge.
const RETRY: Duration = Duration::from_secs(10);

/// The changes since the image in force was compiled.
#[derive(Default)]
pub(super) struct Delta {
    /// Prefixes that the image treats otherwise than the policy.
    prefixes: BTreeSet<Prefix>,
    merging: Option<Merging>,
    /// After a failure, no merge starts before then.
    merge_after: Option<Instant>,
    /// Counts the overlays of this generation.
    revision: u64,
    /// The last overlay of this generation.
    overlay: Option<Overlay>,
    /// Prefixes whose entries changed since a new image was ordered.
    pub(super) since_order: Option<BTreeSet<Prefix>>,
}

/// An image that a thread compiles.
struct Merging {
    /// Changes since the thread started, which its image lacks.
    later: BTreeSet<Prefix>,
    image: mpsc::Receiver<Result<Merged, BuildError>>,
}

/// An image of the present generation that contains its small changes.
type Merged = (Image, Staged);

impl Delta {
    pub(super) fn len(&self) -> usize {
        self.prefixes.len()
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// What is in force beside the image.
    pub(super) fn overlay(&self) -> Option<&Overlay> {
        self.overlay.as_ref()
    }

    pub(super) fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.prefixes.iter().copied()
    }

    /// Starts with changes that came while the image was compiled, and the published overlay that
    /// holds them.
    pub(super) fn hold(&mut self, moved: &[Prefix], overlay: Overlay) {
        self.prefixes.extend(moved);
        self.revision += 1;
        self.overlay = Some(overlay);
    }

    pub(super) fn add(&mut self, moved: &[Prefix]) {
        self.prefixes.extend(moved);
        if let Some(merging) = &mut self.merging {
            merging.later.extend(moved);
        }
    }

    pub(super) fn remember_for_order(&mut self, changed: &BTreeSet<Prefix>) {
        if let Some(since_order) = &mut self.since_order {
            since_order.extend(changed);
        }
    }

    /// An overlay of all changes. `None` if there are too many.
    pub(super) fn small_overlay(&self, compiled: &Compiled, now: Timestamp) -> Option<Overlay> {
        (self.len() < TOO_MANY).then(|| self.compile(compiled, now)).flatten()
    }

    fn compile(&self, compiled: &Compiled, now: Timestamp) -> Option<Overlay> {
        let prefixes: Vec<_> = self.prefixes().collect();
        Overlay::compile(now, &[compiled.changes(&prefixes)])
    }

    pub(super) fn publish(
        &mut self,
        kernel: &mut Kernel,
        overlay: Overlay,
    ) -> Result<(), kernel::Error> {
        kernel.publish_overlay(&overlay)?;
        self.revision += 1;
        self.overlay = Some(overlay);
        Ok(())
    }

    /// Starts a merge if there are many changes. Returns the image of a merge that has ended, and
    /// the changes that it lacks.
    pub(super) fn merge(
        &mut self,
        compiled: &Compiled,
    ) -> Option<(Image, Staged, BTreeSet<Prefix>)> {
        let Some(merging) = &self.merging else {
            let is_due = self.merge_after.is_none_or(|after| Instant::now() >= after);
            if self.len() >= MANY && is_due {
                self.merging = start_merging(compiled);
            }
            return None;
        };
        let image = match merging.image.try_recv() {
            Ok(image) => image,
            Err(mpsc::TryRecvError::Empty) => return None,
            Err(mpsc::TryRecvError::Disconnected) => Err(BuildError::ThreadDied),
        };
        let later = self.merging.take().map(|merging| merging.later).unwrap_or_default();
        match image {
            Ok((image, staged)) => Some((image, staged, later)),
            Err(error) => {
                self.merge_failed(&error);
                None
            }
        }
    }

    /// Everything stays in force, by the overlay.
    fn merge_failed(&mut self, error: &BuildError) {
        warn!("no new image can be made of {} changes: {}", self.len(), one_line(error));
        self.merge_after = Some(Instant::now() + RETRY);
    }

    /// Puts a merged image in force, and leaves the changes that it lacks in the overlay.
    pub(super) fn merged(
        &mut self,
        kernel: &mut Kernel,
        compiled: &mut Compiled,
        merged: Merged,
        later: BTreeSet<Prefix>,
    ) -> Changed {
        match self.replace(kernel, compiled, merged, later) {
            Ok(()) => Changed::Yes,
            Err(error) => {
                self.merge_failed(&error.into());
                Changed::No
            }
        }
    }

    /// The image has the same generation, so the overlay stays valid; for prefixes already merged,
    /// both agree. Only afterwards does the overlay shrink.
    fn replace(
        &mut self,
        kernel: &mut Kernel,
        compiled: &mut Compiled,
        (image, staged): Merged,
        later: BTreeSet<Prefix>,
    ) -> Result<(), kernel::Error> {
        kernel.replace(staged)?;
        let generation = image.generation();
        info!(generation, "{} changes are in a new image", self.len());
        compiled.image = image;
        self.prefixes = later;
        if self.prefixes.is_empty() {
            return self.publish(kernel, Overlay::none());
        }
        match self.compile(compiled, Timestamp::now()) {
            Some(overlay) => self.publish(kernel, overlay),
            // Too much for an overlay: the one in force holds it.
            None => Ok(()),
        }
    }
}

fn start_merging(compiled: &Compiled) -> Option<Merging> {
    let (policy, image) = (Arc::clone(&compiled.policy), &compiled.image);
    let (digest, ids) = (image.digest(), image.group_ids().clone());
    let (generation, made) = (image.generation(), compiled.made());
    let (done, image) = mpsc::channel();
    let work = move || {
        let compiled = Image::compile_as(&policy, digest, &ids, generation, made);
        // Before the result is sent, so that the next change finds the policy with one owner.
        drop(policy);
        let merged = compiled.map_err(BuildError::from).and_then(|image| {
            let staged = Kernel::stage(&image)?;
            Ok((image, staged))
        });
        // The enforcer may have put another generation in force meanwhile.
        drop(done.send(merged));
    };
    match thread::Builder::new().name("merge".to_owned()).spawn(work) {
        Ok(_) => Some(Merging { later: BTreeSet::new(), image }),
        Err(error) => {
            warn!("no thread for a new image: {error}");
            None
        }
    }
}
