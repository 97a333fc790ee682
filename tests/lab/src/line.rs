//! A subscriber, a gateway that bridges, and the world behind it: the shortest path that a filter can be on.
//!
//! ```text
//! subscriber            gateway               core
//!      [line]──────[access]──[uplink]──────[line]
//! ```
//!
//! The gateway only bridges, so that every frame arrives as it was sent: tags, sessions and lies included.

use std::{cell::RefCell, os::fd::OwnedFd, path::Path, time::Duration};

use anyhow::{Context, Result};

use crate::{
    netns::{Netns, veth},
    trivial,
    wire::Wire,
};

/// The interfaces of the gateway.
pub const ACCESS: &str = "access";
pub const UPLINK: &str = "uplink";
/// The interface of either end.
pub const LINE: &str = "line";

/// Room for every frame of the packet table, and not more than a filter in native XDP takes in one piece.
const MTU: u32 = 3400;

/// Shows that all frames before it have arrived: a local experimental EtherType (IEEE 802).
const MARKER: u16 = 0x88b5;

#[derive(Debug)]
pub struct Line {
    pub subscriber: Netns,
    pub gateway: Netns,
    pub core: Netns,
    /// On a veth, what XDP sends back waits until the next packet unless there is XDP at the other end as well
    /// (`veth_xdp_flush` of Linux 6.18).
    taking_in: RefCell<Option<OwnedFd>>,
}

impl Line {
    pub fn lay() -> Result<Self> {
        let line = Self {
            subscriber: Netns::new("subscriber")?,
            gateway: Netns::new("gateway")?,
            core: Netns::new("core")?,
            taking_in: RefCell::default(),
        };
        for netns in [&line.subscriber, &line.gateway, &line.core] {
            // The kernel must not send frames of its own.
            netns.sysctl("net/ipv6/conf/default/router_solicitations", "0")?;
        }
        line.subscriber_cable()?;
        veth((&line.core, LINE), (&line.gateway, UPLINK))?;
        line.core.ip(&format!("link set {LINE} mtu {MTU}"))?;
        line.gateway.ip(&format!("link set {UPLINK} mtu {MTU}"))?;
        line.gateway.bridge("bridge", &[ACCESS, UPLINK])?;
        // netfilter would drop malformed bridged frames and cut padding off.
        for family in ["arp", "ip", "ip6"] {
            let key = format!("net/bridge/bridge-nf-call-{family}tables");
            if Path::new("/proc/sys").join(&key).exists() {
                line.gateway.sysctl(&key, "0")?;
            }
        }
        Ok(line)
    }

    fn subscriber_cable(&self) -> Result<()> {
        veth((&self.subscriber, LINE), (&self.gateway, ACCESS))?;
        self.taking_in.replace(Some(trivial::pass_in_xdp(&self.subscriber, LINE)?));
        self.subscriber.ip(&format!("link set {LINE} mtu {MTU}"))?;
        self.gateway.ip(&format!("link set {ACCESS} mtu {MTU}"))
    }

    /// Removes the subscriber's cable with both of its ends.
    pub fn cut(&self) -> Result<()> {
        self.taking_in.take();
        self.gateway.ip(&format!("link del {ACCESS}"))
    }

    /// Lays a new cable in place of the one that was cut.
    pub fn mend(&self) -> Result<()> {
        self.subscriber_cable()?;
        self.gateway.ip(&format!("link set dev {ACCESS} master bridge up"))
    }

    pub fn open(&self) -> Result<Ends> {
        Ok(Ends {
            subscriber: Wire::open(&self.subscriber, LINE)?,
            core: Wire::open(&self.core, LINE)?,
        })
    }
}

/// The two ends of a line.
#[derive(Debug)]
pub struct Ends {
    pub subscriber: Wire,
    pub core: Wire,
}

/// Which way a frame travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Up,
    Down,
}

impl Ends {
    /// Sends a frame up or down the line. Returns whether it arrives.
    pub fn passes(&self, way: Way, frame: &[u8]) -> Result<bool> {
        let arrived = self.arriving(way, frame)?;
        if arrived.is_empty() {
            return Ok(false);
        }
        anyhow::ensure!(arrived == [frame], "sent {frame:02x?}, arrived {arrived:02x?}");
        Ok(true)
    }

    /// Sends `frame` and returns all frames between the same two MAC addresses that arrive at the far end.
    pub fn arriving(&self, way: Way, frame: &[u8]) -> Result<Vec<Vec<u8>>> {
        let (from, to) = match way {
            Way::Up => (&self.subscriber, &self.core),
            Way::Down => (&self.core, &self.subscriber),
        };
        to.forget()?;
        from.send(frame)?;
        from.send(&marker())?;
        let mut arrived = Vec::new();
        // One queue keeps the order: what was sent before the marker arrives before it.
        let end = to.receive(Duration::from_secs(5), |got| {
            let is_marker = got == marker();
            if !is_marker && got.get(..12) == frame.get(..12) {
                arrived.push(got.to_vec());
            }
            is_marker
        })?;
        end.context("nothing arrives at all")?;
        Ok(arrived)
    }
}

/// Whether the frame was made by [`crate::frames`], or answers one that was.
pub fn is_of_the_lab(frame: &[u8]) -> bool {
    let address = |last| [2, 0, 0, 0, 0, last];
    frame.len() >= 12
        && [[address(1), address(2)].concat(), [address(2), address(1)].concat()]
            .contains(&frame[..12].to_vec())
}

fn marker() -> Vec<u8> {
    let mut frame = crate::frames::Ethernet::new().frame(MARKER, &[0; 46]);
    frame[5] = 3;
    frame
}
