//! The interfaces of the node file: whether each is covered, and what could hide packets from the
//! program.

use super::{
    Check, Doctor, Findings,
    Level::{Note, Problem},
};
use crate::{
    kernel::{Attachment, Device, Error, Hook, Wanted},
    node::{self, Filter, NamePattern, Role},
};

impl Doctor<'_> {
    pub(super) fn interfaces(&self, found: &mut Findings) -> Result<(), Error> {
        for name in &self.plan.missing {
            found.add(
                (Check::Interface, Problem),
                name,
                "the interface does not exist",
                "if the interface has another name, it is not filtered",
                "correct the name in the node file, or create the interface; a pattern such as \
                 ppp* may match none",
            );
        }
        for interface in &self.config.interfaces {
            let NamePattern::Glob(pattern) = &interface.name else { continue };
            if !self.inspection.devices.iter().any(|device| pattern.matches(&device.name)) {
                found.add(
                    (Check::Interface, Note),
                    pattern.as_str(),
                    "no interface matches this pattern now",
                    "interfaces that appear later are covered then",
                    "none, if no session is up",
                );
            }
        }
        self.open_door(found);
        // Only its pin tells whose a program is: without pins, the filter itself would be foreign.
        let are_pins_visible = self.inspection.pins.is_none();
        for wanted in &self.plan.wanted {
            let ours = self.inspection.attachment(wanted);
            let device = self.inspection.device(wanted.index);
            if let Some(Err(unreadable)) = device.map(|device| &device.link) {
                // Even with a program attached, it would read no packet.
                let consequence =
                    "opb cannot read its packets and does not attach: its mail passes unfiltered";
                let (seen, action) = (unreadable.to_string(), unreadable.hint());
                found.add(
                    (Check::Interface, Problem),
                    &wanted.interface,
                    seen,
                    consequence,
                    action,
                );
            } else if !are_pins_visible {
                found.add(
                    (Check::Interface, Note),
                    &wanted.interface,
                    "without the pins, nobody can tell whether a program here belongs to opb",
                    "this check is left out",
                    "run the doctor where the daemon runs (same mount namespace)",
                );
            } else if ours.is_none() {
                self.uncovered(wanted, found);
            }
            if are_pins_visible {
                self.foreign(wanted, ours, found)?;
            }
            if let Some(device) = device {
                self.offloads(wanted, ours, device, found);
            }
        }
        Ok(())
    }

    /// Notes patterns without a second filter: packets of a new interface pass until the daemon
    /// covers it, unless a core interface filters them too.
    fn open_door(&self, found: &mut Findings) {
        let patterns = self.config.interfaces.iter().filter(|interface| {
            matches!(interface.name, NamePattern::Glob(_)) && interface.role == Role::Subscriber
        });
        for pattern in patterns {
            let core =
                |filters: fn(&Filter) -> bool| {
                    filters(&pattern.filter)
                        && !self.config.interfaces.iter().any(|interface| {
                            interface.role == Role::Core && filters(&interface.filter)
                        })
                };
            let open = [
                ("upstream", core(|filter| filter.upstream)),
                ("downstream", core(|filter| filter.downstream)),
            ];
            for (direction, _) in open.into_iter().filter(|(_, is_open)| *is_open) {
                found.add(
                    (Check::Interface, Note),
                    pattern.name.as_str(),
                    format!(
                        "interfaces of this pattern come and go, and no core interface \
                         filters {direction}"
                    ),
                    "packets of a new interface pass until it is covered (about a millisecond); \
                     with `match: syn` a connection opened in that time is never filtered",
                    format!(
                        "filter {direction} on the core interfaces as well: `role: core, \
                         filter: [{direction}]`"
                    ),
                );
            }
        }
    }

    fn uncovered(&self, wanted: &Wanted, found: &mut Findings) {
        let direction = wanted.direction.name();
        let name = &wanted.interface;
        let pinned = self
            .inspection
            .ours
            .iter()
            .find(|ours| (ours.index, ours.direction) == (wanted.index, wanted.direction));
        let problems = self.daemon.map_or(&[][..], |status| &status.problems);
        let of_it = problems.iter().find(|trouble| {
            trouble.interface.as_deref() == Some(name.as_str())
                && trouble.direction.as_deref() == Some(direction)
        });
        let reason = of_it.and_then(|trouble| trouble.cause.as_deref());
        let (seen, action) = match (pinned, reason) {
            (_, Some(reason)) => (reason.to_owned(), "remove the cause"),
            (Some(Attachment { hook, .. }), None) => (
                format!(
                    "the {direction} program of opb was detached from its {} hook",
                    hook.name()
                ),
                "find out what detached it (`bpftool link`, `tc filter`); a restart of the daemon \
                 attaches it again",
            ),
            (None, None) => (
                format!("no {direction} program of opb is attached"),
                "start the daemon, or read its log",
            ),
        };
        let consequence = format!("{direction} mail passes unfiltered");
        found.add((Check::Interface, Problem), name, seen, consequence, action);
    }

    fn foreign(
        &self,
        wanted: &Wanted,
        ours: Option<&Attachment>,
        found: &mut Findings,
    ) -> Result<(), Error> {
        for foreign in self.inspection.foreign(wanted)? {
            let seen =
                format!("{}, which does not belong to opb, runs on {}", foreign.what, foreign.hook);
            let xdp = matches!(wanted.hook, node::Hook::Xdp | node::Hook::XdpGeneric);
            let (consequence, action) = match ours {
                None if xdp => (
                    "the hook is occupied, and opb does not replace the program: the interface is \
                     not filtered",
                    "use `hook: tc`, which works beside it, or detach the program",
                ),
                _ => (
                    "it sees packets before opb: packets that it accepts, redirects or sends \
                     bypass the filter",
                    "if it only counts or drops packets, use --accept foreign; otherwise detach it",
                ),
            };
            found.add((Check::Foreign, Problem), &wanted.interface, seen, consequence, action);
        }
        Ok(())
    }

    fn offloads(
        &self,
        wanted: &Wanted,
        ours: Option<&Attachment>,
        device: &Device,
        found: &mut Findings,
    ) {
        let name = &wanted.interface;
        if !wanted.is_ingress() {
            return;
        }
        // Devices without driver features, such as ppp, have no offloads.
        let Ok(offloads) = device.offloads() else { return };
        let hook = ours.map(|ours| ours.hook);
        if hook == Some(Hook::Xdp) && device.kind.as_deref() == Some("veth") {
            found.add(
                (Check::Interface, Note),
                name,
                "native XDP on a veth",
                "when the device goes down, its driver passes the packets in its queue without \
                 the program: measured under a flood, less than one SYN in a hundred times",
                "none if the device stays up; otherwise `hook: xdp-generic` or `hook: tc`",
            );
        }
        if hook == Some(Hook::Xdp) && wanted.loses_resets {
            found.add(
                (Check::Interface, Problem),
                name,
                "native XDP on a veth whose other end has no native XDP program",
                "the resets of `action: reject` do not arrive: such packets are dropped, and \
                 counted as `drop`",
                "`hook: auto` or `hook: tc`",
            );
        }
        let on_xdp = matches!(hook, Some(Hook::Xdp | Hook::XdpGeneric));
        if on_xdp && offloads.rx_vlan {
            let vlans = self.inspection.devices.iter().filter(|other| {
                other.below == Some(device.index) && other.kind.as_deref() == Some("vlan")
            });
            let seen = match vlans.count() {
                0 => "rx-vlan-offload is on: the outermost VLAN tag is removed from the frame \
                      before XDP"
                    .to_owned(),
                count => format!(
                    "rx-vlan-offload is on, with {count} VLAN devices above: the outermost tag is \
                     removed from the frame before XDP"
                ),
            };
            // Generic XDP sends back the socket buffer, which keeps the tag in its metadata.
            let (level, consequence) = if self.needs.resets && hook == Some(Hook::Xdp) {
                (
                    Problem,
                    "filtering is not affected, but the resets of `action: reject` go back \
                     without the tag and do not arrive",
                )
            } else {
                (Note, "no effect on filtering")
            };
            let action = format!("ethtool -K {name} rxvlan off, or `hook: tc`");
            found.add((Check::RxVlan, level), name, seen, consequence, action);
        }
        if offloads.lro {
            let consequence = "the device merges packets before XDP and TC: they are filtered and \
                               counted as one and cannot be forwarded unchanged; many drivers \
                               refuse native XDP";
            let action = format!("ethtool -K {name} lro off");
            let seen = "large-receive-offload is on";
            found.add((Check::Lro, Problem), name, seen, consequence, action);
        }
        if offloads.gro_hw && hook != Some(Hook::Xdp) {
            let consequence =
                "merged packets are filtered and counted as one; some drivers refuse native XDP";
            let action = format!("ethtool -K {name} rx-gro-hw off");
            let seen = "rx-gro-hw is on";
            found.add((Check::Lro, Note), name, seen, consequence, action);
        }
    }
}
