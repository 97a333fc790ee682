//! Programs that the kernel has loaded, by anybody: found by their ids, and named for messages.

use aya::programs::{ProgramInfo, loaded_programs};

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
    format!("program `{}` (id {})", program.name_as_str().unwrap_or_default(), program.id())
}
