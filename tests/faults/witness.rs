//! SYNs of single subscribers, beside those of the prober.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::{
        socket::{MsgFlags, recv, send, setsockopt, sockopt},
        time::TimeVal,
    },
};
use opb_lab::frames::{Ethernet, Ipv4, Tcp};

use crate::{node::Node, prober::packet_socket};

/// Neither of the prober's destinations, and foreign to the policy.
const DESTINATION: [u8; 4] = [198, 18, 0, 26];
/// In an Ethernet frame without tags whose IPv4 header has no options.
const ADDRESSES: std::ops::Range<usize> = 26..34;
/// A frame that has not come by then does not come.
const PATIENCE: Duration = Duration::from_millis(60);
/// The same on a busy machine, for one that should come.
const MORE: Duration = Duration::from_secs(2);

/// Whether SYNs of `source` get past the filter; waits longer if they should.
pub(crate) fn passes(node: &Node, source: [u8; 4], expected: bool) -> Result<bool> {
    let receiver = node.gateway.enter(|| packet_socket("sub0"))?;
    let sender = node.subscriber.enter(|| packet_socket("eth0"))?;
    setsockopt(&receiver, sockopt::ReceiveTimeout, &TimeVal::new(0, 10_000))?;
    let frame = Ethernet::new().carrying(&Ipv4::new(source, DESTINATION).carrying(Tcp::syn_to(25)));
    for _ in 0..3 {
        send(sender.as_raw_fd(), &frame, MsgFlags::empty())?;
    }
    let addresses = [source, DESTINATION].concat();
    arrives(&receiver, &addresses, if expected { MORE } else { PATIENCE })
}

fn arrives(receiver: &OwnedFd, addresses: &[u8], patience: Duration) -> Result<bool> {
    let start = Instant::now();
    let mut frame = [0; 2048];
    while start.elapsed() < patience {
        match recv(receiver.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(length) if frame[..length].get(ADDRESSES) == Some(addresses) => return Ok(true),
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot receive"),
        }
    }
    Ok(false)
}
