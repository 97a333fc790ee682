//! Verdicts, reasons, and the counters that they select.

use crate::interface::MAX_INTERFACES;

/// The decision on a packet.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verdict {
    Pass = 0,
    Drop = 1,
    /// Dropped, and a TCP reset is sent to the source.
    Reject = 2,
    /// Passed, because the group only monitors. Counted separately from [`Verdict::Pass`].
    WouldDrop = 3,
}

impl Verdict {
    pub const ALL: [Self; 4] = [Self::Pass, Self::Drop, Self::Reject, Self::WouldDrop];

    /// Returns the name in counters, metrics, replay and explain.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Reject => "reject",
            Self::WouldDrop => "would-drop",
        }
    }

    /// Returns whether the packet is forwarded.
    #[inline(always)]
    #[must_use]
    pub const fn forwards(self) -> bool {
        matches!(self, Self::Pass | Self::WouldDrop)
    }
}

/// The direction in which a packet travels. It selects the rule.
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

    /// Returns the name in counters and metrics.
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

/// The single list of reasons: meaning, variant, number, name. Counters, metrics, JSON, replay and
/// explain all use it.
macro_rules! reasons {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $value:literal, $name:literal;)+) => {
        /// The reason for a verdict.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[repr(u8)]
        pub enum Reason {
            $(
                $(#[doc = $meaning])+
                #[cfg_attr(feature = "serde", serde(rename = $name))]
                $variant = $value
            ),+
        }

        impl Reason {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Returns the name in counters, metrics, replay and explain.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

// A new reason takes the next number. Numbers do not change: they select pinned counters, which the
// next daemon reads. CONTRIBUTING.md lists what else a reason needs.
reasons! {
    /// Not TCP to (or from) a filtered port: passed unchanged, not counted.
    Other = 0, "other";
    /// The subscriber address is in no group.
    Unknown = 1, "unknown";
    /// An exemption covers the subscriber address.
    Exempt = 2, "exempt";
    /// The group judges only SYNs, and this packet is not one.
    NotSyn = 3, "not-syn";
    /// The other end is a relay of the group.
    Relay = 4, "relay";
    /// The group does not filter this port in this direction.
    NotFiltered = 5, "not-filtered";
    /// No policy is published in the kernel.
    NoPolicy = 6, "no-policy";
    /// TCP to (or from) a filtered port, and the other end is not a relay of the group.
    Policy = 7, "policy";
    /// The destination is a relay, but the packet names further hops: its address is not final.
    SourceRoute = 8, "source-route";
    /// A fragment that hides or can overwrite the TCP header.
    Fragment = 9, "fragment";
    /// An IPv6 header chain that is too long or is cut off.
    Headers = 10, "headers";
    /// A link layer that cannot be read: too many VLAN tags, or multilink or compressed PPP.
    Link = 11, "link";
    /// A length field is false, or the packet is cut off.
    Malformed = 12, "malformed";
    /// The packet would have been denied, but a bypass is active (see [`crate::bypass`]).
    Bypass = 13, "bypass";
}

impl Reason {
    /// Returns the reason with number `index`, if there is one.
    #[must_use]
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| *reason as u32 == index)
    }
}

/// Number of group ids. Id 0 means "no group".
pub const MAX_GROUPS: u32 = 512;

/// A packed outcome and a counter's index have 4 bits for the reason. The numbers have no gaps.
const _: () = {
    assert!(Reason::ALL.len() <= 16);
    let mut index = 0;
    while index < Reason::ALL.len() {
        assert!(Reason::ALL[index] as usize == index);
        index += 1;
    }
};

/// Counters in a counter block: 2 directions × 4 verdicts × 16 reasons.
pub const COUNTERS_PER_BLOCK: u32 = 2 * 4 * 16;

/// Counters of one CPU: a counter block for each group id, then one for each interface's counter
/// id.
///
/// Every judged packet counts in one block of each kind.
pub const COUNTERS_PER_CPU: u32 = (MAX_GROUPS + MAX_INTERFACES) * COUNTERS_PER_BLOCK;

/// A counter of one CPU. Only that CPU writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

const _: () = assert!(size_of::<Counter>() == 16);

/// The address of a packet that names the subscriber's line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Line {
    /// The subscriber's address in the judged packet: the inner one in a tunnel.
    #[default]
    Own = 0,
    /// The address in the outer header of a tunnel.
    Outer = 1,
    /// The IPv4 address inside a 6to4 address (RFC 3056).
    SixToFour = 2,
}

/// The verdict on one packet, with its reason and group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    pub verdict: Verdict,
    pub reason: Reason,
    /// Group id, 0 for none.
    pub group: u16,
    /// The address that named the line, and so the group.
    pub line: Line,
}

impl Outcome {
    /// The outcome for a packet that is not judged.
    pub const OTHER: Self = Self::ungrouped(Verdict::Pass, Reason::Other);

    /// Returns an outcome without a group.
    #[inline(always)]
    #[must_use]
    pub const fn ungrouped(verdict: Verdict, reason: Reason) -> Self {
        Self { verdict, reason, group: 0, line: Line::Own }
    }

    /// Returns the indices of the counters of `cpu` that count the packet: one in its group's
    /// block, one in the block of `interface`, a counter id (see [`crate::interface`]).
    #[inline(always)]
    #[must_use]
    pub const fn counters(self, cpu: u32, interface: u32, direction: Direction) -> [u32; 2] {
        let in_block = (direction as u32) * 64 + (self.verdict as u32) * 16 + self.reason as u32;
        let first = cpu * COUNTERS_PER_CPU + in_block;
        [
            first + self.group as u32 * COUNTERS_PER_BLOCK,
            first + (MAX_GROUPS + interface) * COUNTERS_PER_BLOCK,
        ]
    }

    const LINE_SHIFT: u32 = 12;

    /// Packs the outcome into one scalar, because that is all that a global BPF function can
    /// return.
    ///
    /// | bits | content |
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

    /// Returns the line in a packed outcome.
    #[inline(always)]
    #[must_use]
    pub const fn packed_line(packed: u32) -> Line {
        match packed >> Self::LINE_SHIFT & 3 {
            1 => Line::Outer,
            2 => Line::SixToFour,
            _ => Line::Own,
        }
    }

    /// Returns whether the packet with this packed outcome is forwarded.
    #[inline(always)]
    #[must_use]
    pub const fn packed_forwards(packed: u32) -> bool {
        packed & 0xff == Verdict::Pass as u32 || packed & 0xff == Verdict::WouldDrop as u32
    }

    /// Returns whether a TCP reset is sent for the packet with this packed outcome.
    #[inline(always)]
    #[must_use]
    pub const fn packed_rejects(packed: u32) -> bool {
        packed & 0xff == Verdict::Reject as u32
    }

    /// Reverses [`Outcome::pack`]. Returns `None` for a value that it never returns.
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
