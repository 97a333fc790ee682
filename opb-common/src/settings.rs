//! What a program instance is told when it is loaded.

/// Number of TCP ports there are: one bit each in a [`PortSet`].
pub const PORTS: usize = 65536;

/// Per-instance constants. They sit in `.rodata`, which the verifier takes for constants: what an instance
/// does not need costs it nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Settings(pub u32);

impl Settings {
    /// Judge packets that travel towards the subscriber.
    pub const DOWNSTREAM: Self = Self(1);
    /// Frames start at the IP header: ppp and tun devices.
    pub const BARE_IP: Self = Self(1 << 1);
    /// Drop what would be judged and comes from no group (`unknown-source: drop`).
    pub const UNKNOWN_DROP: Self = Self(1 << 2);
    /// The interface has subscribers behind it: frames with too many VLAN tags are dropped.
    pub const SUBSCRIBER: Self = Self(1 << 3);
    /// Leave the outcome of each packet where `opb replay` reads it.
    pub const TRACE: Self = Self(1 << 4);

    /// The hook cannot send an answer back: what would be rejected is dropped.
    pub const SILENT: Self = Self(1 << 5);
    /// The packet is a socket buffer, whose checksum may still be to come (generic XDP, TC).
    pub const SOCKET_BUFFER: Self = Self(1 << 6);

    /// Write events and talkers of denied packets.
    pub const SIGHT: Self = Self(1 << 16);
    /// Write them without addresses, and so no talkers.
    pub const NAMELESS: Self = Self(1 << 17);

    /// Whether every bit of `other` is set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A set of TCP ports, one bit a port.
pub type PortSet = [u8; PORTS / 8];

/// Whether `port` is in `set`.
#[inline(always)]
#[must_use]
pub fn port_in(set: &PortSet, port: u16) -> bool {
    set[usize::from(port >> 3)] >> (port & 7) & 1 != 0
}

/// The writable data of a program instance: what the fast path reads without a map lookup.
///
/// The port sets are only a pre-filter. During a swap they hold the ports of both policies; which ports a
/// group filters is decided by the image alone.
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
