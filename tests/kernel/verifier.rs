//! What this kernel's verifier makes of the programs, with every setting that an interface can give them.

use opb_common::{outcome::Direction, settings::Settings};
use opb_userspace::{
    kernel::{Hook, Replay, ReplayHook, Wanted},
    node::{self, Role},
};

use crate::judges::{HOOKS, image};

/// A tenth of the million at which the kernel gives up: the next compiler, or the next line in the parser, must have room.
const MOST: u32 = 100_000;

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn the_verifier_has_room() {
    let image = image();
    let every = every_setting();
    assert!(every.len() > 60, "only {} settings", every.len());
    for hook in HOOKS {
        let (mut most, mut least) = (0, u32::MAX);
        for &(_, settings) in every.iter().filter(|(at, _)| *at == hook) {
            let program = Replay::new(&image, settings, hook);
            let mut program = program.unwrap_or_else(|e| panic!("{hook:?} {settings:?}: {e:?}"));
            let count = program.verified_instructions().expect("the kernel tells");
            let count = count.expect("since Linux 5.16");
            assert!(count <= MOST, "{hook:?} {settings:?}: {count} instructions verified");
            (most, least) = (most.max(count), least.min(count));
        }
        println!("fact: verified instructions, {hook:?} | {least} to {most}");
    }
}

/// Hook and settings of every program that can be put on an interface, and what the node file says of its events.
fn every_setting() -> Vec<(ReplayHook, Settings)> {
    let mut every = Vec::new();
    let observation =
        [Settings(0), Settings::OBSERVE, Settings::OBSERVE.with(Settings::NO_ADDRESSES)];
    for role in [Role::Subscriber, Role::Core] {
        for direction in Direction::ALL {
            let is_ingress = (role == Role::Subscriber) == (direction == Direction::Upstream);
            for hook in [Hook::Xdp, Hook::XdpGeneric, Hook::Tcx] {
                if hook != Hook::Tcx && !is_ingress {
                    continue;
                }
                // Devices without a link header have drivers without XDP.
                let bare = if hook == Hook::Xdp { &[false][..] } else { &[false, true] };
                let at = if hook == Hook::Tcx { ReplayHook::Tc } else { ReplayHook::Xdp };
                for (&bare_ip, unknown_drop) in
                    bare.iter().flat_map(|bare| [(bare, false), (bare, true)])
                {
                    let wanted = Wanted {
                        interface: String::new(),
                        index: 0,
                        role,
                        direction,
                        hook: node::Hook::Auto,
                        unknown_drop,
                        loses_resets: false,
                    };
                    let settings = wanted.settings(hook, bare_ip);
                    every.extend(observation.map(|observed| (at, settings.with(observed))));
                }
            }
        }
    }
    every
}
