//! The dimensions of a measurement.

use std::fmt;

use opb_lab::frames::{Ethernet, Packet};
use opb_userspace::kernel::ReplayHook;
use serde::{Deserialize, Serialize};

use crate::table::Sources;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Hook {
    #[serde(rename = "XDP")]
    Xdp,
    #[serde(rename = "TC")]
    Tc,
}

impl Hook {
    pub const BOTH: [Self; 2] = [Self::Xdp, Self::Tc];

    pub(super) fn replay(self) -> ReplayHook {
        match self {
            Self::Xdp => ReplayHook::Xdp,
            Self::Tc => ReplayHook::Tc,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Xdp => "XDP",
            Self::Tc => "TC",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Link {
    Plain,
    #[serde(rename = "QinQ+PPPoE")]
    Access,
}

impl Link {
    pub const BOTH: [Self; 2] = [Self::Plain, Self::Access];

    pub(super) fn frame(self, packet: &impl Packet) -> Vec<u8> {
        match self {
            Self::Plain => Ethernet::new(),
            Self::Access => Ethernet::new().tag(0x88a8, 100).tag(0x8100, 200).pppoe(),
        }
        .carrying(packet)
    }

    /// Bytes in front of the IP header.
    pub(super) fn length(self) -> usize {
        match self {
            Self::Plain => 14,
            Self::Access => 14 + 4 + 4 + 8,
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Plain => "plain",
            Self::Access => "QinQ+PPPoE",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Traffic {
    /// A segment of a connection to port 443.
    #[serde(rename = "TCP 443")]
    Web,
    #[serde(rename = "UDP")]
    Udp,
    /// Opens connections to a mail server that is not a relay.
    #[serde(untagged)]
    Smtp(Sources),
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Web => f.pad("TCP 443"),
            Self::Udp => f.pad("UDP"),
            Self::Smtp(sources) => f.pad(&format!("SYN 25, {sources}")),
        }
    }
}

/// The measured program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Subject {
    #[serde(rename = "opb")]
    Opb,
    /// With events and talkers recorded, as by default.
    #[serde(rename = "opb, events")]
    OpbEvents,
    #[serde(rename = "LPM tries")]
    Reference,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Opb => "opb",
            Self::OpbEvents => "opb, events",
            Self::Reference => "LPM tries",
        })
    }
}
