//! Constants and port sets of a program instance.

/// Number of TCP ports: a [`PortSet`] has one bit for each.
pub const PORTS: usize = 65536;

/// Constants of one program instance, as a bit set.
///
/// They are in `.rodata`. The verifier treats them as constants and removes branches that the
/// instance never takes, so an unused feature costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Settings(pub u32);

impl Settings {
    /// Judge packets that travel towards the subscriber.
    pub const DOWNSTREAM: Self = Self(1);
    /// Frames start at the IP header (ppp and tun devices).
    pub const BARE_IP: Self = Self(1 << 1);
    /// Drop relevant upstream packets from addresses in no group (`unknown-source: drop`).
    pub const UNKNOWN_DROP: Self = Self(1 << 2);
    /// The interface leads to subscribers: drop frames with too many VLAN tags.
    pub const SUBSCRIBER: Self = Self(1 << 3);
    /// Store the outcome of each packet where `opb replay` reads it.
    pub const TRACE: Self = Self(1 << 4);

    /// The hook cannot send packets back: drop instead of rejecting with a TCP reset.
    pub const NO_RESET: Self = Self(1 << 5);
    /// The packet is a socket buffer, whose checksum may be incomplete (generic XDP, TC).
    pub const SOCKET_BUFFER: Self = Self(1 << 6);

    /// Record events and talkers for denied packets.
    pub const OBSERVE: Self = Self(1 << 16);
    /// Record events without addresses, and therefore no talkers.
    pub const NO_ADDRESSES: Self = Self(1 << 17);

    /// Returns whether every bit of `other` is set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the union of both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A set of TCP ports: bit `port & 7` of byte `port >> 3`.
pub type PortSet = [u8; PORTS / 8];

/// Returns whether `port` is in `set`.
#[inline(always)]
#[must_use]
pub fn port_in(set: &PortSet, port: u16) -> bool {
    set[usize::from(port >> 3)] >> (port & 7) & 1 != 0
}

/// The writable data section of a program instance. The fast path reads it without a map lookup.
///
/// The port sets are only a pre-filter: the image alone decides which ports a group filters. While
/// a new policy is published, they hold the ports of both policies.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Control {
    /// Always 0, and read as volatile: see [`crate::frame::Frame::opaque`].
    pub zero: u64,
    /// Destination ports that some group filters upstream.
    pub upstream: PortSet,
    /// Source ports that some group filters downstream.
    pub downstream: PortSet,
}

const _: () = assert!(size_of::<Control>() == 8 + 2 * PORTS / 8);
