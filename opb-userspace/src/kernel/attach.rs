//! Programs on interfaces: which hook, how a program is replaced, how it is taken off.
//!
//! A program is never detached and attached again: a new one takes the place of the old by link update (or
//! filter replacement, on clsact), and links are pinned, so that no process has to live for them.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, Xdp, XdpMode,
    links::{FdLink, Link as _, LinkError, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions},
    xdp::XdpLink,
};
use aya::sys::SyscallError;
use nix::net::if_::if_nameindex;
use opb_common::{outcome::Direction, settings::Settings};
use serde::Serialize;

use super::{
    Error, clsact,
    held::Held,
    hook::{Hook, Side, Wanted},
    link_type::LinkType,
    orphans::{self, Site},
    pins::Pins,
    programs::{Kind, Programs},
    survey::{self, Device, Place},
    sys,
};

/// What is filtered.
#[derive(Clone, Debug, Serialize)]
pub struct Attached {
    pub interface: String,
    pub index: u32,
    pub direction: &'static str,
    pub hook: Hook,
    /// What its program takes frames to start with.
    #[serde(skip)]
    pub link: LinkType,
    /// Why it is not the hook that was asked for first, and what that means.
    pub warning: Option<String>,
}

/// What should be filtered and is not.
#[derive(Debug)]
pub struct Refused {
    pub wanted: Wanted,
    pub error: Error,
}

/// Identifies one pinned link, and is its file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LinkName {
    hook: Hook,
    direction: Direction,
    /// Not to be told by the direction: on a core interface it is the other side.
    side: Side,
    index: u32,
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hook, direction, side, index } = self;
        // No dots: bpffs reserves them.
        write!(f, "{}~{}~{}~{index}", hook.name(), direction.name(), side.name())
    }
}

impl LinkName {
    fn of(wanted: &Wanted, hook: Hook) -> Self {
        let (side, index) = (wanted.side(), wanted.index);
        Self { hook, direction: wanted.direction, side, index }
    }

    /// Where such a link can be looked for. Filters on clsact have none.
    fn site(&self) -> Option<Site> {
        match (self.hook, self.side) {
            (Hook::Xdp, Side::In) => Some(Site::Xdp { is_generic: false }),
            (Hook::XdpGeneric, Side::In) => Some(Site::Xdp { is_generic: true }),
            (Hook::Tcx, side) => Some(Site::Tcx(side.tc_type())),
            _ => None,
        }
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('~');
        let hook = parts.next()?;
        let direction = parts.next()?;
        let side = parts.next()?;
        Some(Self {
            hook: Hook::ALL.into_iter().find(|known| known.name() == hook)?,
            direction: Direction::ALL.into_iter().find(|known| known.name() == direction)?,
            side: Side::ALL.into_iter().find(|known| known.name() == side)?,
            index: parts.next()?.parse().ok()?,
        })
    }
}

/// Puts the program for `wanted` on its interface, or in the place of the one of ours that is there.
///
/// `policy` is the policy map of this process.
pub(super) fn attach(
    pins: &Pins,
    policy: u32,
    programs: &mut Programs,
    wanted: &Wanted,
) -> Result<Attached, Refused> {
    let result = adopt(pins, policy, wanted)
        .and_then(|()| link_type(wanted))
        .and_then(|link| try_hooks(pins, programs, wanted, link));
    result.map_err(|error| Refused { wanted: wanted.clone(), error })
}

/// What frames of the interface start with.
fn link_type(wanted: &Wanted) -> Result<LinkType, Error> {
    let interface = || wanted.interface.clone();
    let device = survey::device_of(wanted.index);
    let device = device.map_err(|source| Error::Interface { interface: interface(), source })?;
    device.link.map_err(|source| Error::LinkType { interface: interface(), source })
}

/// Pins links of ours that no pin leads to where the program for `wanted` would stand: from then on they are like any other.
fn adopt(pins: &Pins, policy: u32, wanted: &Wanted) -> Result<(), Error> {
    for hook in Hook::ALL {
        let name = LinkName::of(wanted, hook);
        let Some(site) = name.site().filter(|_| !is_attached(pins, name)) else { continue };
        let pinned = || -> Result<Vec<u32>, Error> {
            let names = pins.links()?.into_iter().filter_map(|name| LinkName::parse(&name));
            let names = names.filter(|name| name.index == wanted.index);
            Ok(names.filter_map(|name| Some(target(pins, name)?.id)).collect())
        };
        let interface = &wanted.interface;
        let link = orphans::find(interface, wanted.index, site, pinned, Some(policy))?;
        let Some(link) = link else { continue };
        let path = pins.link(&name.to_string());
        if path.exists() {
            // Of an interface that had this number before.
            fs::remove_file(&path).map_err(Error::path("remove", &path))?;
        }
        sys::pin(link.as_fd(), &path).map_err(Error::path("pin", &path))?;
        tracing::warn!("{interface}: {} has a program of ours without a pin; adopted", hook.name());
    }
    Ok(())
}

/// Takes programs of ours that no pin leads to off all interfaces of this network namespace. Says which.
pub(super) fn detach_orphans() -> Result<Vec<String>, Error> {
    let names =
        if_nameindex().map_err(io::Error::from).map_err(Error::call("to list interfaces"))?;
    let mut removed = Vec::new();
    for interface in &names {
        let text = interface.name().to_string_lossy();
        for (hook, side) in Hook::ALL.into_iter().flat_map(|hook| Side::ALL.map(|it| (hook, it))) {
            // The direction is not to be seen, and does not matter.
            let name =
                LinkName { hook, side, direction: Direction::Upstream, index: interface.index() };
            let Some(site) = name.site() else { continue };
            if let Some(link) = orphans::find(&text, name.index, site, || Ok(Vec::new()), None)? {
                sys::detach_link(link.as_fd()).map_err(Error::call("to detach a link"))?;
                removed.push(format!("{} program without a pin, {text}", hook.name()));
            }
        }
    }
    Ok(removed)
}

fn try_hooks(
    pins: &Pins,
    programs: &mut Programs,
    wanted: &Wanted,
    link: LinkType,
) -> Result<Attached, Error> {
    let candidates = Hook::candidates(wanted.hook, wanted.side());
    let name = |hook| LinkName::of(wanted, hook);
    let attached = |hook, warning| Attached {
        interface: wanted.interface.clone(),
        index: wanted.index,
        direction: wanted.direction.name(),
        hook,
        link,
        warning,
    };
    let mut ours: Vec<Hook> =
        Hook::ALL.into_iter().filter(|&hook| is_attached(pins, name(hook))).collect();

    let mut refusals: Vec<(Hook, Error)> = Vec::new();
    for &hook in candidates {
        // A program of ours stays on the hook that it has, if that is one of those asked for.
        if let Some(&present) = ours.iter().find(|present| candidates.contains(present))
            && present != hook
        {
            continue;
        }
        let mut put_on = |hook, present| {
            let settings = wanted.settings(hook, link == LinkType::BareIp);
            put(pins, programs, wanted, settings, name(hook), present)
        };
        // The kernel has no room for native and generic XDP at a time: TC stands in while they change places.
        if let Some(rival) = ours.iter().position(|present| hook.excludes(*present)) {
            if !ours.iter().any(|present| present.kind() == Kind::Tc) {
                let tcx = put_on(Hook::Tcx, false).map(|()| Hook::Tcx);
                ours.push(tcx.or_else(|_| put_on(Hook::Clsact, false).map(|()| Hook::Clsact))?);
            }
            remove(pins, name(ours.swap_remove(rival)), Some(&wanted.interface))?;
        }
        match put_on(hook, ours.contains(&hook)) {
            Ok(()) => {
                // Only now, so that one of the two is always there.
                for &other in ours.iter().filter(|&&other| other != hook) {
                    remove(pins, name(other), Some(&wanted.interface))?;
                }
                return Ok(attached(hook, fall_back(hook, &refusals)));
            }
            Err(error) => refusals.push((hook, error)),
        }
    }
    // The most telling refusal is that of the hook that was wanted most.
    Err(refusals.into_iter().next().map_or_else(
        || Error::call("an attachment")(io::ErrorKind::Unsupported.into()),
        |(_, error)| error,
    ))
}

/// Says what a hook that was not the first choice means.
fn fall_back(hook: Hook, refusals: &[(Hook, Error)]) -> Option<String> {
    let (first, error) = refusals.first()?;
    let consequence = match hook {
        Hook::Xdp => "no difference for packets",
        Hook::XdpGeneric => {
            "packets are judged after the driver has built them: correct, but slower under a flood"
        }
        Hook::Tcx => {
            "packets are judged after the driver and taps: correct, but slower under a flood"
        }
        Hook::Clsact => {
            "kernel before 6.6: the filter is no pinned link, other tools can remove it unnoticed"
        }
    };
    Some(format!("{} instead of {}: {}; {consequence}", hook.name(), first.name(), chain(error)))
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    std::iter::once(error.to_string())
        .chain(causes.map(ToString::to_string))
        .collect::<Vec<_>>()
        .join(": ")
}

/// Attaches or replaces at one hook.
fn put(
    pins: &Pins,
    programs: &mut Programs,
    wanted: &Wanted,
    settings: Settings,
    name: LinkName,
    present: bool,
) -> Result<(), Error> {
    let instance = programs.get(name.hook.kind(), settings)?;
    let program = instance.name();
    let failed = |source| refusal(source, wanted, name.hook, program);
    let path = pins.link(&name.to_string());
    if !present && path.exists() {
        // Of an interface that had this number before.
        fs::remove_file(&path).map_err(Error::path("remove", &path))?;
    }
    match name.hook {
        Hook::Xdp | Hook::XdpGeneric => {
            let xdp = instance.xdp()?;
            if present {
                let link = pinned(&path)?;
                let link = XdpLink::try_from(link).map_err(|_| failed(ProgramError::NotLoaded))?;
                xdp.attach_to_link(link).map_err(failed)?;
            } else {
                let mode = if name.hook == Hook::Xdp { XdpMode::Driver } else { XdpMode::Skb };
                let link = attach_xdp(xdp, wanted.index, mode).map_err(failed)?;
                link.pin(&path)?;
            }
        }
        Hook::Tcx => {
            let tc = instance.tc()?;
            if present {
                let link = pinned(&path)?;
                let link = SchedClassifierLink::try_from(link)
                    .map_err(|_| failed(ProgramError::NotLoaded))?;
                tc.attach_to_link(link).map_err(failed)?;
            } else {
                let link = attach_tcx(tc, wanted).map_err(failed)?;
                link.pin(&path)?;
            }
        }
        Hook::Clsact => {
            let tc = instance.tc()?;
            clsact::attach(tc, wanted).map_err(failed)?;
            // A filter cannot be pinned; its program stands for it.
            if present {
                fs::remove_file(&path).map_err(Error::path("remove", &path))?;
            }
            tc.pin(&path)?;
        }
    }
    Ok(())
}

fn pinned(path: &Path) -> Result<FdLink, Error> {
    let link = PinnedLink::from_pin(path)
        .map_err(|error| Error::path("open", path)(io::Error::other(error)))?;
    Ok(FdLink::from(link))
}

fn attach_xdp(program: &mut Xdp, index: u32, mode: XdpMode) -> Result<FdLink, ProgramError> {
    let id = program.attach_to_if_index(index, mode)?;
    // On EINVAL aya falls back to netlink, and such an attachment cannot be pinned: it is taken off again.
    FdLink::try_from(program.take_link(id)?).map_err(no_link)
}

fn attach_tcx(program: &mut SchedClassifier, wanted: &Wanted) -> Result<FdLink, ProgramError> {
    // First, so that no other program on the hook lets something through before us.
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(&wanted.interface, wanted.side().tc_type(), order)?;
    FdLink::try_from(program.take_link(id)?).map_err(no_link)
}

fn no_link(error: LinkError) -> ProgramError {
    ProgramError::SyscallError(SyscallError {
        call: "bpf_link_create",
        io_error: io::Error::other(error),
    })
}

/// Whether a program of ours is on that hook of that interface.
fn is_attached(pins: &Pins, name: LinkName) -> bool {
    match name.hook {
        Hook::Clsact => pins.link(&name.to_string()).exists(),
        _ => target(pins, name).is_some_and(|target| target.interface == name.index),
    }
}

fn target(pins: &Pins, name: LinkName) -> Option<sys::LinkTarget> {
    let link = sys::open_pin(&pins.link(&name.to_string())).ok()?;
    sys::link_target(link.as_fd()).ok()
}

/// Whether the program for `wanted` is still on `hook`, by what the kernel says.
pub(super) fn is_in_place(held: &Held, wanted: &Wanted, hook: Hook) -> Result<bool, Error> {
    let name = LinkName::of(wanted, hook);
    match hook {
        Hook::Clsact => Ok(clsact::program(name.index, name.side, name.direction)?.is_some()),
        _ => held.is_attached(&name.to_string(), wanted.index),
    }
}

/// Every program of ours that is pinned below `pins`, and whether it is still on its hook.
pub(super) fn places(pins: &Path, devices: &[Device]) -> Result<Vec<Place>, Error> {
    let mut places = Vec::new();
    for path in Pins::peek(pins)? {
        let name = path.file_name().and_then(|name| LinkName::parse(name.to_str()?));
        let Some(name) = name else { continue };
        let is_there = devices.iter().any(|device| device.index == name.index);
        let program = match name.hook {
            Hook::Clsact if is_there => clsact::program(name.index, name.side, name.direction)?,
            Hook::Clsact => None,
            _ => {
                let link = sys::open_pin(&path).map_err(Error::path("open", &path))?;
                let target = sys::link_target(link.as_fd()).map_err(Error::path("read", &path))?;
                (target.interface == name.index).then_some(target.program)
            }
        };
        let LinkName { hook, direction, index, .. } = name;
        places.push(Place { hook, direction, index, program });
    }
    Ok(places)
}

/// Takes the program off, and removes its pin.
fn remove(pins: &Pins, name: LinkName, interface: Option<&str>) -> Result<(), Error> {
    let path = pins.link(&name.to_string());
    match name.hook {
        Hook::Clsact => {
            // Nothing to remove is what is wanted.
            let filter = interface
                .map(|interface| clsact::filter(interface, name.side, name.direction)?.detach());
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

/// Takes every program of ours off that `wanted` does not name. Says which.
pub(super) fn detach_all_but(pins: &Pins, wanted: &[Wanted]) -> Result<Vec<String>, Error> {
    let names =
        if_nameindex().map_err(io::Error::from).map_err(Error::call("to list interfaces"))?;
    let interface_name = |index| {
        let found = names.iter().find(|interface| interface.index() == index);
        found.map(|interface| interface.name().to_string_lossy().into_owned())
    };
    let mut removed = Vec::new();
    for link in pins.links()? {
        let Some(name) = LinkName::parse(&link) else { continue };
        if wanted.iter().any(|wanted| LinkName::of(wanted, name.hook) == name) {
            continue;
        }
        let interface = interface_name(name.index);
        remove(pins, name, interface.as_deref())?;
        let interface = interface.unwrap_or_else(|| format!("interface {} (gone)", name.index));
        removed.push(format!(
            "{} program, {}, {interface}",
            name.hook.name(),
            name.direction.name()
        ));
    }
    Ok(removed)
}

/// What the kernel's refusal means.
fn refusal(source: ProgramError, wanted: &Wanted, hook: Hook, program: &'static str) -> Error {
    let code = match &source {
        ProgramError::SyscallError(call) => call.io_error.raw_os_error(),
        _ => None,
    };
    match (hook, code) {
        (Hook::Xdp | Hook::XdpGeneric, Some(libc::EBUSY | libc::EEXIST)) => Error::Occupied {
            interface: wanted.interface.clone(),
            hook: "XDP",
            owner: xdp_owner(wanted.index),
        },
        _ => Error::Attach {
            interface: wanted.interface.clone(),
            hook: hook.name(),
            program,
            source: Box::new(source),
        },
    }
}

/// Names the program on the XDP hook of an interface.
fn xdp_owner(index: u32) -> String {
    let Ok(Some(found)) = survey::xdp_program(index) else { return "another program".into() };
    survey::program(found.id)
}
