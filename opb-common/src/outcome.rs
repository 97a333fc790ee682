//! What a verdict is called, why it was given, and where it is counted.

use crate::interface::MAX_INTERFACES;

/// What happens to a packet.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verdict {
    Pass = 0,
    Drop = 1,
    Reject = 2,
    /// Passed by a group that only monitors; never the same as [`Verdict::Pass`].
    WouldDrop = 3,
}

impl Verdict {
    pub const ALL: [Self; 4] = [Self::Pass, Self::Drop, Self::Reject, Self::WouldDrop];

    /// The name in counters, metrics, replay and explain.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Reject => "reject",
            Self::WouldDrop => "would-drop",
        }
    }

    /// Whether the packet goes on its way.
    #[inline(always)]
    #[must_use]
    pub const fn forwards(self) -> bool {
        matches!(self, Self::Pass | Self::WouldDrop)
    }
}

/// Which way a packet travels: it decides which rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[repr(u8)]
pub enum Direction {
    /// From the subscriber to the internet.
    Upstream = 0,
    /// From the internet to the subscriber.
    Downstream = 1,
}

impl Direction {
    pub const ALL: [Self; 2] = [Self::Upstream, Self::Downstream];

    /// The name in counters and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Downstream => "downstream",
        }
    }
}

macro_rules! display_by_name {
    ($($kind:ty),+) => {
        $(impl core::fmt::Display for $kind {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.name())
            }
        })+
    };
}

display_by_name!(Verdict, Direction, Reason);

/// One list: variant, name, help text. Counters, metrics, replay and explain all take it from here.
macro_rules! reasons {
    ($($(#[doc = $help:literal])+ $variant:ident = $value:literal, $name:literal;)+) => {
        /// Why a packet got its verdict.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
        #[repr(u8)]
        pub enum Reason { $($(#[doc = $help])+ $variant = $value),+ }

        impl Reason {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in counters, metrics, replay and explain.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// What it means, in a sentence for an operator.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($help),+).trim_ascii()),+ }
            }
        }
    };
}

reasons! {
    /// Not TCP to (or from) a filtered port: passed as it came, counted nowhere.
    Other = 0, "other";
    /// The subscriber address is in no group.
    Unknown = 1, "unknown";
    /// An exemption covers the subscriber address.
    Exempt = 2, "exempt";
    /// The group judges only SYNs, and this is none.
    NotSyn = 3, "not-syn";
    /// The other end is a relay of the group.
    Relay = 4, "relay";
    /// The group does not filter this port in this direction.
    NotFiltered = 5, "not-filtered";
    /// No policy is published in the kernel.
    NoPolicy = 6, "no-policy";
    /// TCP to (or from) a filtered port, and the other end is no relay of the group.
    Policy = 7, "policy";
    /// The destination is a relay, but the packet names further hops: its address is not final.
    SourceRoute = 8, "source-route";
    /// A fragment that hides or can overwrite the TCP header.
    Fragment = 9, "fragment";
    /// An IPv6 header chain that is too long or is cut off.
    Headers = 10, "headers";
    /// A link layer that cannot be read: too many VLAN tags, or multilink or compressed PPP.
    Link = 11, "link";
    /// A length field lies, or the packet is cut off.
    Malformed = 12, "malformed";
}

impl Reason {
    /// The reason with that number, if there is one.
    #[must_use]
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| *reason as u32 == index)
    }
}

/// The most groups that a policy may have. Group 0 is "no group".
pub const MAX_GROUPS: u32 = 512;

/// A packed outcome and a counter have 4 bits for the reason.
const _: () = assert!(Reason::ALL.len() <= 16);

/// Counters on one counter block: 2 directions × 4 verdicts × 16 reasons.
pub const COUNTERS_PER_SHEET: u32 = 2 * 4 * 16;

/// Counters of one CPU: a counter block for each group, then one for each interface. Every packet is counted on one of either.
pub const COUNTERS_PER_CPU: u32 = (MAX_GROUPS + MAX_INTERFACES) * COUNTERS_PER_SHEET;

/// One counter of one CPU, which alone writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

const _: () = assert!(size_of::<Counter>() == 16);

/// Which address of a packet names the subscriber's line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Line {
    /// The subscriber's address in the packet that is judged: the inner one of a tunnel.
    #[default]
    Own = 0,
    /// The address in the outer header of a tunnel.
    Outer = 1,
    /// The IPv4 address in a 6to4 address (RFC 3056).
    SixToFour = 2,
}

/// Verdict, reason and group of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    pub verdict: Verdict,
    pub reason: Reason,
    /// Slot of the group, 0 for none.
    pub group: u16,
    /// Which address the group was found by.
    pub line: Line,
}

impl Outcome {
    /// A packet that was not judged.
    pub const OTHER: Self = Self::ungrouped(Verdict::Pass, Reason::Other);

    /// Of a packet that is no subscriber's.
    #[inline(always)]
    #[must_use]
    pub const fn ungrouped(verdict: Verdict, reason: Reason) -> Self {
        Self { verdict, reason, group: 0, line: Line::Own }
    }

    /// Where this CPU counts the packet: on the counter block of its group, and on that of its interface's slot.
    #[inline(always)]
    #[must_use]
    pub const fn counters(self, cpu: u32, interface: u32, direction: Direction) -> [u32; 2] {
        let place = (direction as u32) * 64 + (self.verdict as u32) * 16 + self.reason as u32;
        let first = cpu * COUNTERS_PER_CPU + place;
        [
            first + self.group as u32 * COUNTERS_PER_SHEET,
            first + (MAX_GROUPS + interface) * COUNTERS_PER_SHEET,
        ]
    }

    const LINE_SHIFT: u32 = 12;

    /// As the one scalar that a global BPF function may return.
    ///
    /// | bits | what |
    /// |---|---|
    /// | 0–7 | the verdict |
    /// | 8–11 | the reason |
    /// | 12–13 | the line |
    /// | 16–31 | the group |
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u32 {
        (self.group as u32) << 16
            | (self.line as u32) << Self::LINE_SHIFT
            | (self.reason as u32) << 8
            | self.verdict as u32
    }

    /// The line in a packed outcome.
    #[inline(always)]
    #[must_use]
    pub const fn packed_line(packed: u32) -> Line {
        match packed >> Self::LINE_SHIFT & 3 {
            1 => Line::Outer,
            2 => Line::SixToFour,
            _ => Line::Own,
        }
    }

    /// Whether the packet with that packed outcome goes on its way.
    #[inline(always)]
    #[must_use]
    pub const fn packed_forwards(packed: u32) -> bool {
        packed & 0xff == Verdict::Pass as u32 || packed & 0xff == Verdict::WouldDrop as u32
    }

    /// Whether the packet with that packed outcome is to be answered.
    #[inline(always)]
    #[must_use]
    pub const fn packed_rejects(packed: u32) -> bool {
        packed & 0xff == Verdict::Reject as u32
    }

    /// What [`Outcome::pack`] packed; `None` for a number that it never makes.
    #[must_use]
    pub fn unpack(packed: u32) -> Option<Self> {
        Some(Self {
            verdict: *Verdict::ALL.get((packed & 0xff) as usize)?,
            reason: Reason::from_index(packed >> 8 & 15)?,
            group: (packed >> 16) as u16,
            line: Self::packed_line(packed),
        })
    }
}
