//! Reading the counters.

use std::path::Path;

use aya::maps::{Map, MapData, MapType, PerCpuArray};
use aya_obj::generated::bpf_map_type;
use opb_common::outcome::{COUNTERS, Counter, Direction, Outcome, Reason, Verdict};
use serde::Serialize;

use super::{
    Error, pins,
    sys::{self, MapShape},
};
use crate::image::Slots;

/// Packets and bytes with one outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CounterRow {
    /// `None` for packets that no group can be told for.
    pub group: Option<String>,
    pub direction: &'static str,
    pub verdict: &'static str,
    pub reason: &'static str,
    pub packets: u64,
    pub bytes: u64,
}

/// Makes the counters if there are none; they outlive programs and policies.
pub(super) fn open(path: &Path) -> Result<(), Error> {
    let shape = MapShape {
        kind: bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY,
        value_size: size_of::<Counter>() as u32,
        entries: COUNTERS,
        flags: 0,
    };
    let create = || sys::create_map(c"opb_counters", &shape, None);
    pins::open_or_create(path, MapType::PerCpuArray, &shape, create).map(drop)
}

/// All rows that are not zero.
pub(super) fn read(path: &Path, slots: &Slots) -> Result<Vec<CounterRow>, Error> {
    let map: PerCpuArray<_, [u64; 2]> = Map::PerCpuArray(MapData::from_pin(path)?).try_into()?;
    let mut rows = Vec::new();
    let groups = slots.iter().map(|(name, slot)| (Some(name), slot));
    for (name, group) in std::iter::once((None, 0)).chain(groups) {
        for direction in Direction::ALL {
            for verdict in Verdict::ALL {
                for &reason in Reason::ALL {
                    let index = Outcome { verdict, reason, group }.counter(direction);
                    let [packets, bytes] = map
                        .get(&index, 0)?
                        .iter()
                        .fold([0; 2], |sum, cpu| [sum[0] + cpu[0], sum[1] + cpu[1]]);
                    if packets > 0 {
                        rows.push(CounterRow {
                            group: name.map(str::to_owned),
                            direction: direction.name(),
                            verdict: verdict.name(),
                            reason: reason.name(),
                            packets,
                            bytes,
                        });
                    }
                }
            }
        }
    }
    Ok(rows)
}
