//! Where a program can stand on an interface, and what is wanted there.

use aya::programs::TcAttachType;
use opb_common::{outcome::Direction, settings::Settings};
use serde::Serialize;

use super::{link_type::LinkType, programs::Kind};
use crate::node::{Hook as HookChoice, Role};

/// The hook that a program is on.
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

    /// Whether no interface can have programs on both.
    pub(super) fn excludes(self, other: Self) -> bool {
        self != other && self.kind() == Kind::Xdp && other.kind() == Kind::Xdp
    }

    /// The hooks to try, best first.
    pub(super) fn candidates(choice: HookChoice, side: Side) -> &'static [Self] {
        match choice {
            HookChoice::Clsact => &[Self::Clsact],
            HookChoice::Tc => &[Self::Tcx, Self::Clsact],
            // There is no XDP on the way out.
            _ if side == Side::Out => &[Self::Tcx, Self::Clsact],
            HookChoice::Auto => &Self::ALL,
            HookChoice::Xdp => &[Self::Xdp],
            HookChoice::XdpGeneric => &[Self::XdpGeneric],
        }
    }
}

/// What shall be filtered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub interface: String,
    pub index: u32,
    pub role: Role,
    pub direction: Direction,
    pub hook: HookChoice,
    /// `unknown-source: drop`.
    pub unknown_drop: bool,
}

impl Wanted {
    /// Subscribers' packets come in on a subscriber interface and leave on a core interface.
    pub(super) fn side(&self) -> Side {
        if (self.role == Role::Subscriber) == (self.direction == Direction::Upstream) {
            Side::In
        } else {
            Side::Out
        }
    }

    /// Whether it is judged as it comes in, and not as it goes out.
    #[must_use]
    pub fn comes_in(&self) -> bool {
        self.side() == Side::In
    }

    /// What its program is told on `hook`; `bare_ip` where frames of the interface start at the IP header.
    #[must_use]
    pub fn settings(&self, hook: Hook, bare_ip: bool) -> Settings {
        [
            (self.side() == Side::Out, Settings::NO_RESET),
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

    /// Every program that it may come to need, whatever its interface turns out to be.
    pub(super) fn instances(&self) -> impl Iterator<Item = (Kind, Settings)> {
        let hooks = Hook::candidates(self.hook, self.side()).iter();
        hooks.flat_map(|&hook| {
            LinkType::ALL.map(|link| (hook.kind(), self.settings(hook, link == LinkType::BareIp)))
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    In,
    Out,
}

impl Side {
    pub(super) const ALL: [Self; 2] = [Self::In, Self::Out];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }

    pub(super) const fn tc_type(self) -> TcAttachType {
        match self {
            Self::In => TcAttachType::Ingress,
            Self::Out => TcAttachType::Egress,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reset can be sent back where a packet comes in, and nowhere else.
    #[test]
    fn what_goes_out_is_not_answered() {
        for role in [Role::Subscriber, Role::Core] {
            for direction in Direction::ALL {
                let wanted = Wanted {
                    interface: "a".to_owned(),
                    index: 1,
                    role,
                    direction,
                    hook: HookChoice::Auto,
                    unknown_drop: false,
                };
                for hook in Hook::ALL {
                    let is_silent = wanted.settings(hook, false).has(Settings::NO_RESET);
                    let comes_in = (role == Role::Subscriber) == (direction == Direction::Upstream);
                    assert_eq!(is_silent, !comes_in, "{wanted:?} on {hook:?}");
                }
            }
        }
    }
}
