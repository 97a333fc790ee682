//! Sends numbered SYNs onto a cable, and counts those that come out behind the filter.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind,
        recv, send, setsockopt, socket, sockopt,
    },
};
use opb_lab::frames::{Ethernet, Ipv4, Tcp};

use crate::node::Node;

const SUBSCRIBER: [u8; 4] = [203, 0, 113, 9];
const RELAY: [u8; 4] = [198, 51, 100, 25];
const FOREIGN: [u8; 4] = [198, 18, 0, 25];
/// Of the denied SYNs and of the allowed ones.
pub(crate) const EACH_A_SECOND: u32 = 10_000;
/// Room for some ten seconds of frames, should the receiver get no time.
const BUFFER: usize = 128 << 20;

/// In an Ethernet frame without tags whose IPv4 header has no options.
const DESTINATION: std::ops::Range<usize> = 30..34;
const PORT: std::ops::Range<usize> = 36..38;
const SEQUENCE: std::ops::Range<usize> = 38..42;

pub(crate) struct Sender(OwnedFd);

impl Sender {
    /// On an interface of the namespace that the thread is in.
    pub(crate) fn on(interface: &str) -> Result<Self> {
        Ok(Self(packet_socket(interface)?))
    }

    /// Sends so many pairs of one denied and one allowed SYN a second until `stop`, and counts them in `sent`.
    pub(crate) fn send(&self, rate: u32, stop: &AtomicBool, sent: &AtomicU32) -> Result<()> {
        let start = Instant::now();
        while !stop.load(Ordering::SeqCst) {
            let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u32;
            self.send_until(due, sent)?;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Sends pairs at once until so many are sent.
    fn send_until(&self, count: u32, sent: &AtomicU32) -> Result<()> {
        let mut frames = [FOREIGN, RELAY].map(|destination| {
            let packet = Ipv4::new(SUBSCRIBER, destination).carrying(Tcp::syn_to(25));
            Ethernet::new().carrying(&packet)
        });
        while sent.load(Ordering::SeqCst) < count {
            let number = sent.load(Ordering::SeqCst);
            for frame in &mut frames {
                frame[SEQUENCE].copy_from_slice(&number.to_be_bytes());
                self.send_one(frame)?;
            }
            sent.store(number + 1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn send_one(&self, frame: &[u8]) -> Result<()> {
        loop {
            match send(self.0.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                // The cable is down: nothing gets through, so nothing is lost to us.
                Err(Errno::ENETDOWN) => return Ok(()),
                Err(Errno::ENOBUFS | Errno::EAGAIN) => thread::sleep(Duration::from_micros(200)),
                Err(error) => return Err(error).context("cannot send"),
            }
        }
    }
}

/// What came out behind the filter.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) denied: u32,
    /// Different ones.
    pub(crate) allowed: u32,
    /// Frames for which the socket had no room.
    pub(crate) overrun: u32,
}

pub(crate) struct Receiver(OwnedFd);

impl Receiver {
    pub(crate) fn on(interface: &str) -> Result<Self> {
        let socket = packet_socket(interface)?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
        let timeout = nix::sys::time::TimeVal::new(0, 100_000);
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
        Ok(Self(socket))
    }

    /// Counts until `stop` and then until nothing comes any more.
    pub(crate) fn count(&self, stop: &AtomicBool, sent: &AtomicU32) -> Result<Seen> {
        let (mut seen, mut next) = (Seen::default(), 0);
        let mut frame = [0; 2048];
        loop {
            let length = match recv(self.0.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EINTR | Errno::ENETDOWN) => continue,
                Err(Errno::EAGAIN) if stop.load(Ordering::SeqCst) => break,
                Err(Errno::EAGAIN) => continue,
                Err(error) => return Err(error).context("cannot receive"),
            };
            let frame = &frame[..length];
            // Neighbour discovery and the like travel on the cable, too.
            if length < SEQUENCE.end || frame[PORT] != 25u16.to_be_bytes() {
                continue;
            }
            let number = u32::from_be_bytes(frame[SEQUENCE].try_into()?);
            if frame[DESTINATION] == FOREIGN {
                seen.denied += 1;
            } else if frame[DESTINATION] == RELAY && number >= next && number < u32::MAX {
                // One cable keeps the order, so nothing is counted twice.
                seen.allowed += 1;
                next = number + 1;
            }
        }
        debug_assert!(seen.allowed <= sent.load(Ordering::SeqCst) + 1);
        seen.overrun = overrun(&self.0)?;
        Ok(seen)
    }
}

/// How many pairs were sent in a tenth of a second, and what was seen of them.
pub(crate) fn probe(receiver: &Receiver, sender: &Sender) -> Result<(u32, Seen)> {
    during((receiver, sender), 1000, || {
        thread::sleep(Duration::from_millis(100));
        Ok(())
    })
}

/// Both ends of the line through a node's first interface.
pub(crate) fn ends(node: &Node) -> Result<(Receiver, Sender)> {
    let receiver = node.gateway.enter(|| Receiver::on("sub0"))?;
    let sender = node.subscriber.enter(|| Sender::on("eth0"))?;
    Ok((receiver, sender))
}

/// What was sent and what is seen of pairs while `work` is being done.
pub(crate) fn during(
    (receiver, sender): (&Receiver, &Sender),
    rate: u32,
    work: impl FnOnce() -> Result<()>,
) -> Result<(u32, Seen)> {
    let (stop, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    let seen = thread::scope(|scope| {
        let receiving = scope.spawn(|| receiver.count(&stop, &sent));
        let sending = scope.spawn(|| sender.send(rate, &stop, &sent));
        let worked = work();
        stop.store(true, Ordering::SeqCst);
        sending.join().expect("no panic")?;
        let seen = receiving.join().expect("no panic")?;
        worked.map(|()| seen)
    })?;
    let sent = sent.into_inner();
    ensure!(sent > 0, "nothing was sent, so nothing is proved");
    ensure!(seen.overrun == 0, "the test itself lost {} frames", seen.overrun);
    Ok((sent, seen))
}

/// What is seen of so many pairs that are sent at once.
pub(crate) fn burst(receiver: &Receiver, sender: &Sender, count: u32) -> Result<Seen> {
    let sent = AtomicU32::new(0);
    sender.send_until(count, &sent)?;
    receiver.count(&AtomicBool::new(true), &sent)
}

pub(crate) fn packet_socket(interface: &str) -> Result<OwnedFd> {
    let index = if_nametoindex(interface).with_context(|| format!("no interface {interface}"))?;
    let all = Some(SockProtocol::EthAll);
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, all)?;
    // SAFETY: plain numbers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as i32;
    let length = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: a whole address of that family.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) };
    bind(socket.as_raw_fd(), &address.context("a link address")?)?;
    Ok(socket)
}

fn overrun(socket: &OwnedFd) -> Result<u32> {
    /// linux/if_packet.h: packets and drops.
    const PACKET_STATISTICS: libc::c_int = 6;
    let mut counts = [0u32; 2];
    let mut length = size_of_val(&counts) as libc::socklen_t;
    // SAFETY: the kernel writes no more than `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_STATISTICS,
            counts.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(counts[1]) } else { Err(io::Error::last_os_error().into()) }
}
