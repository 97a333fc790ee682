//! What outlives a daemon, and what does not: `opb run` and `opb detach` on a line, from outside.

#[path = "lifecycle/doctor.rs"]
mod doctor;
#[path = "lifecycle/hooks.rs"]
mod hooks;
#[path = "lifecycle/kept.rs"]
mod kept;
#[path = "lifecycle/node.rs"]
mod node;
#[path = "lifecycle/policies.rs"]
mod policies;
#[path = "lifecycle/restart.rs"]
mod restart;
