//! Filters on clsact, for kernels without TCX. They cannot be pinned, and are found again by
//! priority and handle.

use aya::programs::{
    ProgramError, SchedClassifier,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};
use opb_common::outcome::Direction;

use super::{
    Error,
    hook::{HookDirection, Wanted},
    rtnetlink::{self, ClsactFilter},
};

/// The priority of our filters. Fixed, so that they can be found and replaced.
const PRIORITY: u16 = 25;

/// One handle a direction: when an interface changes its role, both filters are on the same hook
/// for a moment.
const fn handle_of(direction: Direction) -> TcHandle {
    match direction {
        Direction::Upstream => TcHandle::new(0, 0x25),
        Direction::Downstream => TcHandle::new(0, 0x26),
    }
}

/// Our filter at its fixed place, whether it exists or not.
pub(super) fn filter(
    interface: &str,
    hook_direction: HookDirection,
    direction: Direction,
) -> Result<SchedClassifierLink, ProgramError> {
    let handle = handle_of(direction);
    let link =
        SchedClassifierLink::attached(interface, hook_direction.tc_type(), PRIORITY, handle, None);
    Ok(link.map_err(TcError::from)?)
}

/// Attaches the program, or replaces our filter that is there.
pub(super) fn attach(program: &mut SchedClassifier, wanted: &Wanted) -> Result<(), ProgramError> {
    let interface = &wanted.interface;
    let (hook_direction, direction) = (wanted.hook_direction(), wanted.direction);
    let replace = |program: &mut SchedClassifier| {
        program.attach_to_link(filter(interface, hook_direction, direction)?)
    };
    let id = replace(program).or_else(|_nothing_to_replace| {
        // The queueing discipline may exist already, for filters of others.
        let _ = tc::qdisc_add_clsact(interface);
        let handle = handle_of(direction);
        let options = NlOptions { priority: PRIORITY, handle, classid: None };
        let options = TcAttachOptions::Netlink(options);
        program.attach_with_options(interface, hook_direction.tc_type(), options)
    })?;
    // The filter belongs to the interface, not to this process.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// The program of our filter, if the filter is still there.
pub(super) fn program(
    index: u32,
    hook_direction: HookDirection,
    direction: Direction,
) -> Result<Option<u32>, Error> {
    let handle = u32::from(handle_of(direction));
    let filters =
        rtnetlink::filters(index, hook_direction).map_err(Error::call("to list filters"))?;
    let ours = |filter: &ClsactFilter| filter.priority == PRIORITY && filter.handle == handle;
    Ok(filters.into_iter().find(ours).and_then(|filter| filter.program))
}
