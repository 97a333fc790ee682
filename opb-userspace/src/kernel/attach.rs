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
    LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
    links::{FdLink, Link as _, LinkError, PinnedLink},
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
    xdp::XdpLink,
};
use aya::sys::SyscallError;
use nix::net::if_::if_nameindex;
use opb_common::{outcome::Direction, settings::Settings};
use serde::Serialize;

use super::{
    Error,
    held::Held,
    orphans::{self, Site},
    pins::Pins,
    programs::{Kind, Programs},
    survey::{self, Device, Place},
    sys,
};
use crate::node::{Hook as HookChoice, Role};

/// The hook that a program is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    Xdp,
    XdpGeneric,
    Tcx,
    Clsact,
}

impl Hook {
    const ALL: [Self; 4] = [Self::Xdp, Self::XdpGeneric, Self::Tcx, Self::Clsact];

    /// The name in status and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Self::Xdp | Self::XdpGeneric => Kind::Xdp,
            Self::Tcx | Self::Clsact => Kind::Tc,
        }
    }

    /// Whether no interface can have programs on both.
    fn excludes(self, other: Self) -> bool {
        self != other && self.kind() == Kind::Xdp && other.kind() == Kind::Xdp
    }

    /// The hooks to try, best first.
    fn candidates(choice: HookChoice, side: Side) -> &'static [Self] {
        match choice {
            HookChoice::Clsact => &[Self::Clsact],
            HookChoice::Tc => &[Self::Tcx, Self::Clsact],
            // There is no XDP on the way out.
            _ if side == Side::Out => &[Self::Tcx, Self::Clsact],
            HookChoice::Auto => &Self::ALL,
            HookChoice::Xdp => &[Self::Xdp],
            HookChoice::XdpGeneric => &[Self::XdpGeneric],
        }
    }
}

/// What shall be filtered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub interface: String,
    pub index: u32,
    pub role: Role,
    pub direction: Direction,
    pub hook: HookChoice,
    /// `unknown-source: drop`.
    pub unknown_drop: bool,
}

impl Wanted {
    /// Subscribers' packets come in on a subscriber interface and leave on a core interface.
    pub(super) fn side(&self) -> Side {
        if (self.role == Role::Subscriber) == (self.direction == Direction::Upstream) {
            Side::In
        } else {
            Side::Out
        }
    }

    /// Whether it is judged as it comes in, and not as it goes out.
    #[must_use]
    pub fn comes_in(&self) -> bool {
        self.side() == Side::In
    }

    /// The name of the link at `hook`.
    fn link(&self, hook: Hook) -> LinkName {
        LinkName { hook, direction: self.direction, side: self.side(), index: self.index }
    }

    /// What its program is told on `hook`; `bare_ip` where frames of the interface start at the IP header.
    #[must_use]
    pub fn settings(&self, hook: Hook, bare_ip: bool) -> Settings {
        [
            (self.side() == Side::Out, Settings::SILENT),
            (hook != Hook::Xdp, Settings::SOCKET_BUFFER),
            (self.direction == Direction::Downstream, Settings::DOWNSTREAM),
            (bare_ip, Settings::BARE_IP),
            (self.unknown_drop, Settings::UNKNOWN_DROP),
            (self.role == Role::Subscriber, Settings::SUBSCRIBER),
        ]
        .into_iter()
        .filter(|&(set, _)| set)
        .fold(Settings::default(), |settings, (_, setting)| settings.with(setting))
    }
}

/// What is filtered.
#[derive(Clone, Debug, Serialize)]
pub struct Attached {
    pub interface: String,
    pub index: u32,
    pub direction: &'static str,
    pub hook: Hook,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    In,
    Out,
}

impl Side {
    const ALL: [Self; 2] = [Self::In, Self::Out];

    const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }

    pub(super) const fn tc_type(self) -> TcAttachType {
        match self {
            Self::In => TcAttachType::Ingress,
            Self::Out => TcAttachType::Egress,
        }
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hook, direction, side, index } = self;
        // No dots: bpffs reserves them.
        write!(f, "{}~{}~{}~{index}", hook.name(), direction.name(), side.name())
    }
}

impl LinkName {
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
        .and_then(|()| {
            bare_ip(&wanted.interface)
                .map_err(|source| Error::Interface { interface: wanted.interface.clone(), source })
        })
        .and_then(|bare_ip| try_hooks(pins, programs, wanted, bare_ip));
    result.map_err(|error| Refused { wanted: wanted.clone(), error })
}

/// Pins links of ours that no pin leads to where the program for `wanted` would stand: from then on they are like any other.
fn adopt(pins: &Pins, policy: u32, wanted: &Wanted) -> Result<(), Error> {
    for hook in Hook::ALL {
        let name = wanted.link(hook);
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
    bare_ip: bool,
) -> Result<Attached, Error> {
    let candidates = Hook::candidates(wanted.hook, wanted.side());
    let name = |hook| wanted.link(hook);
    let attached = |hook, warning| Attached {
        interface: wanted.interface.clone(),
        index: wanted.index,
        direction: wanted.direction.name(),
        hook,
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
            put(pins, programs, wanted, wanted.settings(hook, bare_ip), name(hook), present)
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
            attach_clsact(tc, wanted).map_err(failed)?;
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

/// Where our filters stand on a clsact hook: fixed, so that they can be found and replaced.
const CLSACT_PRIORITY: u16 = 25;

/// Of its own for each direction: when an interface changes its role, both stand on one side for a moment.
const fn clsact_handle(direction: Direction) -> TcHandle {
    match direction {
        Direction::Upstream => TcHandle::new(0, 0x25),
        Direction::Downstream => TcHandle::new(0, 0x26),
    }
}

/// The filter of ours at that place, whether it is there or not.
fn clsact_filter(
    interface: &str,
    side: Side,
    direction: Direction,
) -> Result<SchedClassifierLink, ProgramError> {
    let handle = clsact_handle(direction);
    let link =
        SchedClassifierLink::attached(interface, side.tc_type(), CLSACT_PRIORITY, handle, None);
    Ok(link.map_err(TcError::from)?)
}

fn attach_clsact(program: &mut SchedClassifier, wanted: &Wanted) -> Result<(), ProgramError> {
    let interface = &wanted.interface;
    let (side, direction) = (wanted.side(), wanted.direction);
    let replace = |program: &mut SchedClassifier| {
        program.attach_to_link(clsact_filter(interface, side, direction)?)
    };
    let id = replace(program).or_else(|_nothing_to_replace| {
        // The queueing discipline may be there already, for somebody else's filters.
        let _ = tc::qdisc_add_clsact(interface);
        let handle = clsact_handle(direction);
        let options = NlOptions { priority: CLSACT_PRIORITY, handle, classid: None };
        let options = TcAttachOptions::Netlink(options);
        program.attach_with_options(interface, side.tc_type(), options)
    })?;
    // The filter belongs to the interface, not to this process.
    std::mem::forget(program.take_link(id)?);
    Ok(())
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
    let name = wanted.link(hook);
    match hook {
        Hook::Clsact => Ok(clsact_program(name)?.is_some()),
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
            Hook::Clsact if is_there => clsact_program(name)?,
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

/// The program of our filter, if it is where we put it.
fn clsact_program(name: LinkName) -> Result<Option<u32>, Error> {
    let handle = u32::from(clsact_handle(name.direction));
    let filters = survey::filters(name.index, name.side).map_err(Error::call("to list filters"))?;
    let ours = |filter: &survey::ClsactFilter| {
        filter.priority == CLSACT_PRIORITY && filter.handle == handle
    };
    Ok(filters.into_iter().find(ours).and_then(|filter| filter.program))
}

/// Takes the program off, and removes its pin.
fn remove(pins: &Pins, name: LinkName, interface: Option<&str>) -> Result<(), Error> {
    let path = pins.link(&name.to_string());
    match name.hook {
        Hook::Clsact => {
            // Nothing to remove is what is wanted.
            let filter = interface
                .map(|interface| clsact_filter(interface, name.side, name.direction)?.detach());
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
        if wanted.iter().any(|wanted| wanted.link(name.hook) == name) {
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

/// Whether frames of the interface start at the IP header.
fn bare_ip(interface: &str) -> io::Result<bool> {
    /// linux/if_arp.h
    const ARPHRD_RAWIP: u16 = 519;
    const WITHOUT_LINK_HEADER: [u16; 7] = [
        libc::ARPHRD_PPP,
        libc::ARPHRD_NONE,
        libc::ARPHRD_TUNNEL,
        libc::ARPHRD_TUNNEL6,
        libc::ARPHRD_SIT,
        libc::ARPHRD_IPGRE,
        ARPHRD_RAWIP,
    ];
    Ok(WITHOUT_LINK_HEADER.contains(&sys::hardware_type(interface)?))
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
