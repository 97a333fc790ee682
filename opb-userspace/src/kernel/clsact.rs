//! Filters on clsact, for kernels without TCX. They cannot be pinned, and are found again by where they stand.

use aya::programs::{
    ProgramError, SchedClassifier,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};
use opb_common::outcome::Direction;

use super::{
    Error,
    hook::{Side, Wanted},
    survey,
};

/// Where our filters stand on a clsact hook: fixed, so that they can be found and replaced.
const PRIORITY: u16 = 25;

/// Of its own for each direction: when an interface changes its role, both stand on one side for a moment.
const fn handle_of(direction: Direction) -> TcHandle {
    match direction {
        Direction::Upstream => TcHandle::new(0, 0x25),
        Direction::Downstream => TcHandle::new(0, 0x26),
    }
}

/// The filter of ours at that place, whether it is there or not.
pub(super) fn filter(
    interface: &str,
    side: Side,
    direction: Direction,
) -> Result<SchedClassifierLink, ProgramError> {
    let handle = handle_of(direction);
    let link = SchedClassifierLink::attached(interface, side.tc_type(), PRIORITY, handle, None);
    Ok(link.map_err(TcError::from)?)
}

/// Puts the program on, or in the place of ours that is there.
pub(super) fn attach(program: &mut SchedClassifier, wanted: &Wanted) -> Result<(), ProgramError> {
    let interface = &wanted.interface;
    let (side, direction) = (wanted.side(), wanted.direction);
    let replace =
        |program: &mut SchedClassifier| program.attach_to_link(filter(interface, side, direction)?);
    let id = replace(program).or_else(|_nothing_to_replace| {
        // The queueing discipline may be there already, for somebody else's filters.
        let _ = tc::qdisc_add_clsact(interface);
        let handle = handle_of(direction);
        let options = NlOptions { priority: PRIORITY, handle, classid: None };
        let options = TcAttachOptions::Netlink(options);
        program.attach_with_options(interface, side.tc_type(), options)
    })?;
    // The filter belongs to the interface, not to this process.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// The program of our filter, if it is where we put it.
pub(super) fn program(index: u32, side: Side, direction: Direction) -> Result<Option<u32>, Error> {
    let handle = u32::from(handle_of(direction));
    let filters = survey::filters(index, side).map_err(Error::call("to list filters"))?;
    let ours =
        |filter: &survey::ClsactFilter| filter.priority == PRIORITY && filter.handle == handle;
    Ok(filters.into_iter().find(ours).and_then(|filter| filter.program))
}
