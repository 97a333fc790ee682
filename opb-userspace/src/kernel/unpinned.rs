//! Unpinned links: programs of ours on interfaces that no pin leads to. A dead daemon had other
//! pins, or its pins were removed while another process held the links. Left alone, they enforce a
//! policy that nobody can change.

use std::os::fd::{AsFd, OwnedFd};

use aya::{
    maps::MapInfo,
    programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_links},
};

use super::{
    Error, loaded,
    policy::POLICY_MAP,
    presence::has_daemon,
    programs::{TC_PROGRAM, XDP_PROGRAM},
    rtnetlink, sys,
};

/// A hook whose attachments are links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkHook {
    Xdp { is_generic: bool },
    Tcx(TcAttachType),
}

/// An unpinned link of ours on a hook of an interface in this network namespace. `pinned` returns
/// the ids of pinned links. Links whose policy map belongs to another running daemon are skipped;
/// `policy` is the id of this process's policy map, if it has one.
pub(super) fn find(
    interface: &str,
    index: u32,
    hook: LinkHook,
    pinned: impl FnOnce() -> Result<Vec<u32>, Error>,
    policy: Option<u32>,
) -> Result<Option<OwnedFd>, Error> {
    let ours = programs(interface, index, hook)?;
    let unattended = ours.into_iter().filter(|program| {
        policy_of(program).is_some_and(|its| Some(its) == policy || !has_daemon(its))
    });
    let unattended: Vec<u32> = unattended.map(|program| program.id()).collect();
    if unattended.is_empty() {
        return Ok(None);
    }
    let pinned = pinned()?;
    // Links that end meanwhile are skipped.
    let links = loaded_links().flatten().filter(|link| unattended.contains(&link.program_id()));
    for link in links.filter(|link| !pinned.contains(&link.id())) {
        let Ok(link) = sys::open_link(link.id()) else { continue };
        if sys::link_target(link.as_fd()).is_ok_and(|target| target.interface == index) {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// The programs on a hook whose name is ours.
fn programs(interface: &str, index: u32, hook: LinkHook) -> Result<Vec<ProgramInfo>, Error> {
    let named = |program: &ProgramInfo, name| program.name_as_str() == Some(name);
    Ok(match hook {
        LinkHook::Xdp { is_generic } => {
            let found =
                rtnetlink::xdp_program(index).map_err(Error::call("to say what is on XDP"))?;
            let Some(found) = found.filter(|found| found.is_generic == is_generic) else {
                return Ok(Vec::new());
            };
            let program = loaded::find(found.id);
            program.filter(|program| named(program, XDP_PROGRAM)).into_iter().collect()
        }
        // Before 6.6 there is no TCX to ask about.
        LinkHook::Tcx(direction) => match SchedClassifier::query_tcx(interface, direction) {
            Ok((_, programs)) => {
                programs.into_iter().filter(|program| named(program, TC_PROGRAM)).collect()
            }
            Err(_) => Vec::new(),
        },
    })
}

/// The id of the policy map that a program uses.
fn policy_of(program: &ProgramInfo) -> Option<u32> {
    let maps = program.map_ids().ok().flatten()?.into_iter();
    let mut maps = maps.filter_map(|id| MapInfo::from_id(id).ok());
    maps.find(|map| map.name() == POLICY_MAP.to_bytes()).map(|map| map.id())
}
