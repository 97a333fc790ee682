//! Sends numbered SYNs onto a cable and counts those that come out behind the filter.

use std::{
    io,
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    libc,
    sys::socket::{MsgFlags, recv, send, setsockopt, sockopt},
};

use crate::{
    frames::{Ethernet, Ipv4, Tcp},
    node::Site,
    wire::Wire,
};

const SUBSCRIBER: [u8; 4] = [203, 0, 113, 9];
const RELAY: [u8; 4] = [198, 51, 100, 25];
const FOREIGN: [u8; 4] = [198, 18, 0, 25];
/// Pairs of one denied and one allowed SYN.
pub const EACH_A_SECOND: u32 = 10_000;
/// Room for about ten seconds of frames while the receiver gets no CPU time.
const BUFFER: usize = 128 << 20;

/// Offsets in an Ethernet frame without tags whose IPv4 header has no options.
const DESTINATION: std::ops::Range<usize> = 30..34;
const PORT: std::ops::Range<usize> = 36..38;
const SEQUENCE: std::ops::Range<usize> = 38..42;

pub struct Sender(Wire);

impl Sender {
    /// On an interface of the namespace that the thread is in.
    pub fn on(interface: &str) -> Result<Self> {
        Ok(Self(Wire::open_here(interface)?))
    }

    /// Sends `rate` pairs a second until `stop` and counts them in `sent`.
    pub fn send(&self, rate: u32, stop: &AtomicBool, sent: &AtomicU32) -> Result<()> {
        let start = Instant::now();
        while !stop.load(Ordering::SeqCst) {
            let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u32;
            self.send_until(due, sent)?;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Sends pairs without a pause until `count` are sent.
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
                // The cable is down: the frame cannot get through the filter, so it counts as sent.
                Err(Errno::ENETDOWN) => return Ok(()),
                Err(Errno::ENOBUFS | Errno::EAGAIN) => thread::sleep(Duration::from_micros(200)),
                Err(error) => return Err(error).context("cannot send"),
            }
        }
    }
}

/// SYNs that came out behind the filter.
#[derive(Debug, Default)]
pub struct Seen {
    pub denied: u32,
    /// Each number once.
    pub allowed: u32,
    /// Frames that the socket had no room for.
    pub overrun: u32,
}

pub struct Receiver(Wire);

impl Receiver {
    pub fn on(interface: &str) -> Result<Self> {
        let socket = Wire::open_here(interface)?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
        let timeout = nix::sys::time::TimeVal::new(0, 100_000);
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
        Ok(Self(socket))
    }

    /// Counts until `stop`, and then until no frame comes for a tenth of a second.
    pub fn count(&self, stop: &AtomicBool, sent: &AtomicU32) -> Result<Seen> {
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

/// Sends for a tenth of a second. Returns the number of pairs and what came out.
pub fn probe(receiver: &Receiver, sender: &Sender) -> Result<(u32, Seen)> {
    during((receiver, sender), 1000, || {
        thread::sleep(Duration::from_millis(100));
        Ok(())
    })
}

/// Receiver and sender at the two ends of the cable of a site.
pub fn ends(node: &Site) -> Result<(Receiver, Sender)> {
    let receiver = node.gateway.enter(|| Receiver::on("sub0"))?;
    let sender = node.subscriber.enter(|| Sender::on("eth0"))?;
    Ok((receiver, sender))
}

/// Sends pairs while `work` runs. Returns the number of pairs and what came out.
pub fn during(
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

/// Sends `count` pairs without a pause. Returns what came out.
pub fn burst(receiver: &Receiver, sender: &Sender, count: u32) -> Result<Seen> {
    let sent = AtomicU32::new(0);
    sender.send_until(count, &sent)?;
    receiver.count(&AtomicBool::new(true), &sent)
}

fn overrun(socket: &Wire) -> Result<u32> {
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
