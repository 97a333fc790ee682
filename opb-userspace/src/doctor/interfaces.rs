//! Each interface that the node file names: whether it is covered, and what could keep packets from the program.

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
                "the node file names it, and it does not exist",
                "what comes in by another name is not filtered",
                "correct the name, or bring the interface up; a pattern such as ppp* may match nothing",
            );
        }
        for interface in &self.config.interfaces {
            let NamePattern::Glob(pattern) = &interface.name else { continue };
            if !self.inspection.devices.iter().any(|device| pattern.matches(&device.name)) {
                found.add(
                    (Check::Interface, Note),
                    pattern.as_str(),
                    "no interface has such a name now",
                    "those that come are covered when they come",
                    "none, if there are no sessions",
                );
            }
        }
        self.open_door(found);
        for wanted in &self.plan.wanted {
            let ours = self.inspection.attachment(wanted);
            let device = self.inspection.device(wanted.index);
            if let Some(Err(unreadable)) = device.map(|device| &device.link) {
                // Also where a program stands on it: it judges nothing.
                let consequence =
                    "opb refuses it: a program would judge nothing; its mail passes unfiltered";
                let (seen, action) = (unreadable.to_string(), unreadable.hint());
                found.add(
                    (Check::Interface, Problem),
                    &wanted.interface,
                    seen,
                    consequence,
                    action,
                );
            } else if ours.is_none() {
                self.uncovered(wanted, found);
            }
            self.foreign(wanted, ours, found)?;
            if let Some(device) = device {
                self.offloads(wanted, ours, device, found);
            }
        }
        Ok(())
    }

    /// Packets of an interface that has just come pass until the daemon has covered it, unless a second filter awaits them.
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
                    format!("interfaces come and go by this pattern, and no core interface filters {direction}"),
                    "what a new interface sends before it is covered (about a millisecond) passes; with `match: syn` \
                     a connection that begins then is never judged again",
                    format!("filter {direction} on the core interfaces too: `role: core, filter: [{direction}]`"),
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
            (_, Some(reason)) => (reason.to_owned(), "take away what the reason names"),
            (Some(Attachment { hook, .. }), None) => (
                format!(
                    "somebody took the {direction} program of opb off its {} hook",
                    hook.name()
                ),
                "find out who (`bpftool link`, `tc filter`); a restart of the daemon puts it on again",
            ),
            (None, None) => (
                format!("it has no {direction} program of opb"),
                "start the daemon, or see its log",
            ),
        };
        let consequence = format!("{direction} mail passes it unfiltered");
        found.add((Check::Interface, Problem), name, seen, consequence, action);
    }

    fn foreign(
        &self,
        wanted: &Wanted,
        ours: Option<&Attachment>,
        found: &mut Findings,
    ) -> Result<(), Error> {
        for foreign in self.inspection.foreign(wanted)? {
            let seen = format!("{} of somebody else stands on {}", foreign.what, foreign.hook);
            let xdp = matches!(wanted.hook, node::Hook::Xdp | node::Hook::XdpGeneric);
            let (consequence, action) = match ours {
                None if xdp => (
                    "opb finds the hook taken and does not replace it: the interface is not filtered",
                    "`hook: tc` coexists, or take the program off",
                ),
                _ => (
                    "it sees packets before opb does: what it accepts, redirects or sends by itself is not judged",
                    "if it only counts or drops, it is harmless: --accept foreign; otherwise take it off",
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
        // Devices without a driver's features (ppp) have none.
        let Ok(offloads) = device.offloads() else { return };
        let hook = ours.map(|ours| ours.hook);
        if hook == Some(Hook::Xdp) && device.kind.as_deref() == Some("veth") {
            found.add(
                (Check::Interface, Note),
                name,
                "native XDP on a veth",
                "while the device goes down, its driver passes what is in its queue at that moment by the program: less \
                 than one SYN in a hundred times, under a flood",
                "none where it stays up; else `hook: xdp-generic` or `hook: tc`",
            );
        }
        let on_xdp = matches!(hook, Some(Hook::Xdp | Hook::XdpGeneric));
        if on_xdp && offloads.rx_vlan {
            let vlans = self.inspection.devices.iter().filter(|other| {
                other.below == Some(device.index) && other.kind.as_deref() == Some("vlan")
            });
            let seen = match vlans.count() {
                0 => "rx-vlan-offload is on: the outermost VLAN tag is taken out of the frame before XDP"
                    .to_owned(),
                count => format!(
                    "rx-vlan-offload is on, with {count} VLAN devices above: the outermost tag is taken out of \
                     the frame before XDP"
                ),
            };
            // Generic XDP sends the socket buffer back, which keeps the tag beside the frame.
            let (level, consequence) = if self.wishes.resets && hook == Some(Hook::Xdp) {
                (
                    Problem,
                    "packets are judged rightly, but the resets of `action: reject` go back without the tag and \
                     do not arrive",
                )
            } else {
                (Note, "packets are judged rightly; one tag less counts towards the limit of eight")
            };
            let action = format!("ethtool -K {name} rxvlan off, or `hook: tc`");
            found.add((Check::RxVlan, level), name, seen, consequence, action);
        }
        if offloads.lro {
            let consequence = "the device merges packets before anybody sees them: they are judged and counted \
                               as one and cannot be forwarded as they came; many drivers refuse native XDP";
            let action = format!("ethtool -K {name} lro off");
            let seen = "large-receive-offload is on";
            found.add((Check::Lro, Problem), name, seen, consequence, action);
        }
        if offloads.gro_hw && hook != Some(Hook::Xdp) {
            let consequence =
                "packets are judged and counted as merged; a driver may refuse native XDP for it";
            let action = format!("ethtool -K {name} rx-gro-hw off");
            let seen = "rx-gro-hw is on";
            found.add((Check::Lro, Note), name, seen, consequence, action);
        }
    }
}
