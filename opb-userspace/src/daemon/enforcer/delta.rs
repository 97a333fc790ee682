//! Small changes to a policy that may be big: an overlay makes them visible at once, and when they have become many, an image
//! that holds them is made in the background.

use std::{
    collections::BTreeSet,
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use jiff::Timestamp;
use tracing::{info, warn};

use super::{Enforcer, RETRY};
use crate::{
    errors::one_line,
    image::{Image, Overlay},
    kernel::{self, Kernel, Staged},
    policy::Prefix,
};

/// From this many prefixes on, an image is made of them. A policy of a million takes a fraction of a second, and the overlay
/// is compiled anew for every change.
const MANY: usize = 2048;
/// From this many on, whoever wants the change waits for the image: an import, or more than the background can keep up with.
const TOO_MANY: usize = 4 * MANY;

/// What has changed since the image in force was compiled.
#[derive(Default)]
pub(super) struct Delta {
    /// Prefixes that are somebody else's now.
    prefixes: BTreeSet<Prefix>,
    /// An image that knows of them.
    merging: Option<Merging>,
    /// Not before then, after a failure.
    merge_after: Option<Instant>,
    /// Counts the overlays of this generation.
    revision: u64,
    /// What was published last in this generation.
    overlay: Option<Overlay>,
    /// Prefixes whose entries have changed since an image was ordered that is to replace this one.
    pub(super) since_order: Option<BTreeSet<Prefix>>,
}

/// An image on its way.
struct Merging {
    /// What changed while it was being compiled, and it does not know of.
    later: BTreeSet<Prefix>,
    image: mpsc::Receiver<Result<(Image, Staged), String>>,
}

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

    /// Begins with what has changed while the image was being compiled, and the overlay that holds it.
    pub(super) fn hold(&mut self, moved: &[Prefix], overlay: Overlay) {
        self.prefixes.extend(moved);
        self.revision += 1;
        self.overlay = Some(overlay);
    }

    fn add(&mut self, moved: &[Prefix]) {
        self.prefixes.extend(moved);
        if let Some(merging) = &mut self.merging {
            merging.later.extend(moved);
        }
    }
}

impl Enforcer {
    /// Puts in force that the entries at `changed` are others now. Whether that made a difference.
    pub(super) fn renew_at(&mut self, changed: &BTreeSet<Prefix>) -> Result<bool, String> {
        let now = Timestamp::now();
        if let Some(since_order) = &mut self.delta.since_order {
            since_order.extend(changed);
        }
        if self.compiled.is_stale(now) || self.is_image_wrong() {
            return self.renew().map(|()| true);
        }
        let moved = self.compiled.follow(&self.files, self.entries.map(), changed, now);
        if moved.is_empty() {
            return Ok(false);
        }
        self.delta.add(&moved);
        let small = self.delta.len() < TOO_MANY;
        match small.then(|| self.overlay(now)).flatten() {
            Some(overlay) => self.publish_overlay(overlay).map_err(|error| one_line(&error)),
            None => self.renew(),
        }
        .map(|()| true)
    }

    fn overlay(&self, now: Timestamp) -> Option<Overlay> {
        let prefixes: Vec<_> = self.delta.prefixes().collect();
        Overlay::compile(now, &[self.compiled.changes(&prefixes)])
    }

    fn publish_overlay(&mut self, overlay: Overlay) -> Result<(), kernel::Error> {
        self.kernel.publish_overlay(&overlay)?;
        self.delta.revision += 1;
        self.delta.overlay = Some(overlay);
        Ok(())
    }

    /// Starts an image with the changes in it where there are many, and puts it in force when it is there. Whether the status has
    /// changed.
    pub(super) fn merge(&mut self) -> bool {
        let Some(merging) = &self.delta.merging else {
            let is_due = self.delta.merge_after.is_none_or(|after| Instant::now() >= after);
            if self.delta.len() >= MANY && is_due {
                self.delta.merging = self.start_merging();
            }
            return false;
        };
        let image = match merging.image.try_recv() {
            Ok(image) => image,
            Err(mpsc::TryRecvError::Empty) => return false,
            Err(mpsc::TryRecvError::Disconnected) => Err("its thread has ended".to_owned()),
        };
        let later = self.delta.merging.take().map(|merging| merging.later).unwrap_or_default();
        match image.and_then(|image| self.merged(image, later).map_err(|error| one_line(&error))) {
            Ok(()) => true,
            Err(error) => {
                // Everything is in force all the same.
                warn!("no new image can be made of {} changes: {error}", self.delta.len());
                self.delta.merge_after = Some(Instant::now() + RETRY);
                false
            }
        }
    }

    fn start_merging(&self) -> Option<Merging> {
        let (policy, image) = (Arc::clone(&self.compiled.policy), &self.compiled.image);
        let (digest, slots) = (image.digest(), image.slots().clone());
        let (generation, made) = (image.generation(), self.compiled.made());
        let (done, image) = mpsc::channel();
        let work = move || {
            let compiled = Image::compile_as(&policy, digest, &slots, generation, made);
            // Before anybody is told, so that the policy has one owner again when it is changed next.
            drop(policy);
            let result = compiled.map_err(|error| one_line(&error)).and_then(|image| {
                let staged = Kernel::stage(&image).map_err(|error| one_line(&error))?;
                Ok((image, staged))
            });
            // The enforcer may have put another generation in force meanwhile.
            drop(done.send(result));
        };
        match thread::Builder::new().name("merge".to_owned()).spawn(work) {
            Ok(_) => Some(Merging { later: BTreeSet::new(), image }),
            Err(error) => {
                warn!("no thread for a new image: {error}");
                None
            }
        }
    }

    /// The image has the same generation, so the overlay goes on to hold, and says of what the image has learnt what the image
    /// says. Only then it shrinks to what the image does not know.
    fn merged(
        &mut self,
        (image, staged): (Image, Staged),
        later: BTreeSet<Prefix>,
    ) -> Result<(), kernel::Error> {
        self.kernel.replace(staged)?;
        let generation = image.generation();
        info!(generation, "{} changes are in a new image", self.delta.len());
        self.compiled.image = image;
        self.delta.prefixes = later;
        match self.overlay(Timestamp::now()) {
            Some(rest) if self.delta.len() > 0 => self.publish_overlay(rest),
            // If it is too much for an overlay: the one in force holds it.
            _ if self.delta.len() > 0 => Ok(()),
            _ => self.publish_overlay(Overlay::none()),
        }
    }
}
