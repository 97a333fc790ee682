//! SYNs of single subscribers, beside those of the prober.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use opb_lab::{
    frames::{Ethernet, Ipv4, Tcp},
    node::Site,
    wire::Wire,
};

/// Neither of the prober's destinations, and foreign to the policy.
const DESTINATION: [u8; 4] = [198, 18, 0, 26];
/// In an Ethernet frame without tags whose IPv4 header has no options.
const ADDRESSES: std::ops::Range<usize> = 26..34;
const PORT: std::ops::Range<usize> = 36..38;
/// A port that nothing filters.
const OPEN: u16 = 443;
/// In which a frame that nothing filters comes, on a machine that is busy: it is sent again meanwhile.
const PATIENCE: Duration = Duration::from_secs(20);
const ROUND: Duration = Duration::from_millis(500);

/// Whether SYNs of `source` get past the filter. Behind them goes a frame that passes in any case: once
/// it has come, they have been judged, however long that took.
pub(crate) fn passes(node: &Site, source: [u8; 4]) -> Result<bool> {
    let receiver = Wire::open(&node.gateway, "sub0")?;
    let sender = Wire::open_to_send(&node.subscriber, "eth0")?;
    let syn = |port| {
        Ethernet::new().carrying(&Ipv4::new(source, DESTINATION).carrying(Tcp::syn_to(port)))
    };
    let addresses = [source, DESTINATION].concat();
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        sender.send(&syn(25))?;
        sender.send(&syn(OPEN))?;
        let ours = |frame: &[u8]| frame.get(ADDRESSES) == Some(&*addresses);
        if let Some(first) = receiver.receive(ROUND, ours)? {
            return Ok(first.get(PORT) == Some(&25_u16.to_be_bytes()));
        }
    }
    bail!("nothing of the subscriber comes within {PATIENCE:?}, filtered or not")
}
