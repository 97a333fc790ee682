//! The kernel side of the program. All of aya and every raw system call live behind this module: aya renames
//! its attach interface in every release.
//!
//! In the order in which an image reaches packets: [`pins`] are what outlives the process (and [`held`] what
//! outlives the pins, [`orphans`] what has lost both, [`presence`] who looks after them), [`policy`] puts an image into the kernel (into [`group_ids`]), [`programs`] loads the BPF
//! programs, [`attach`] puts them on interfaces (on a [`hook`], by [`link_type`]; [`clsact`] is for old kernels), [`counters`] reads what they counted (by [`interfaces`], too), [`observation`]
//! what they wrote down of denied packets (both through [`memory`]). [`replay`] runs single packets through programs of its
//! own. [`survey`] looks at what else there is, [`netlink`] asks for it.

mod attach;
mod clsact;
mod counters;
mod error;
mod held;
mod hook;
mod interfaces;
mod link_type;
mod memory;
mod netlink;
mod orphans;
mod pins;
mod policy;
mod presence;
mod programs;
mod redirects;
mod replay;
mod observation;
mod slots;
mod survey;
mod sys;

use std::{io, path::Path};

use opb_common::settings::Settings;
use tracing::Level;

pub use attach::{Attached, Refused};
pub use counters::CounterRow;
pub use error::Error;
pub use held::{descriptors_at_start, limit_descriptors};
pub use hook::{Hook, Wanted};
pub use link_type::{LinkType, Unreadable};
pub use observation::{Events, Observations, Statistics};
pub use policy::{Live, Staged};
pub use programs::Logs;
pub use redirects::Redirector;
pub use replay::{Replay, ReplayHook};
pub use survey::{Device, FlowTable, Foreign, Memory, Need, Offloads, Place, Survey, devices_now};

use crate::{
    errors::one_line,
    image::{GroupIds, Image, Overlay},
};
use counters::Counters;
use held::Held;
use interfaces::Interfaces;
use pins::Pins;
use policy::PolicySlot;
use presence::Presence;
use programs::{Ports, Programs};

/// What this process holds in the kernel, for as long as it runs. What must outlive it is pinned.
pub struct Kernel {
    pins: Pins,
    policy: PolicySlot,
    programs: Programs,
    counters: Counters,
    interfaces: Interfaces,
    held: Held,
    _presence: Presence,
}

impl Kernel {
    /// Opens the pins under `pins`, or makes them; `log` is the level of the programs' debug lines.
    ///
    /// Fails when another process holds them, when the directory is on no bpffs, and when what is pinned there
    /// has another shape than this version's.
    pub fn open(pins: &Path, log: Option<Level>) -> Result<Self, Error> {
        let pins = Pins::open(pins)?;
        let policy = PolicySlot::open(&pins.policy())?;
        let presence = Presence::new(policy.id()).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Error::Locked { path: pins.policy().policy },
            _ => Error::call("a map that says who is here")(error),
        })?;
        let counters = Counters::open(&pins.counters())?;
        let interfaces = Interfaces::open(&pins.interfaces())?;
        observation::open(&pins.observations())?;
        let ports = policy.live()?.map(|live| Ports::of(&live.image)).unwrap_or_default();
        let programs = Programs::new(pins.maps(), ports, log);
        let held = Held::new(&pins)?;
        Ok(Self { pins, policy, programs, counters, interfaces, held, _presence: presence })
    }

    /// Pins again what somebody has unpinned: until then, the filter would end with this process. Whether there was
    /// anything to repair.
    pub fn repair(&mut self) -> Result<bool, Error> {
        self.held.repair(&mut self.pins)
    }

    /// What is in force, read back from the kernel.
    pub fn live(&self) -> Result<Option<Live>, Error> {
        self.policy.live()
    }

    /// Gives `image` to the kernel and puts it in force.
    pub fn publish(&mut self, image: &Image) -> Result<(), Error> {
        self.publish_staged(image, Self::stage(image)?)
    }

    /// Puts `image` in force, which is `staged`, in one step.
    ///
    /// The port sets of the programs are only a pre-filter, and first hold the ports of both policies: no packet
    /// that either policy denies is let through by them at any moment.
    pub fn publish_staged(&mut self, image: &Image, staged: Staged) -> Result<(), Error> {
        let new = Ports::of(image);
        self.programs.set_ports(&self.programs.ports().union(&new))?;
        self.policy.publish(staged)?;
        // The image is in force, whatever happens now: ports too many cost time, and no verdict.
        if let Err(error) = self.programs.set_ports(&new) {
            tracing::warn!(%error, "the ports of the policy before stay in the programs' pre-filter");
        }
        Ok(())
    }

    /// Puts changes to the image in force, in place of the changes before.
    pub fn publish_overlay(&mut self, overlay: &Overlay) -> Result<(), Error> {
        self.policy.publish_overlay(overlay)
    }

    /// The same, and returns when no program uses the changes before any more: only then may an image follow that relies on these.
    pub fn publish_overlay_and_wait(&mut self, overlay: &Overlay) -> Result<(), Error> {
        self.policy.publish_overlay_and_wait(overlay)
    }

    /// Gives an image to the kernel without putting it in force. What takes long of a publication, for any thread.
    pub fn stage(image: &Image) -> Result<Staged, Error> {
        Staged::new(image.nodes())
    }

    /// Puts an image in force that is of the same generation and says nothing else than the one in force with the
    /// overlay on it.
    pub fn replace(&mut self, image: Staged) -> Result<(), Error> {
        self.policy.publish(image)
    }

    /// Loads every program that `rules` may come to need: an interface that appears then waits for an attachment and for
    /// nothing else. Of the rules' interfaces nothing matters, not even that they are there.
    pub fn preload(&mut self, rules: &[Wanted]) {
        for error in self.programs.preload(rules.iter().flat_map(Wanted::instances)) {
            // Where the program is really needed, the refusal says what is not filtered.
            tracing::warn!("a program cannot be loaded in advance: {}", one_line(&error));
        }
    }

    /// Puts the programs on interfaces, or replaces those that are there without a gap.
    pub fn attach(&mut self, wanted: &[Wanted]) -> Vec<Result<Attached, Refused>> {
        for Wanted { interface, index, .. } in wanted {
            self.interfaces.cover(interface, *index);
        }
        let policy = self.policy.id();
        let attach = |wanted| attach::attach(&self.pins, policy, &mut self.programs, wanted);
        let results = wanted.iter().map(attach).collect();
        let indices: Vec<_> = wanted.iter().map(|wanted| wanted.index).collect();
        if let Err(error) = self.held.follow(&self.pins, &indices) {
            // The filter is in place all the same; the next attachment tries again.
            tracing::warn!("links cannot be held: {error}");
        }
        results
    }

    /// Whether the program that [`Self::attach`] put on `hook` for `wanted` is still there. Cheap enough for every second.
    pub fn is_in_place(&self, wanted: &Wanted, hook: Hook) -> Result<bool, Error> {
        attach::is_in_place(&self.held, wanted, hook)
    }

    /// Takes programs of ours off every interface and direction that is not in `wanted`. Says which.
    pub fn detach_unwanted(&mut self, wanted: &[Wanted]) -> Result<Vec<String>, Error> {
        let removed = attach::detach_all_but(&self.pins, wanted);
        self.held.follow(&self.pins, &[])?;
        removed
    }

    /// Everything that was counted since the pins were made, by group; rows of zero are left out.
    #[must_use]
    pub fn counters(&self, slots: &GroupIds) -> Vec<CounterRow> {
        self.counters.by_group(slots)
    }

    /// Lets counters of groups start at zero: those whose slots had other names.
    pub fn reset_counters(&self, slots: &[u16]) {
        if !slots.is_empty() {
            self.counters.reset(slots);
        }
    }

    /// The same packets by interface.
    #[must_use]
    pub fn interface_counters(&self) -> Vec<CounterRow> {
        self.counters.by_interface(&self.interfaces)
    }

    /// Whether the programs write denied packets down, and whether with addresses. For those that are put on
    /// interfaces from now on.
    pub fn set_observation(&mut self, settings: Settings) {
        self.programs.also = settings;
    }

    /// What the programs wrote down. Events are read once: there must be one reader.
    pub fn observations(&self) -> Result<Observations, Error> {
        Observations::open(&self.pins.observations())
    }

    /// Where the programs' debug lines come from, one for each program loaded since the last call.
    pub fn logs(&mut self) -> Result<Vec<Logs>, Error> {
        self.programs.logs()
    }
}

/// Reads `bytes` as what the kernel says over netlink, attributes within attributes included, for `fuzz/`.
#[cfg(fuzzing)]
pub fn read_netlink(bytes: &[u8]) {
    netlink::walk(bytes);
}

/// Removes every program, link, map and pin of ours under `pins`, with no daemon running, and what lies on interfaces of this
/// network namespace without a pin. Says what it removed.
pub fn detach(pins: &Path) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    if let Some(pins) = Pins::open_existing(pins)? {
        removed.extend(attach::detach_all_but(&pins, &[])?);
        removed.extend(pins.remove()?);
    }
    removed.extend(attach::detach_orphans()?);
    Ok(removed)
}
