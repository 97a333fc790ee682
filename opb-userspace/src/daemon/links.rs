//! Tells when interfaces come, go or change.
//!
//! The kernel's messages are only a reason to look: what there is, is always listed anew. A message that got lost because
//! there were too many is a reason like any other.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};
use tokio::io::unix::AsyncFd;
use tracing::info;

/// linux/rtnetlink.h: messages about links.
const RTMGRP_LINK: u32 = 1;

/// A subscription to the kernel's messages about interfaces of this network namespace.
pub(super) struct Links(AsyncFd<OwnedFd>);

impl Links {
    pub(super) fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, flags, Some(SockProtocol::NetlinkRoute))?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, RTMGRP_LINK))?;
        // SAFETY: the descriptor goes with its owner, which stays inside and is never exchanged.
        let socket = unsafe { AsyncFd::register(socket)? };
        Ok(Self(socket))
    }

    /// Waits until something has happened, and takes in all messages about it.
    pub(super) async fn changed(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut buffer = [0; 8192];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => {
                    info!("messages about interfaces were lost: all are listed anew");
                }
                Err(Errno::EAGAIN) => break ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
