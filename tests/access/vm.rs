//! From the ground up: the net, the hooks, and then one form of access after another.

mod net;
#[path = "../wire/line.rs"]
mod line;

mod doctor;
mod hooks;
mod links;
mod nat;
mod nic;
mod node;
mod ppp;
mod softwires;
mod status;
mod tunnels;
mod wccp;
