//! A bridge between a subscriber's line and a trunk, to follow any frame through the filter.

use std::{fs::File, io::Read, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
};
use opb_lab::{netns::Netns, process::wait_until, tun, wire::Wire};

/// Longer than any frame of the packet table.
const MTU: u32 = 16_000;
const PATIENCE: Duration = Duration::from_secs(5);

/// ```text
///  subscriber  line ── sub0  gateway: bridge  trunk (a file of the test's)
/// ```
pub(crate) struct Trunk {
    pub(crate) gateway: Netns,
    line: Wire,
    trunk: File,
    _subscriber: Netns,
}

impl Trunk {
    pub(crate) fn build() -> Result<Self> {
        let (subscriber, gateway) = (Netns::new("subscriber")?, Netns::new("gateway")?);
        for netns in [&subscriber, &gateway] {
            // Only the test may send here.
            netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        }
        opb_lab::netns::veth((&subscriber, "line"), (&gateway, "sub0"))?;
        let trunk = tun::open(&gateway, "trunk", tun::Kind::Tap)?;
        subscriber.ip(&format!("link set dev line mtu {MTU}"))?;
        for port in ["sub0", "trunk"] {
            gateway.ip(&format!("link set dev {port} mtu {MTU}"))?;
        }
        gateway.bridge("switch", &["sub0", "trunk"])?;
        fcntl(&trunk, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let trunk = Self {
            line: Wire::open(&subscriber, "line")?,
            gateway,
            trunk,
            _subscriber: subscriber,
        };
        // A port of a bridge forwards a moment after it is up.
        let forwards = wait_until(PATIENCE, || {
            trunk.line.send(&mark(0))?;
            thread::sleep(Duration::from_millis(5));
            Ok((trunk.next()? == Some(mark(0))).then_some(()))
        })?;
        forwards.context("the bridge does not forward")?;
        while trunk.next()?.is_some() {}
        Ok(trunk)
    }

    /// What comes out of the trunk when `frame` is put on the line.
    pub(crate) fn through(&self, frame: &[u8], number: u32) -> Result<Vec<Vec<u8>>> {
        self.line.send(frame)?;
        let last = mark(number);
        self.line.send(&last)?;
        let mut out = Vec::new();
        let arrived = wait_until(PATIENCE, || {
            while let Some(frame) = self.next()? {
                if frame == last {
                    return Ok(Some(()));
                }
                out.push(frame);
            }
            Ok(None)
        })?;
        ensure!(arrived.is_some(), "the trunk is dead behind {frame:02x?}");
        Ok(out)
    }

    fn next(&self) -> Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 70_000];
        match (&self.trunk).read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                Ok(Some(buffer))
            }
            Err(error) if error.raw_os_error() == Some(Errno::EAGAIN as i32) => Ok(None),
            Err(error) => Err(error).context("the trunk"),
        }
    }
}

/// A frame that the filter ignores (IEEE 802's local experimental type). It arrives behind the one before it.
fn mark(number: u32) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    frame.extend(number.to_be_bytes());
    frame.resize(60, 0);
    frame
}
