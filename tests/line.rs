//! The programs on real interfaces, and real frames through them.

#[path = "line/entries.rs"]
mod entries;
#[path = "line/gate.rs"]
mod gate;
#[path = "line/reject.rs"]
mod reject;
#[path = "line/roles.rs"]
mod roles;
#[path = "line/swap.rs"]
mod swap;
#[path = "line/table.rs"]
mod table;
