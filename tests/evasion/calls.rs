//! Connections that do not open with one SYN on the line: triangular, split and simultaneous opens, and connections
//! that were there before the filter.

use std::{
    net::TcpStream,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, bind, connect, recv, socket,
    },
};
use opb_lab::{
    frames::{Ethernet, Ipv4, Tcp, flags},
    process::wait_until,
};

use crate::{
    lab::{CALLER, Family, HELO, Lab, PATIENCE, SUBSCRIBER, next_port, plain, read},
    reply::Reply,
    rows::plain4,
};

use flags::{ACK, PSH, SYN};

/// The SYN leaves by another provider's line, all that follows by ours. The answer comes down ours, so this is what
/// triangular spam looks like as well.
pub(crate) fn by_another_line(lab: &Lab, patience: Duration) -> Result<bool> {
    let port = next_port();
    lab.other.send(&plain(Family::V4, Tcp::new(port, 25, SYN).numbers(1000, 0)))?;
    // The other line has no barrier of ours: its frames are on the server's queue when `send` returns, and a
    // handshake behind it is answered behind it.
    let mut seen = lab.barrier(Family::V4)?;
    let Some(answer) = lab.answer(port, &mut seen, patience)? else { return Ok(false) };
    lab.greet(plain4, port, &answer, Family::V4)?;
    lab.is_greeted(port, patience)
}

/// The server calls from port 25, and the subscriber accepts.
pub(crate) fn split_handshake(lab: &Lab, patience: Duration) -> Result<bool> {
    let Some(call) = Call::from_25(lab, patience)? else { return Ok(false) };
    call.say(lab, SYN | ACK, 1000, call.syn.sequence.wrapping_add(1), b"")?;
    call.say(lab, ACK | PSH, 1001, call.syn.sequence.wrapping_add(1), HELO)?;
    call.hears(patience)
}

/// The server calls from port 25, and the subscriber calls at the same time.
pub(crate) fn simultaneous_open(lab: &Lab, patience: Duration) -> Result<bool> {
    let Some(call) = Call::from_25(lab, PATIENCE)? else { return Ok(false) };
    call.say(lab, SYN, 1000, 0, b"")?;
    call.say(lab, ACK | PSH, 1001, call.syn.sequence.wrapping_add(1), HELO)?;
    call.hears(patience)
}

/// A socket of the server's that calls the subscriber.
struct Call {
    socket: OwnedFd,
    port: u16,
    syn: Reply,
}

impl Call {
    fn from_25(lab: &Lab, patience: Duration) -> Result<Option<Self>> {
        let port = next_port();
        let socket = lab.internet.enter(|| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::ReuseAddr, &true)?;
            let [a, b, c, d] = CALLER.octets();
            bind(socket.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 25)).context("port 25")?;
            let [a, b, c, d] = SUBSCRIBER.v4.octets();
            match connect(socket.as_raw_fd(), &SockaddrIn::new(a, b, c, d, port)) {
                Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket),
                Err(error) => Err(error).context("the server cannot call"),
            }
        })?;
        let mut seen = lab.barrier(Family::V4)?;
        let is_call = |reply: &Reply| {
            (reply.source, reply.destination) == (25, port) && reply.flags & (SYN | ACK) == SYN
        };
        let syn = wait_until(patience, || {
            seen.extend(lab.pending()?);
            Ok(seen.iter().find(|reply| is_call(reply)).cloned())
        })?;
        Ok(syn.map(|syn| Self { socket, port, syn }))
    }

    fn say(&self, lab: &Lab, flags: u8, sequence: u32, ack: u32, data: &[u8]) -> Result<()> {
        let tcp = Tcp::new(self.port, 25, flags).numbers(sequence, ack).data(data);
        let packet = Ipv4::new(SUBSCRIBER.v4, CALLER).carrying(tcp);
        lab.line.send(&Ethernet::new().carrying(&packet))?;
        lab.barrier(Family::V4)?;
        Ok(())
    }

    /// Whether the server reads the greeting.
    fn hears(&self, patience: Duration) -> Result<bool> {
        let mut buffer = [0; 256];
        let heard = wait_until(patience, || {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => Ok(Some(&buffer[..length] == HELO)),
                Err(_) => Ok(None),
            }
        })?;
        Ok(heard.unwrap_or(false))
    }
}

/// A connection that was there before the filter.
pub(crate) struct Established {
    port: u16,
    answer: Reply,
    stream: TcpStream,
    said: std::cell::Cell<u32>,
}

impl Established {
    pub(crate) fn open(lab: &Lab) -> Result<Self> {
        let port = next_port();
        lab.line.send(&plain(Family::V4, Tcp::new(port, 25, SYN).numbers(1000, 0)))?;
        let mut seen = Vec::new();
        let answer = lab.answer(port, &mut seen, PATIENCE)?.context("no answer")?;
        lab.greet(plain4, port, &answer, Family::V4)?;
        let stream = lab.accepted(port, PATIENCE)?.context("no connection")?;
        anyhow::ensure!(read(stream.try_clone()?, PATIENCE)?, "no greeting");
        let said = std::cell::Cell::new(HELO.len() as u32);
        Ok(Self { port, answer, stream, said })
    }

    /// Whether more arrives.
    pub(crate) fn carries(&self, lab: &Lab, patience: Duration) -> Result<bool> {
        let Reply { sequence, acknowledgement, .. } = self.answer;
        let said = self.said.get();
        let tcp = Tcp::new(self.port, 25, ACK | PSH)
            .numbers(acknowledgement.wrapping_add(said), sequence.wrapping_add(1))
            .data(HELO);
        lab.line.send(&plain(Family::V4, tcp))?;
        lab.barrier(Family::V4)?;
        let arrives = read(self.stream.try_clone()?, patience)?;
        if arrives {
            self.said.set(said + HELO.len() as u32);
        }
        Ok(arrives)
    }
}
