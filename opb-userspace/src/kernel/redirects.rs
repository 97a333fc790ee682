//! Programs of others that may send packets out by an interface past its egress hook. XDP's redirect hands a frame to the
//! driver; TC's goes through the queueing discipline, and meets TC egress like any other packet.

use std::os::fd::AsFd;

use aya::maps::{MapInfo, MapType};
use aya::programs::loaded_programs;

use super::survey::{self, Device};
use super::sys;

/// An XDP program of somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirector {
    pub interface: String,
    /// What names the program.
    pub what: String,
    /// The interfaces that stand in its device maps.
    pub into: Vec<u32>,
}

/// Those on any of `devices`, but for programs that are `ours`.
pub(super) fn find(devices: &[Device], ours: &[u32]) -> Vec<Redirector> {
    let foreign = devices.iter().filter_map(|device| Some((device, device.xdp?.id)));
    let foreign = foreign.filter(|(_, program)| !ours.contains(program));
    foreign
        .map(|(device, program)| Redirector {
            interface: device.name.clone(),
            what: survey::program(program),
            into: targets(program),
        })
        .collect()
}

/// What stands in the device maps of a program. Of a map that is gone or cannot be read, nothing.
fn targets(program: u32) -> Vec<u32> {
    let program = loaded_programs().flatten().find(|loaded| loaded.id() == program);
    let maps = program.and_then(|program| program.map_ids().ok().flatten()).unwrap_or_default();
    let is_of_devices = |id: &u32| {
        let kind = MapInfo::from_id(*id).and_then(|map| map.map_type());
        matches!(kind, Ok(MapType::DevMap | MapType::DevMapHash))
    };
    let maps = maps.into_iter().filter(is_of_devices);
    let words = maps.filter_map(|id| sys::first_words(sys::open_map(id).ok()?.as_fd()).ok());
    words.flatten().collect()
}
