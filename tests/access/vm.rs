//! From the ground up: the net, the hooks, and then one form of access after another.

mod net;

mod hooks;
mod links;
mod nat;
mod ppp;
mod tunnels;
