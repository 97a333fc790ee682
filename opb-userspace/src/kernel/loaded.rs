//! Programs that the kernel has loaded, by anybody: found by their ids, and named for messages.

use aya::programs::{ProgramInfo, loaded_programs};

/// The names of the programs of opb.
const OURS: [&str; 2] = ["opb_xdp", "opb_tc"];

/// The program with that id, if it is still loaded.
pub(super) fn find(id: u32) -> Option<ProgramInfo> {
    loaded_programs().flatten().find(|program| program.id() == id)
}

/// A program by its id, as messages name it.
pub(super) fn name_of(id: u32) -> String {
    find(id).map_or_else(|| format!("program {id}"), |program| name(&program))
}

/// A program as messages name it.
pub(super) fn name(program: &ProgramInfo) -> String {
    let name = program.name_as_str().unwrap_or_default();
    // Those of this daemon are known by their pins.
    let whose = if OURS.contains(&name) { " of another opb, which has other `pins`" } else { "" };
    format!("program `{name}` (id {}){whose}", program.id())
}
