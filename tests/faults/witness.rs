//! SYNs of single subscribers, beside those of the prober.

use std::time::Duration;

use anyhow::Result;
use opb_lab::{
    frames::{Ethernet, Ipv4, Tcp},
    node::Site,
    wire::Wire,
};

/// Neither of the prober's destinations, and foreign to the policy.
const DESTINATION: [u8; 4] = [198, 18, 0, 26];
/// In an Ethernet frame without tags whose IPv4 header has no options.
const ADDRESSES: std::ops::Range<usize> = 26..34;
/// A frame that has not come by then does not come.
const PATIENCE: Duration = Duration::from_millis(60);
/// The same on a busy machine, for one that should come.
const MORE: Duration = Duration::from_secs(2);

/// Whether SYNs of `source` get past the filter; waits longer if they should.
pub(crate) fn passes(node: &Site, source: [u8; 4], expected: bool) -> Result<bool> {
    let receiver = Wire::open(&node.gateway, "sub0")?;
    let sender = Wire::open_to_send(&node.subscriber, "eth0")?;
    let frame = Ethernet::new().carrying(&Ipv4::new(source, DESTINATION).carrying(Tcp::syn_to(25)));
    for _ in 0..3 {
        sender.send(&frame)?;
    }
    let addresses = [source, DESTINATION].concat();
    let patience = if expected { MORE } else { PATIENCE };
    let found = receiver.receive(patience, |frame| frame.get(ADDRESSES) == Some(&*addresses))?;
    Ok(found.is_some())
}
