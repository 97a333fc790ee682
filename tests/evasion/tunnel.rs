//! The far end of 6in4 and 4in6 tunnels, in user space: the modules that do it are in few kernels.

use std::{
    fs::File,
    io::Write,
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, MsgFlags, SockType, recv};
use opb_lab::netns::Netns;

use crate::tun;

/// What comes in tunnels goes on through a tun device.
pub(crate) struct Tunnel {
    six_in_four: OwnedFd,
    four_in_six: OwnedFd,
    inside: File,
}

impl Tunnel {
    pub(crate) fn end(netns: &Netns) -> Result<Self> {
        let inside = tun::open(netns, "tunnel", tun::Kind::Tun)?;
        netns.ip("link set dev tunnel up")?;
        netns.sysctl("net/ipv4/conf/tunnel/rp_filter", "0")?;
        Ok(Self {
            six_in_four: raw(netns, AddressFamily::Inet, 41)?,
            four_in_six: raw(netns, AddressFamily::Inet6, 4)?,
            inside,
        })
    }

    /// Takes out of their tunnels all packets that have arrived.
    pub(crate) fn carry_on(&self) -> Result<()> {
        let mut packet = vec![0; 65_536];
        // A raw IPv4 socket shows the outer header, a raw IPv6 socket does not.
        for (socket, outer) in [(&self.six_in_four, true), (&self.four_in_six, false)] {
            while let Ok(length) = recv(socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
                let header = if outer { usize::from(packet[0] & 15) * 4 } else { 0 };
                (&self.inside).write_all(&packet[header..length]).context("tun refuses")?;
            }
        }
        Ok(())
    }
}

fn raw(netns: &Netns, family: AddressFamily, protocol: i32) -> Result<OwnedFd> {
    netns.enter(move || {
        // SAFETY: a system call without pointers; the descriptor is nobody else's.
        unsafe {
            use std::os::fd::FromRawFd;
            let kind = SockType::Raw as i32 | libc::SOCK_CLOEXEC;
            let fd = libc::socket(family as i32, kind, protocol);
            nix::errno::Errno::result(fd)?;
            Ok(OwnedFd::from_raw_fd(fd))
        }
    })
}
