//! The hooks of an interface, and what the node file wants there.

use aya::programs::TcAttachType;
use opb_common::{outcome::Direction, settings::Settings};
use serde::Serialize;

use super::{link_type::LinkType, programs::Kind};
use crate::node::{Hook as HookChoice, Role};

/// A hook of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    Xdp,
    XdpGeneric,
    Tcx,
    Clsact,
}

impl Hook {
    pub(super) const ALL: [Self; 4] = [Self::Xdp, Self::XdpGeneric, Self::Tcx, Self::Clsact];

    /// The name in status and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }

    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::Xdp | Self::XdpGeneric => Kind::Xdp,
            Self::Tcx | Self::Clsact => Kind::Tc,
        }
    }

    /// Whether an interface cannot have programs on both.
    pub(super) fn excludes(self, other: Self) -> bool {
        self != other && self.kind() == Kind::Xdp && other.kind() == Kind::Xdp
    }

    /// The hooks to try, best first.
    fn candidates(choice: HookChoice, direction: HookDirection) -> &'static [Self] {
        match choice {
            HookChoice::Clsact => &[Self::Clsact],
            HookChoice::Tc => &[Self::Tcx, Self::Clsact],
            // There is no XDP on the way out.
            _ if direction == HookDirection::Egress => &[Self::Tcx, Self::Clsact],
            HookChoice::Auto => &Self::ALL,
            HookChoice::Xdp => &[Self::Xdp],
            HookChoice::XdpGeneric => &[Self::XdpGeneric],
        }
    }
}

/// A program that the node file wants on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub interface: String,
    pub index: u32,
    pub role: Role,
    /// The rule that it enforces.
    pub direction: Direction,
    pub hook: HookChoice,
    /// `unknown-source: drop`.
    pub unknown_drop: bool,
    /// Some group rejects, and resets that native XDP sends back here are lost.
    pub loses_resets: bool,
}

impl Wanted {
    /// Upstream packets come in on a subscriber interface, and go out on a core interface.
    #[must_use]
    pub fn hook_direction(&self) -> HookDirection {
        if (self.role == Role::Subscriber) == (self.direction == Direction::Upstream) {
            HookDirection::Ingress
        } else {
            HookDirection::Egress
        }
    }

    /// The hooks to try, best first.
    pub(super) fn candidates(&self) -> &'static [Hook] {
        if self.loses_resets && self.hook == HookChoice::Auto {
            return &[Hook::Tcx, Hook::Clsact];
        }
        Hook::candidates(self.hook, self.hook_direction())
    }

    /// Why the program sends no resets on `hook`, or is there to send them. `None`: as usual.
    pub(super) fn reset_warning(&self, hook: Hook) -> Option<String> {
        const WHY: &str = "the other end of this veth has no native XDP program and loses the \
                           resets that XDP sends";
        match (self.hook, hook) {
            _ if !self.loses_resets => None,
            (_, Hook::Xdp) => Some(format!(
                "{WHY}: packets of groups with `action: reject` are dropped, and counted as \
                 `drop`; `hook: auto` or `hook: tc` sends resets"
            )),
            (HookChoice::Auto, hook) => Some(format!(
                "{} instead of xdp: {WHY}; packets are judged after the driver and taps: correct, \
                 but slower under a flood",
                hook.name()
            )),
            _ => None,
        }
    }

    /// Whether packets are judged as they come in, rather than as they go out.
    #[must_use]
    pub fn is_ingress(&self) -> bool {
        self.hook_direction() == HookDirection::Ingress
    }

    /// The settings of its program on `hook`. `bare_ip`: frames of the interface start at the IP
    /// header.
    #[must_use]
    pub fn settings(&self, hook: Hook, bare_ip: bool) -> Settings {
        [
            (!self.is_ingress() || self.loses_resets && hook == Hook::Xdp, Settings::NO_RESET),
            (hook != Hook::Xdp, Settings::SOCKET_BUFFER),
            (self.direction == Direction::Downstream, Settings::DOWNSTREAM),
            (bare_ip, Settings::BARE_IP),
            (self.unknown_drop, Settings::UNKNOWN_DROP),
            (self.role == Role::Subscriber, Settings::SUBSCRIBER),
        ]
        .into_iter()
        .filter(|&(set, _)| set)
        .fold(Settings::default(), |settings, (_, setting)| settings.with(setting))
    }

    /// Every program that it can need, of whatever link type its interface is.
    pub(super) fn instances(&self) -> impl Iterator<Item = (Kind, Settings)> {
        let hooks = self.candidates().iter();
        hooks.flat_map(|&hook| {
            LinkType::ALL.map(|link| (hook.kind(), self.settings(hook, link == LinkType::BareIp)))
        })
    }
}

/// Whether a hook sees packets that come in or that go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookDirection {
    Ingress,
    Egress,
}

impl HookDirection {
    pub(super) const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The name in pins.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "in",
            Self::Egress => "out",
        }
    }

    pub(super) const fn tc_type(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reset can be sent only by the interface through which the packet came in.
    #[test]
    fn egress_programs_send_no_reset() {
        for role in [Role::Subscriber, Role::Core] {
            for direction in Direction::ALL {
                let wanted = Wanted {
                    interface: "a".to_owned(),
                    index: 1,
                    role,
                    direction,
                    hook: HookChoice::Auto,
                    unknown_drop: false,
                    loses_resets: false,
                };
                for hook in Hook::ALL {
                    let is_silent = wanted.settings(hook, false).has(Settings::NO_RESET);
                    let is_ingress =
                        (role == Role::Subscriber) == (direction == Direction::Upstream);
                    assert_eq!(is_silent, !is_ingress, "{wanted:?} on {hook:?}");
                }
            }
        }
    }
}
