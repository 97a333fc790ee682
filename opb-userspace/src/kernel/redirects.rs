//! Programs of others that may send packets out of an interface without passing its egress hook: a
//! redirect by XDP hands a frame to the driver. A redirect by TC goes through the queueing
//! discipline and meets TC egress like any other packet.

use std::os::fd::AsFd;

use aya::maps::{MapInfo, MapType};

use super::{loaded, rtnetlink::Device, sys};

/// An XDP program of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirector {
    pub interface: String,
    /// The program as messages name it.
    pub what: String,
    /// Indices of the interfaces in its device maps.
    pub into: Vec<u32>,
}

/// XDP programs on `devices`, except those in `ours` (ids).
pub(super) fn find(devices: &[Device], ours: &[u32]) -> Vec<Redirector> {
    let foreign = devices.iter().filter_map(|device| Some((device, device.xdp?.id)));
    let foreign = foreign.filter(|(_, program)| !ours.contains(program));
    foreign
        .map(|(device, program)| Redirector {
            interface: device.name.clone(),
            what: loaded::name_of(program),
            into: targets(program),
        })
        .collect()
}

/// The entries of a program's device maps. A map that is gone or cannot be read has none.
fn targets(program: u32) -> Vec<u32> {
    let maps = loaded::find(program)
        .and_then(|program| program.map_ids().ok().flatten())
        .unwrap_or_default();
    let is_of_devices = |id: &u32| {
        let kind = MapInfo::from_id(*id).and_then(|map| map.map_type());
        matches!(kind, Ok(MapType::DevMap | MapType::DevMapHash))
    };
    let maps = maps.into_iter().filter(is_of_devices);
    let words = maps.filter_map(|id| sys::first_words(sys::open_map(id).ok()?.as_fd()).ok());
    words.flatten().collect()
}
