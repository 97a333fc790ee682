//! Programs of ours on interfaces that no pin of ours leads to: those of a daemon that is dead and had other pins, or whose
//! pins somebody removed while something else held the links. They would go on enforcing a policy that nobody can change.

use std::os::fd::{AsFd, OwnedFd};

use aya::{
    maps::MapInfo,
    programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_links, loaded_programs},
};

use super::{
    Error,
    presence::has_daemon,
    programs::{TC_PROGRAM, XDP_PROGRAM},
    survey, sys,
};

/// Name of the map by which programs of ours are told apart: one for each pin directory.
pub(super) const POLICY_MAP: &std::ffi::CStr = c"opb_policy";

/// Where a program may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Site {
    Xdp { is_generic: bool },
    Tcx(TcAttachType),
}

/// The link of a program of ours at a place of an interface of this network namespace. Not one of the links `pinned` (by id),
/// and not one that another process looks after. `policy` is the policy map of this process, if it has one.
pub(super) fn find(
    interface: &str,
    index: u32,
    site: Site,
    pinned: impl FnOnce() -> Result<Vec<u32>, Error>,
    policy: Option<u32>,
) -> Result<Option<OwnedFd>, Error> {
    let ours = programs(interface, index, site)?;
    let orphans = ours.into_iter().filter(|program| {
        policy_of(program).is_some_and(|its| Some(its) == policy || !has_daemon(its))
    });
    let orphans: Vec<u32> = orphans.map(|program| program.id()).collect();
    if orphans.is_empty() {
        return Ok(None);
    }
    let pinned = pinned()?;
    // A link that ends meanwhile is none.
    let links = loaded_links().flatten().filter(|link| orphans.contains(&link.program_id()));
    for link in links.filter(|link| !pinned.contains(&link.id())) {
        let Ok(link) = sys::open_link(link.id()) else { continue };
        if sys::link_target(link.as_fd()).is_ok_and(|target| target.interface == index) {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// The programs at a place that have a name of ours.
fn programs(interface: &str, index: u32, site: Site) -> Result<Vec<ProgramInfo>, Error> {
    let named = |program: &ProgramInfo, name| program.name_as_str() == Some(name);
    Ok(match site {
        Site::Xdp { is_generic } => {
            let found = survey::xdp_program(index).map_err(Error::call("to say what is on XDP"))?;
            let Some(found) = found.filter(|found| found.is_generic == is_generic) else {
                return Ok(Vec::new());
            };
            let mut programs = loaded_programs().flatten();
            let program = programs.find(|program| program.id() == found.id);
            program.filter(|program| named(program, XDP_PROGRAM)).into_iter().collect()
        }
        // Before 6.6 there is no TCX to ask about.
        Site::Tcx(side) => match SchedClassifier::query_tcx(interface, side) {
            Ok((_, programs)) => {
                programs.into_iter().filter(|program| named(program, TC_PROGRAM)).collect()
            }
            Err(_) => Vec::new(),
        },
    })
}

/// The policy map that a program uses.
fn policy_of(program: &ProgramInfo) -> Option<u32> {
    let maps = program.map_ids().ok().flatten()?.into_iter();
    let mut maps = maps.filter_map(|id| MapInfo::from_id(id).ok());
    maps.find(|map| map.name() == POLICY_MAP.to_bytes()).map(|map| map.id())
}
