//! Notifications when interfaces appear, disappear or change.
//!
//! The content of the messages is not used: after any of them, all interfaces are listed. So
//! messages lost to a full buffer do no harm.

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
        // SAFETY: `AsyncFd` owns the descriptor and never replaces it.
        let socket = unsafe { AsyncFd::register(socket)? };
        Ok(Self(socket))
    }

    /// Waits for a message, then discards all that have arrived.
    pub(super) async fn changed(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut buffer = [0; 8192];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => {
                    info!("messages about interfaces were lost: listing all interfaces");
                }
                Err(Errno::EAGAIN) => break ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
