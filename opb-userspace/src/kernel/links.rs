//! Pinned links: one pin for each program on a hook, named after the hook and the interface.
//!
//! A filter on clsact is not a link and cannot be pinned. Its program is pinned instead.

use std::{
    fmt, fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::programs::links::Link as _;
use opb_common::outcome::Direction;

use super::{
    Error, clsact,
    hook::{Hook, HookDirection, Wanted},
    pins::Pins,
    rtnetlink::Device,
    sys,
    unpinned::LinkHook,
};

/// The name of a link, which is also the file name of its pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkName {
    pub(super) hook: Hook,
    pub(super) direction: Direction,
    /// Does not follow from `direction`: a core interface has the opposite.
    pub(super) hook_direction: HookDirection,
    pub(super) index: u32,
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hook, direction, hook_direction, index } = self;
        // No dots: bpffs reserves them.
        write!(f, "{}~{}~{}~{index}", hook.name(), direction.name(), hook_direction.name())
    }
}

impl LinkName {
    pub(super) fn of(wanted: &Wanted, hook: Hook) -> Self {
        let (hook_direction, index) = (wanted.hook_direction(), wanted.index);
        Self { hook, direction: wanted.direction, hook_direction, index }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('~');
        let hook = parts.next()?;
        let direction = parts.next()?;
        let hook_direction = parts.next()?;
        Some(Self {
            hook: Hook::ALL.into_iter().find(|known| known.name() == hook)?,
            direction: Direction::ALL.into_iter().find(|known| known.name() == direction)?,
            hook_direction: HookDirection::ALL
                .into_iter()
                .find(|known| known.name() == hook_direction)?,
            index: parts.next()?.parse().ok()?,
        })
    }

    /// The hook on which an unpinned link of that name would be. `None` for clsact, which has no
    /// links.
    pub(super) fn link_hook(&self) -> Option<LinkHook> {
        match (self.hook, self.hook_direction) {
            (Hook::Xdp, HookDirection::Ingress) => Some(LinkHook::Xdp { is_generic: false }),
            (Hook::XdpGeneric, HookDirection::Ingress) => Some(LinkHook::Xdp { is_generic: true }),
            (Hook::Tcx, direction) => Some(LinkHook::Tcx(direction.tc_type())),
            _ => None,
        }
    }

    pub(super) fn path(&self, pins: &Pins) -> PathBuf {
        pins.link(&self.to_string())
    }

    /// What the pinned link is attached to. `None` if there is no such pin, and for clsact.
    pub(super) fn target(&self, pins: &Pins) -> Option<sys::LinkTarget> {
        let link = sys::open_pin(&self.path(pins)).ok()?;
        sys::link_target(link.as_fd()).ok()
    }

    /// Whether a program of ours is on that hook of that interface, by its pin.
    pub(super) fn is_attached(&self, pins: &Pins) -> bool {
        match self.hook {
            Hook::Clsact => self.path(pins).exists(),
            _ => self.target(pins).is_some_and(|target| target.interface == self.index),
        }
    }

    /// Whether the program of a filter on clsact is the pinned one: another tool can put its own in
    /// the same place. True if the pin cannot be read, which is a problem of its own.
    pub(super) fn is_pinned_program(&self, pins: &Pins, program: u32) -> bool {
        sys::pinned_program(&self.path(pins)).map_or(true, |pinned| pinned == program)
    }

    /// Removes the pin of an interface that had the same index before.
    pub(super) fn remove_stale_pin(&self, pins: &Pins) -> Result<(), Error> {
        let path = self.path(pins);
        if path.exists() {
            fs::remove_file(&path).map_err(Error::path("remove", &path))?;
        }
        Ok(())
    }

    /// Detaches the program and removes its pin. `interface` is the name of the interface, if it
    /// still exists.
    pub(super) fn remove(&self, pins: &Pins, interface: Option<&str>) -> Result<(), Error> {
        let path = self.path(pins);
        match self.hook {
            Hook::Clsact => {
                // It is no error if there is no such filter any more.
                let filter = interface.map(|interface| {
                    clsact::filter(interface, self.hook_direction, self.direction)?.detach()
                });
                drop(filter);
            }
            _ => {
                let link = sys::open_pin(&path).map_err(Error::path("open", &path))?;
                match sys::detach_link(link.as_fd()) {
                    // The interface is gone, and the attachment with it.
                    Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                    other => other.map_err(Error::call("to detach a link"))?,
                }
            }
        }
        fs::remove_file(&path).map_err(Error::path("remove", &path))
    }
}

/// A pinned program of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub hook: Hook,
    pub direction: Direction,
    pub index: u32,
    /// The id of the program, if it is still on its hook.
    pub program: Option<u32>,
}

/// Every program of ours that is pinned below `pins`. Takes no lock.
pub(super) fn attachments(pins: &Path, devices: &[Device]) -> Result<Vec<Attachment>, Error> {
    let mut attachments = Vec::new();
    for path in Pins::peek(pins)? {
        let name = path.file_name().and_then(|name| LinkName::parse(name.to_str()?));
        let Some(LinkName { hook, direction, hook_direction, index }) = name else { continue };
        let is_there = devices.iter().any(|device| device.index == index);
        let program = match hook {
            Hook::Clsact if is_there => {
                let found = clsact::program(index, hook_direction, direction)?;
                let pinned = sys::pinned_program(&path).ok();
                found.filter(|found| pinned.is_none_or(|pinned| pinned == *found))
            }
            Hook::Clsact => None,
            _ => {
                let link = sys::open_pin(&path).map_err(Error::path("open", &path))?;
                let target = sys::link_target(link.as_fd()).map_err(Error::path("read", &path))?;
                (target.interface == index).then_some(target.program)
            }
        };
        attachments.push(Attachment { hook, direction, index, program });
    }
    Ok(attachments)
}
