//! Maps of maps, looked at from outside.

use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{ArrayOfMaps, Map, MapData, MapError};

/// The maps that are in the slots of the array of maps at `pin`.
pub fn filled(pin: &Path) -> Result<Vec<MapData>> {
    let slots = ArrayOfMaps::try_from(Map::ArrayOfMaps(MapData::from_pin(pin)?))?;
    let found = (0..slots.len()).filter_map(|slot| match slots.get(&slot, 0) {
        Err(MapError::KeyNotFound) => None,
        found => Some(found),
    });
    found.collect::<Result<_, _>>().with_context(|| format!("the slots of {}", pin.display()))
}
