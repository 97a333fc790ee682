//! The programs on real interfaces, and real frames through them.

mod entries;
mod gate;
mod imported;
mod reject;
mod roles;
mod swap;
mod table;
