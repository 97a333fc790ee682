//! Frames on a cable, byte for byte.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{libc, net::if_::if_nametoindex};

use crate::netns::Netns;

/// Longer than any frame on a cable of the lab.
const LARGEST: usize = 1 << 16;
/// How long a queue may stay full.
const PATIENCE: Duration = Duration::from_secs(10);

/// A packet socket on one interface: sends any frame and receives what comes in.
///
/// It receives behind XDP but before TC: to see whether a frame passed a filter in TC, receive at the far end of the
/// next cable.
#[derive(Debug)]
pub struct Wire(OwnedFd);

impl Wire {
    pub fn open(netns: &Netns, interface: &str) -> Result<Self> {
        netns.enter(|| Self::open_here(interface))
    }

    /// On an interface of the namespace that the thread is in.
    pub fn open_here(interface: &str) -> Result<Self> {
        Self::bound(interface, libc::ETH_P_ALL as u16)
            .with_context(|| format!("a packet socket on {interface}"))
    }

    /// One that only sends. It receives nothing, so that no frames pile up in it.
    pub fn open_to_send(netns: &Netns, interface: &str) -> Result<Self> {
        netns
            .enter(|| Self::bound(interface, 0))
            .with_context(|| format!("a packet socket on {interface}"))
    }

    fn bound(interface: &str, protocol: u16) -> Result<Self> {
        let index = if_nametoindex(interface)?;
        // SAFETY: system calls on plain numbers and on structures of the sizes given.
        unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
            let socket = checked(libc::socket(libc::AF_PACKET, kind, 0).into())?;
            let wire = Self(OwnedFd::from_raw_fd(socket as i32));
            wire.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)?;
            wire.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
            wire.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol.to_be();
            address.sll_ifindex = index as i32;
            let length = size_of::<libc::sockaddr_ll>() as u32;
            let address = (&raw const address).cast();
            checked(libc::bind(wire.0.as_raw_fd(), address, length).into())?;
            Ok(wire)
        }
    }

    fn set(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        let length = size_of::<i32>() as u32;
        // SAFETY: the option is one integer.
        let result = unsafe {
            libc::setsockopt(self.0.as_raw_fd(), level, option, (&raw const value).cast(), length)
        };
        checked(result.into()).map(drop)
    }

    /// Sends a frame; repeats while the queue of the cable is full.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let start = Instant::now();
        loop {
            let full = match self.try_send(frame) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let again = matches!(full.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN));
            ensure!(again && start.elapsed() < PATIENCE, "to send {} bytes: {full}", frame.len());
            thread::yield_now();
        }
    }

    /// Sends a frame that a filter may drop on the way out. Linux reports such a drop as ENOBUFS.
    pub fn send_or_drop(&self, frame: &[u8]) -> Result<()> {
        match self.try_send(frame) {
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn try_send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: a system call on the bytes of a slice.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        checked(sent as i64).map(drop)
    }

    /// Reads and drops what has come so far.
    pub fn forget(&self) -> Result<()> {
        while self.next(Duration::ZERO)?.is_some() {}
        Ok(())
    }

    /// The next frame, if one comes within `limit`.
    pub fn next(&self, limit: Duration) -> Result<Option<Vec<u8>>> {
        self.receive(limit, |_| true)
    }

    /// The next frame for which `wanted` holds, if it comes within `limit`.
    pub fn receive(
        &self,
        limit: Duration,
        mut wanted: impl FnMut(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut poll =
                libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one structure.
            let ready = unsafe { libc::poll(&raw mut poll, 1, left.as_millis() as i32) };
            if checked(ready.into())? == 0 {
                return Ok(None);
            }
            let frame = self.read()?;
            if wanted(&frame) {
                return Ok(Some(frame));
            }
        }
    }

    /// One frame, with the VLAN tag that the kernel removed put back.
    fn read(&self) -> Result<Vec<u8>> {
        const TAG_IS_VALID: u32 = 1 << 4; // TP_STATUS_VLAN_VALID, linux/if_packet.h
        let mut frame = vec![0; LARGEST];
        let mut control = [0u64; 16];
        let mut tag = None;
        // SAFETY: the buffers live as long as the message that points to them, and the auxiliary data is a
        // structure of plain numbers, read only where the kernel says that it is.
        unsafe {
            let mut part =
                libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &raw mut part;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control);
            let length =
                checked(
                    libc::recvmsg(self.0.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) as i64
                )
                .context("to receive")?;
            frame.truncate(length as usize);
            let mut header = libc::CMSG_FIRSTHDR(&raw const message);
            while !header.is_null() {
                if (*header).cmsg_type == libc::PACKET_AUXDATA {
                    let data = libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>();
                    let data = data.read_unaligned();
                    if data.tp_status & TAG_IS_VALID != 0 {
                        tag = Some((data.tp_vlan_tpid, data.tp_vlan_tci));
                    }
                }
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
        }
        if let Some((kind, vlan)) = tag
            && frame.len() >= 12
        {
            frame.splice(12..12, [kind.to_be_bytes(), vlan.to_be_bytes()].concat());
        }
        Ok(frame)
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Wire {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn checked(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
