//! The far end of tunnels, in user space: the modules that do it are in few kernels.

use std::{
    fs::File,
    io::Write,
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, MsgFlags, SockType, recv};
use opb_lab::{netns::Netns, tun};

/// What comes in tunnels goes on through a tun device.
pub(crate) struct Tunnel {
    ends: Vec<End>,
    inside: File,
}

/// A raw socket that gets the packets of one kind of tunnel.
struct End {
    socket: OwnedFd,
    /// A raw IPv4 socket shows the outer header, a raw IPv6 socket does not.
    outer: bool,
    gre: bool,
}

const IPV4: i32 = 4;
const IPV6: i32 = 41;
const GRE: i32 = 47;

impl Tunnel {
    pub(crate) fn end(netns: &Netns) -> Result<Self> {
        let inside = tun::open(netns, "tunnel", tun::Kind::Tun)?;
        netns.ip("link set dev tunnel up")?;
        netns.sysctl("net/ipv4/conf/tunnel/rp_filter", "0")?;
        let mut ends = Vec::new();
        for protocol in [IPV4, IPV6, GRE] {
            for (family, outer) in [(AddressFamily::Inet, true), (AddressFamily::Inet6, false)] {
                let socket = raw(netns, family, protocol)?;
                ends.push(End { socket, outer, gre: protocol == GRE });
            }
        }
        Ok(Self { ends, inside })
    }

    /// Takes out of their tunnels all packets that have arrived.
    pub(crate) fn carry_on(&self) -> Result<()> {
        let mut packet = vec![0; 65_536];
        for End { socket, outer, gre } in &self.ends {
            while let Ok(length) = recv(socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
                let mut at = if *outer { usize::from(packet[0] & 15) * 4 } else { 0 };
                if *gre {
                    // Checksum, key and sequence number (RFC 2784, RFC 2890).
                    at += 4 + 4 * (packet[at] & 0b1011_0000).count_ones() as usize;
                }
                (&self.inside).write_all(&packet[at..length]).context("tun refuses")?;
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
