//! Tun and tap devices: the test holds their other end as a file.

use std::{fs::File, net::UdpSocket, os::fd::AsRawFd};

use crate::netns::Netns;
use anyhow::{Context, Result};
use nix::{errno::Errno, libc};

#[derive(Clone, Copy)]
pub enum Kind {
    /// IP packets.
    Tun,
    /// Ethernet frames.
    Tap,
    /// Ethernet frames, each behind a `virtio_net_hdr` of ten bytes that tells the kernel how to lay it out.
    TapWithLayout,
}

pub fn open(netns: &Netns, name: &str, kind: Kind) -> Result<File> {
    netns.enter(|| {
        let file = File::options().read(true).write(true).open("/dev/net/tun")?;
        let flags = libc::IFF_NO_PI
            | match kind {
                Kind::Tun => libc::IFF_TUN,
                Kind::Tap => libc::IFF_TAP,
                Kind::TapWithLayout => libc::IFF_TAP | libc::IFF_VNET_HDR,
            };
        let mut request = request(name);
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: the request lives on our stack for the call.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
        Errno::result(made).with_context(|| format!("cannot make {name}"))?;
        Ok(file)
    })
}

/// Changes the link type of a tun device that is down to an `ARPHRD_` number. Its packets stay the same.
pub fn set_link_type(file: &File, number: u16) -> Result<()> {
    /// linux/if_tun.h
    const TUNSETLINK: libc::Ioctl = 0x4004_54cd;
    // SAFETY: the argument is a number.
    let set = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETLINK, libc::c_ulong::from(number)) };
    Errno::result(set).with_context(|| format!("cannot set the link type {number}"))?;
    Ok(())
}

/// Sets a device up without starting `ip`, which takes milliseconds.
pub fn up(netns: &Netns, name: &str) -> Result<()> {
    netns.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        let mut request = request(name);
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        // SAFETY: the request lives on our stack for the call.
        let set =
            unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
        Errno::result(set).with_context(|| format!("cannot set {name} up"))?;
        Ok(())
    })
}

/// A request about the interface of that name.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request
}
