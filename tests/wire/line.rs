//! The end of a cable as raw frames.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send,
            setsockopt, socket, sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike},
    },
};
use opb_lab::netns::Netns;

/// An AF_PACKET socket on one interface.
pub(crate) struct Line(OwnedFd);

impl Line {
    pub(crate) fn open(netns: &Netns, interface: &str) -> Result<Self> {
        netns.enter(|| {
            let flags = SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
            let mut interfaces = getifaddrs()?;
            let address = interfaces.find_map(|found| {
                let address = found.address?;
                (found.interface_name == interface).then(|| address.as_link_addr().copied())?
            });
            let address = address.with_context(|| format!("no interface {interface}"))?;
            // Its protocol is 0, which keeps the socket's own: all of them.
            bind(socket.as_raw_fd(), &address)?;
            Ok(Self(socket))
        })
    }

    #[allow(dead_code, reason = "one of the suites that share this only listens")]
    pub(crate) fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.0.as_raw_fd(), frame, MsgFlags::empty());
        sent.with_context(|| format!("cannot send a frame of {} bytes", frame.len()))?;
        Ok(())
    }

    /// The next frame that comes in within `limit`.
    pub(crate) fn receive(&self, limit: Duration) -> Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 65_600];
        let flags = if limit.is_zero() { MsgFlags::MSG_DONTWAIT } else { MsgFlags::empty() };
        let limit = TimeVal::microseconds((limit.as_micros() as i64).max(1));
        setsockopt(&self.0, ReceiveTimeout, &limit)?;
        match recv(self.0.as_raw_fd(), &mut buffer, flags) {
            Ok(length) => {
                buffer.truncate(length);
                Ok(Some(buffer))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }
}
