//! Kernels that operators run, and the access networks in front of them: with the kernel's own devices, and real
//! sessions through them.
//!
//! For the virtual machines of `cargo xtask vm` alone: few hosts have the devices. Everything is in `vm`, by which the
//! lanes tell these tests from others.

/// From the ground up: the net, the hooks, and then one form of access after another.
mod vm {
    mod net;

    mod doctor;
    mod hooks;
    mod links;
    mod nat;
    mod nic;
    mod ppp;
    mod softwires;
    mod status;
    mod tunnels;
    mod wccp;
}
