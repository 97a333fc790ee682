//! Attaching programs to interfaces, replacing them and detaching them.
//!
//! A program is never detached and attached again: a new one replaces the old one by link update
//! (on clsact, by filter replacement). Links are pinned, so they outlive the process.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, Xdp, XdpMode,
    links::{FdLink, LinkError, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions},
    xdp::XdpLink,
};
use aya::sys::SyscallError;
use nix::net::if_::if_nameindex;
use opb_common::{outcome::Direction, settings::Settings};
use serde::Serialize;

use super::{
    Error, clsact,
    hook::{Hook, HookDirection, Wanted},
    link_type::LinkType,
    links::LinkName,
    loaded,
    pin_guard::PinGuard,
    pins::Pins,
    programs::{Kind, Programs},
    rtnetlink, sys, unpinned,
};
use crate::errors::one_line;

/// An attached program.
#[derive(Clone, Debug, Serialize)]
pub struct Attached {
    pub interface: String,
    pub index: u32,
    pub direction: &'static str,
    pub hook: Hook,
    /// The link type that its program expects.
    #[serde(skip)]
    pub link: LinkType,
    /// Why it is not on the preferred hook, and what that means.
    pub warning: Option<String>,
}

/// A program that could not be attached. Its interface is not filtered in that direction.
#[derive(Debug)]
pub struct AttachError {
    pub wanted: Wanted,
    pub error: Error,
}

/// Attaches the program for `wanted`, or replaces the program of ours that is there.
///
/// `policy` is the id of this process's policy map.
pub(super) fn attach(
    pins: &Pins,
    policy: u32,
    programs: &mut Programs,
    wanted: &Wanted,
) -> Result<Attached, AttachError> {
    let result = adopt(pins, policy, wanted)
        .and_then(|()| link_type(wanted))
        .and_then(|link| try_hooks(pins, programs, wanted, link));
    result.map_err(|error| AttachError { wanted: wanted.clone(), error })
}

/// The link type of the interface.
fn link_type(wanted: &Wanted) -> Result<LinkType, Error> {
    let interface = || wanted.interface.clone();
    let device = rtnetlink::device_of(wanted.index);
    let device = device.map_err(|source| Error::Interface { interface: interface(), source })?;
    device.link.map_err(|source| Error::LinkType { interface: interface(), source })
}

/// Pins unpinned links of ours on the hooks that `wanted` may use. From then on they are like any
/// other link.
fn adopt(pins: &Pins, policy: u32, wanted: &Wanted) -> Result<(), Error> {
    for hook in Hook::ALL {
        let name = LinkName::of(wanted, hook);
        let Some(hook) = name.link_hook().filter(|_| !name.is_attached(pins)) else { continue };
        let pinned = || -> Result<Vec<u32>, Error> {
            let names = pins.links()?.into_iter().filter_map(|name| LinkName::parse(&name));
            let names = names.filter(|name| name.index == wanted.index);
            Ok(names.filter_map(|name| Some(name.target(pins)?.id)).collect())
        };
        let interface = &wanted.interface;
        let link = unpinned::find(interface, wanted.index, hook, pinned, Some(policy))?;
        let Some(link) = link else { continue };
        name.remove_stale_pin(pins)?;
        let path = name.path(pins);
        sys::pin(link.as_fd(), &path).map_err(Error::path("pin", &path))?;
        tracing::warn!(
            "{interface}: {} has a program of ours without a pin; adopted",
            name.hook.name()
        );
    }
    Ok(())
}

/// Detaches unpinned programs of ours from all interfaces of this network namespace. Returns a
/// description of each.
pub(super) fn detach_unpinned() -> Result<Vec<String>, Error> {
    let names =
        if_nameindex().map_err(io::Error::from).map_err(Error::call("to list interfaces"))?;
    let mut removed = Vec::new();
    for interface in &names {
        let text = interface.name().to_string_lossy();
        let hooks = Hook::ALL.into_iter();
        for (hook, hook_direction) in
            hooks.flat_map(|hook| HookDirection::ALL.map(|direction| (hook, direction)))
        {
            // The direction of the rule cannot be seen, and does not matter.
            let (direction, index) = (Direction::Upstream, interface.index());
            let name = LinkName { hook, direction, hook_direction, index };
            let Some(link_hook) = name.link_hook() else { continue };
            if let Some(link) = unpinned::find(&text, index, link_hook, || Ok(Vec::new()), None)? {
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
    let candidates = Hook::candidates(wanted.hook, wanted.hook_direction());
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
        Hook::ALL.into_iter().filter(|&hook| name(hook).is_attached(pins)).collect();

    let mut failures: Vec<(Hook, Error)> = Vec::new();
    for &hook in candidates {
        // A program of ours stays on its hook, if that is one of the candidates.
        if let Some(&present) = ours.iter().find(|present| candidates.contains(present))
            && present != hook
        {
            continue;
        }
        let mut put_on = |hook, present| {
            let settings = wanted.settings(hook, link == LinkType::BareIp);
            put(pins, programs, wanted, settings, name(hook), present)
        };
        // An interface cannot have native and generic XDP at once: TC filters while one replaces
        // the other.
        if let Some(rival) = ours.iter().position(|present| hook.excludes(*present)) {
            if !ours.iter().any(|present| present.kind() == Kind::Tc) {
                let tcx = put_on(Hook::Tcx, false).map(|()| Hook::Tcx);
                ours.push(tcx.or_else(|_| put_on(Hook::Clsact, false).map(|()| Hook::Clsact))?);
            }
            name(ours.swap_remove(rival)).remove(pins, Some(&wanted.interface))?;
        }
        match put_on(hook, ours.contains(&hook)) {
            Ok(()) => {
                // Only now, so that at least one of the two is attached at any moment.
                for &other in ours.iter().filter(|&&other| other != hook) {
                    name(other).remove(pins, Some(&wanted.interface))?;
                }
                return Ok(attached(hook, fall_back(hook, candidates, &failures)));
            }
            Err(error) => failures.push((hook, error)),
        }
    }
    // The most useful error is that of the preferred hook.
    Err(failures.into_iter().next().map_or_else(
        || Error::call("an attachment")(io::ErrorKind::Unsupported.into()),
        |(_, error)| error,
    ))
}

/// Says why the program is not on the preferred hook, and what that means. `None` if it is.
fn fall_back(hook: Hook, candidates: &[Hook], failures: &[(Hook, Error)]) -> Option<String> {
    let first = candidates.first().filter(|first| **first != hook)?.name();
    let why = match failures.first() {
        Some((_, error)) => one_line(error),
        None => format!("the program was there before, and stays; `hook: {first}` moves it"),
    };
    let consequence = match hook {
        Hook::Xdp => "no difference for packets",
        Hook::XdpGeneric => {
            "packets are judged after the driver has built them: correct, but slower under a flood"
        }
        Hook::Tcx => {
            "packets are judged after the driver and taps: correct, but slower under a flood"
        }
        Hook::Clsact => {
            "kernel before 6.6: the filter is not a pinned link: other tools can remove it unnoticed"
        }
    };
    Some(format!("{} instead of {first}: {why}; {consequence}", hook.name()))
}

/// Attaches a program to one hook, or replaces ours if it is `present`.
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
    let failed = |source| attach_error(source, wanted, name.hook, program);
    let path = name.path(pins);
    if !present {
        name.remove_stale_pin(pins)?;
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
            // A filter cannot be pinned. Its program is pinned instead.
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
    // On EINVAL aya falls back to netlink. Such an attachment cannot be pinned, and is detached
    // when it is dropped.
    FdLink::try_from(program.take_link(id)?).map_err(no_link)
}

fn attach_tcx(program: &mut SchedClassifier, wanted: &Wanted) -> Result<FdLink, ProgramError> {
    // First, so that no other program on the hook accepts a packet before ours sees it.
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id =
        program.attach_with_options(&wanted.interface, wanted.hook_direction().tc_type(), order)?;
    FdLink::try_from(program.take_link(id)?).map_err(no_link)
}

fn no_link(error: LinkError) -> ProgramError {
    ProgramError::SyscallError(SyscallError {
        call: "bpf_link_create",
        io_error: io::Error::other(error),
    })
}

/// Whether the program for `wanted` is still on `hook`, by what the kernel says.
pub(super) fn is_in_place(
    pins: &Pins,
    guard: &PinGuard,
    wanted: &Wanted,
    hook: Hook,
) -> Result<bool, Error> {
    let name = LinkName::of(wanted, hook);
    match hook {
        Hook::Clsact => {
            let found = clsact::program(name.index, name.hook_direction, name.direction)?;
            Ok(found.is_some_and(|found| name.is_pinned_program(pins, found)))
        }
        _ => guard.is_attached(&name.to_string(), wanted.index),
    }
}

/// Detaches every program of ours that is not in `wanted`. Returns a description of each.
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
        name.remove(pins, interface.as_deref())?;
        let interface = interface.unwrap_or_else(|| format!("interface {} (gone)", name.index));
        removed.push(format!(
            "{} program, {}, {interface}",
            name.hook.name(),
            name.direction.name()
        ));
    }
    Ok(removed)
}

/// The error for a failed attachment: an occupied XDP hook is an error of its own.
fn attach_error(source: ProgramError, wanted: &Wanted, hook: Hook, program: &'static str) -> Error {
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
    match rtnetlink::xdp_program(index) {
        Ok(Some(found)) => loaded::name_of(found.id),
        _ => "another program".into(),
    }
}
