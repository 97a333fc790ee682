//! What outlives a daemon, and what does not: `opb run` and `opb detach` on a line, from outside.

mod doctor;
mod hooks;
mod kept;
mod node;
mod policies;
mod restart;
mod service;
mod user;
