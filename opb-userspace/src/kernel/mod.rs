//! The kernel side of the program. All of aya and every raw system call live behind this module:
//! aya renames its attach API in every release.
//!
//! The modules, from the system calls up; each uses only modules above it:
//!
//! | modules | purpose |
//! |---|---|
//! | [`netlink`], [`sys`] | requests over netlink; bpf(2) and other raw system calls |
//! | [`link_type`], [`error`] | the first header of an interface's frames; errors |
//! | [`memory`], [`own`], [`pins`] | mapped maps; directories that are ours alone; the pin directory |
//! | [`descriptors`] | descriptor limits |
//! | [`map_of_maps`], [`blocks`] | arrays of maps; the pins of the maps in them |
//! | [`policy`], [`presence`] | the image in force; its daemon |
//! | [`programs`] | loads the BPF programs |
//! | [`interfaces`], [`counters`], [`observation`] | the interface table; counters; events |
//! | [`bypass`] | emergency bypasses |
//! | [`hook`], [`rtnetlink`], [`loaded`] | hooks; devices and filters; loaded programs |
//! | [`clsact`], [`unpinned`], [`links`] | filters on old kernels; unpinned links; pinned links |
//! | [`pin_guard`], [`attach`] | keeps everything pinned; attaches and detaches programs |
//! | [`redirects`], [`flow_tables`], [`inspect`] | bypasses of the filter; `opb doctor` |
//! | [`replay`] | runs single packets through separate program instances |

mod netlink;
mod sys;
mod link_type;
mod error;
mod memory;
mod own;
mod pins;
mod descriptors;
mod map_of_maps;
mod blocks;
mod policy;
mod presence;
mod programs;
mod interfaces;
mod counters;
mod observation;
mod bypass;
mod hook;
mod rtnetlink;
mod loaded;
mod clsact;
mod unpinned;
mod links;
mod pin_guard;
mod attach;
mod redirects;
mod flow_tables;
mod inspect;
mod replay;

use std::{io, path::Path};

use opb_common::settings::Settings;
use tracing::Level;

pub use attach::{AttachError, Attached};
pub use bypass::{ActiveBypass, BypassError, Bypasses, PinnedBypasses};
pub use counters::CounterRow;
pub use descriptors::descriptors_at_start;
pub use error::Error;
pub use flow_tables::{FlowTable, has_tables as has_nftables};
pub use hook::{Hook, HookDirection, Wanted};
pub use inspect::{Foreign, Inspection, Memory, Need, Offloads};
pub use link_type::{LinkType, Unreadable};
pub use links::Attachment;
pub use observation::{Events, Observations, Statistics};
pub use pin_guard::Repair;
pub use policy::{Live, Staged};
pub use programs::Logs;
pub use redirects::Redirector;
pub use replay::{Replay, ReplayHook};
pub use rtnetlink::{Device, XdpProgram, devices_now, sends_back};
pub use sys::keep_capabilities;

use crate::{
    errors::one_line,
    image::{GroupIds, Image, Overlay},
};
use counters::Counters;
use interfaces::Interfaces;
use pin_guard::PinGuard;
use pins::Pins;
use policy::PolicyMaps;
use presence::Presence;
use programs::{Ports, Programs};

/// The kernel objects of this process. Those that must outlive it are pinned.
pub struct Kernel {
    pins: Pins,
    policy: PolicyMaps,
    programs: Programs,
    counters: Counters,
    interfaces: Interfaces,
    bypasses: Bypasses,
    guard: PinGuard,
    _presence: Presence,
}

/// Whether `pins` can hold what must outlive the daemon, and no other process holds them. Changes
/// nothing.
pub fn check_pins(pins: &Path) -> Result<(), Error> {
    pins::check_bpffs(pins)?;
    Pins::check_lock(pins)
}

impl Kernel {
    /// Opens the pins under `pins`, or makes them. `log` is the level of the programs' debug lines.
    ///
    /// Fails if another process holds them, if the directory is not on a bpffs, or if a pinned map
    /// has another shape than this version's.
    pub fn open(pins: &Path, log: Option<Level>) -> Result<Self, Error> {
        let pins = Pins::open(pins)?;
        let policy = PolicyMaps::open(&pins.policy())?;
        let presence = Presence::new(policy.id()).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Error::Locked { path: pins.policy().policy },
            _ => Error::call("a map that says who is here")(error),
        })?;
        let counters = Counters::open(&pins.counters())?;
        let interfaces = Interfaces::open(&pins.interfaces())?;
        // Before any program is loaded: pins of a version without bypasses lack the map.
        let bypasses = Bypasses::open(&pins.bypass())?;
        observation::open(&pins.observations())?;
        let ports = policy.live()?.map(|live| Ports::of(&live.image)).unwrap_or_default();
        let programs = Programs::new(pins.maps(), ports, log);
        let guard = PinGuard::new(&pins)?;
        Ok(Self {
            pins,
            policy,
            programs,
            counters,
            interfaces,
            bypasses,
            guard,
            _presence: presence,
        })
    }

    /// Pins again what is no longer pinned: until then, the filter would end with this process.
    pub fn repair(&mut self) -> Result<Repair, Error> {
        let repair = self.guard.repair(&mut self.pins)?;
        self.policy.repair();
        Ok(repair)
    }

    /// The policy in force, read back from the kernel.
    pub fn live(&self) -> Result<Option<Live>, Error> {
        self.policy.live()
    }

    /// Writes `image` to the kernel and puts it in force.
    pub fn publish(&mut self, image: &Image) -> Result<(), Error> {
        self.publish_staged(image, Self::stage(image)?)
    }

    /// Puts `image`, which is `staged`, in force in one step.
    ///
    /// The port sets of the programs are only a pre-filter. They first get the ports of both
    /// policies, so they never pass a packet that either policy denies.
    pub fn publish_staged(&mut self, image: &Image, staged: Staged) -> Result<(), Error> {
        let new = Ports::of(image);
        self.programs.set_ports(&self.programs.ports().union(&new))?;
        self.policy.publish(staged)?;
        for lost in self.bypasses.follow(image.group_ids()) {
            tracing::warn!("{} has no group id any more: its bypass ends", lost.line().scope());
        }
        // The image is in force in any case. Too many ports cost time and change no verdict.
        if let Err(error) = self.programs.set_ports(&new) {
            tracing::warn!(%error, "the ports of the policy before stay in the programs' pre-filter");
        }
        Ok(())
    }

    /// Puts an overlay in force, in place of the previous one.
    pub fn publish_overlay(&mut self, overlay: &Overlay) -> Result<(), Error> {
        self.policy.publish_overlay(overlay)
    }

    /// Like [`Self::publish_overlay`], but returns when no program uses the previous overlay any
    /// more. Only then may an image follow that relies on this overlay.
    pub fn publish_overlay_and_wait(&mut self, overlay: &Overlay) -> Result<(), Error> {
        self.policy.publish_overlay_and_wait(overlay)
    }

    /// Writes an image to the kernel without putting it in force: the slow part of a publication,
    /// for any thread.
    pub fn stage(image: &Image) -> Result<Staged, Error> {
        Staged::new(image.nodes())
    }

    /// Puts an image in force that has the same generation and the same meaning as the image in
    /// force with its overlay.
    pub fn replace(&mut self, image: Staged) -> Result<(), Error> {
        self.policy.publish(image)
    }

    /// Loads every program that `rules` can need, so that a new interface waits for nothing but its
    /// attachment. The interfaces of the rules need not exist.
    pub fn preload(&mut self, rules: &[Wanted]) {
        for error in self.programs.preload(rules.iter().flat_map(Wanted::instances)) {
            // An attachment that needs the program reports which interface is not filtered.
            tracing::warn!("a program cannot be loaded in advance: {}", one_line(&error));
        }
    }

    /// Attaches the programs to interfaces. Replaces programs that are there without a gap.
    pub fn attach(&mut self, wanted: &[Wanted]) -> Vec<Result<Attached, AttachError>> {
        for Wanted { interface, index, .. } in wanted {
            self.interfaces.cover(interface, *index);
        }
        let policy = self.policy.id();
        let attach = |wanted| attach::attach(&self.pins, policy, &mut self.programs, wanted);
        let results = wanted.iter().map(attach).collect();
        let indices: Vec<_> = wanted.iter().map(|wanted| wanted.index).collect();
        if let Err(error) = self.guard.follow(&self.pins, &indices) {
            // The programs are attached all the same, and the next attachment tries this again.
            tracing::warn!("links cannot be held: {error}");
        }
        results
    }

    /// Whether the program that [`Self::attach`] attached to `hook` for `wanted` is still there.
    /// Cheap enough for every second.
    pub fn is_in_place(&self, wanted: &Wanted, hook: Hook) -> Result<bool, Error> {
        attach::is_in_place(&self.pins, &self.guard, wanted, hook)
    }

    /// Detaches programs of ours from every interface and direction that is not in `wanted`.
    /// Returns a description of each.
    pub fn detach_unwanted(&mut self, wanted: &[Wanted]) -> Result<Vec<String>, Error> {
        let removed = attach::detach_all_but(&self.pins, wanted);
        self.guard.follow(&self.pins, &[])?;
        removed
    }

    /// The emergency bypasses.
    #[must_use]
    pub fn bypasses(&self) -> &Bypasses {
        &self.bypasses
    }

    /// All counters since the pins were made, by group, without rows of zero.
    #[must_use]
    pub fn counters(&self, groups: &GroupIds) -> Vec<CounterRow> {
        self.counters.by_group(groups)
    }

    /// Resets the counters of the groups with these ids, which counted for groups of other names
    /// before.
    pub fn reset_counters(&self, groups: &[u16]) {
        if !groups.is_empty() {
            self.counters.reset(groups);
        }
    }

    /// All counters since the pins were made, by interface, without rows of zero.
    #[must_use]
    pub fn interface_counters(&self) -> Vec<CounterRow> {
        self.counters.by_interface(&self.interfaces)
    }

    /// Sets whether programs record denied packets, and whether with addresses. Holds for programs
    /// that are attached from now on.
    pub fn set_observation(&mut self, settings: Settings) {
        self.programs.also = settings;
    }

    /// What the programs recorded. Each event can be read once, so there must be one reader.
    pub fn observations(&self) -> Result<Observations, Error> {
        Observations::open(&self.pins.observations())
    }

    /// The sources of debug lines of the programs that were loaded since the last call.
    pub fn logs(&mut self) -> Result<Vec<Logs>, Error> {
        self.programs.logs()
    }
}

/// Parses `bytes` as messages of netlink with nested attributes, for `fuzz/`.
#[cfg(fuzzing)]
pub fn read_netlink(bytes: &[u8]) {
    netlink::walk(bytes);
}

/// Removes every program, link, map and pin of ours under `pins`, and unpinned links on interfaces
/// of this network namespace. No daemon may be running. Returns a description of each.
pub fn detach(pins: &Path) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    if let Some(pins) = Pins::open_existing(pins)? {
        removed.extend(attach::detach_all_but(&pins, &[])?);
        removed.extend(pins.remove()?);
    }
    removed.extend(attach::detach_unpinned()?);
    Ok(removed)
}
