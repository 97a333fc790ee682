//! Tun and tap devices, whose other end is a file of the test.

use std::{fs::File, net::UdpSocket, os::fd::AsRawFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use opb_lab::netns::Netns;

#[derive(Clone, Copy)]
#[allow(dead_code, reason = "each suite that shares this uses one or the other")]
pub(crate) enum Kind {
    /// IP packets.
    Tun,
    /// Ethernet frames.
    Tap,
    /// Ethernet frames, each behind a `virtio_net_hdr` of ten bytes that says how the kernel shall lay it out.
    TapWithLayout,
}

pub(crate) fn open(netns: &Netns, name: &str, kind: Kind) -> Result<File> {
    netns.enter(|| {
        let file = File::options().read(true).write(true).open("/dev/net/tun")?;
        let flags = libc::IFF_NO_PI
            | match kind {
                Kind::Tun => libc::IFF_TUN,
                Kind::Tap => libc::IFF_TAP,
                Kind::TapWithLayout => libc::IFF_TAP | libc::IFF_VNET_HDR,
            };
        // SAFETY: all zeros is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: the request lives on our stack for the call.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
        Errno::result(made).with_context(|| format!("cannot make {name}"))?;
        Ok(file)
    })
}

/// Gives a tun device that is down another link type, by its `ARPHRD_` number. Its packets stay what they are.
#[allow(dead_code, reason = "of one suite alone")]
pub(crate) fn set_link_type(file: &File, number: u16) -> Result<()> {
    /// linux/if_tun.h
    const TUNSETLINK: libc::Ioctl = 0x4004_54cd;
    // SAFETY: the argument is a number.
    let set = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETLINK, libc::c_ulong::from(number)) };
    Errno::result(set).with_context(|| format!("cannot set the link type {number}"))?;
    Ok(())
}

/// Sets a device up at once: `ip` would take milliseconds to start.
#[allow(dead_code, reason = "of one suite alone")]
pub(crate) fn up(netns: &Netns, name: &str) -> Result<()> {
    netns.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        // SAFETY: all zeros is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        // SAFETY: the request lives on our stack for the call.
        let set =
            unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
        Errno::result(set).with_context(|| format!("cannot set {name} up"))?;
        Ok(())
    })
}
