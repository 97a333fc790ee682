//! A subscriber who writes every frame himself, a gateway, and a mail server on Linux's own stack.
//!
//! ```text
//!  subscriber  line ── sub0  gateway  core0 ── eth0  internet (listens on 25 and 2000)
//!              other ─────────────────────── other0
//! ```
//!
//! The subscriber's namespace has no address: nobody there resets what the test's own handshake opens. `other` is a
//! line of another provider, which no filter sees.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    ops::Range,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use opb_lab::{
    frames::{Ethernet, Ipv4, Ipv6, Tcp, flags},
    netns::{Netns, veth},
    packets::{Host, hosts},
    process::wait_until,
    wire::Wire,
};

use crate::{
    reply::{Reply, reply},
    tunnel::Tunnel,
};

pub(crate) use opb_lab::topology::Family;

pub(crate) const SUBSCRIBER: Host = hosts::DYNAMIC;
pub(crate) const SERVER: Host = hosts::OUTSIDE;
/// A relay that the group may reach, on the same machine as the server.
pub(crate) const RELAY: Host = hosts::ISP;
/// An address of the server's machine without a listener: the server opens connections from it.
pub(crate) const CALLER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 26);
/// Routed to the subscriber, but in no prefix of the policy.
pub(crate) const STRANGER: Host = hosts::MONITORED;

/// A port that the policy does not filter: a handshake with it shows that everything before it has arrived.
const OPEN_PORT: u16 = 2000;
pub(crate) const HELO: &[u8] = b"HELO dynamic.example\r\n";
/// For answers that must come: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// One segment, and an identification for its fragments that no other segment has.
pub(crate) struct Segment {
    pub(crate) tcp: Tcp,
    pub(crate) id: u16,
}

/// How a segment becomes frames.
pub(crate) type Disguise = fn(&Segment) -> Vec<Vec<u8>>;

/// A connection as the subscriber opens it.
#[derive(Clone, Copy)]
pub(crate) struct Opening {
    pub(crate) family: Family,
    pub(crate) flags: u8,
    pub(crate) options: &'static [u8],
    pub(crate) data: &'static [u8],
    pub(crate) disguise: Disguise,
}

pub(crate) struct Lab {
    pub(crate) gateway: Netns,
    pub(crate) internet: Netns,
    pub(crate) line: Wire,
    pub(crate) other: Wire,
    /// One for each address, so that the machine can send from port 25 of its other addresses.
    mail: Vec<TcpListener>,
    _open: TcpListener,
    tunnel: Tunnel,
    /// Ports of the subscriber that the mail server answered or accepted a connection from.
    served: RefCell<BTreeSet<u16>>,
    _subscriber: Netns,
}

impl Lab {
    pub(crate) fn build() -> Result<Self> {
        let subscriber = Netns::new("subscriber")?;
        let gateway = Netns::new("gateway")?;
        let internet = Netns::new("internet")?;
        veth((&subscriber, "line"), (&gateway, "sub0"))?;
        veth((&subscriber, "other"), (&internet, "other0"))?;
        veth((&gateway, "core0"), (&internet, "eth0"))?;
        // The MAC addresses of the lab's frames.
        for (netns, interface, last) in [
            (&subscriber, "line", 2),
            (&gateway, "sub0", 1),
            (&subscriber, "other", 2),
            (&internet, "other0", 1),
        ] {
            netns.ip(&format!("link set dev {interface} address 02:00:00:00:00:0{last}"))?;
        }
        gateway.forward()?;
        for netns in [&gateway, &internet] {
            for key in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"] {
                netns.sysctl(&format!("net/{key}"), "0")?;
            }
            // A receiver that allows everything.
            netns.sysctl("net/ipv4/conf/all/accept_source_route", "1")?;
        }
        for interface in ["eth0", "other0"] {
            internet.sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "0")?;
        }
        for (netns, interface) in
            [(&gateway, "sub0"), (&gateway, "core0"), (&internet, "eth0"), (&internet, "other0")]
        {
            netns.sysctl(&format!("net/ipv4/conf/{interface}/accept_source_route"), "1")?;
            netns.sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "0")?;
        }
        internet.sysctl("net/ipv6/conf/all/seg6_enabled", "1")?;
        internet.sysctl("net/ipv6/conf/eth0/seg6_enabled", "1")?;
        // TCP Fast Open for every listener, without a cookie.
        internet.sysctl("net/ipv4/tcp_fastopen", "1539")?;
        addresses(&gateway, &internet)?;

        let listen = |address: IpAddr, port| {
            internet.enter(move || {
                let listener = TcpListener::bind((address, port))?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            })
        };
        let addresses = [SERVER, RELAY].map(|host| [IpAddr::V4(host.v4), IpAddr::V6(host.v6)]);
        let mail = addresses.as_flattened().iter().map(|address| listen(*address, 25));
        let mail = mail.collect::<Result<Vec<_>>>()?;
        let open = listen(Ipv6Addr::UNSPECIFIED.into(), OPEN_PORT)?;
        Ok(Self {
            line: Wire::open(&subscriber, "line")?,
            other: Wire::open(&subscriber, "other")?,
            tunnel: Tunnel::end(&internet)?,
            served: RefCell::default(),
            mail,
            _open: open,
            gateway,
            internet,
            _subscriber: subscriber,
        })
    }

    /// Whether the opening becomes a connection through which the server reads a greeting.
    ///
    /// `patience` is for a server that is expected to answer. Without it, a later handshake that was answered proves
    /// that this one will not be.
    pub(crate) fn connects(&self, opening: &Opening, patience: Duration) -> Result<bool> {
        let port = next_port();
        let Opening { family, flags, options, data, disguise } = *opening;
        let syn = Tcp::new(port, 25, flags).numbers(1000, 0).options(options).data(data);
        let mut seen = self.say(disguise, syn, family)?;
        let answer = self.answer(port, &mut seen, patience)?;
        let Some(answer) = answer else {
            return Ok(self.accepted(port, Duration::ZERO)?.is_some());
        };
        self.greet(disguise, port, &answer, family)?;
        self.is_greeted(port, patience)
    }

    /// Sends a segment in disguise and waits until it has arrived. Returns the replies that came meanwhile.
    fn say(&self, disguise: Disguise, tcp: Tcp, family: Family) -> Result<Vec<Reply>> {
        for frame in disguise(&Segment { tcp, id: next_id() }) {
            self.line.send(&frame)?;
        }
        let seen = self.barrier(family)?;
        self.tunnel.carry_on()?;
        Ok(seen)
    }

    /// The rest of a handshake, and a greeting.
    pub(crate) fn greet(
        &self,
        disguise: Disguise,
        port: u16,
        answer: &Reply,
        family: Family,
    ) -> Result<()> {
        use flags::{ACK, PSH};
        let segment = |flags| {
            Tcp::new(port, 25, flags)
                .numbers(answer.acknowledgement, answer.sequence.wrapping_add(1))
        };
        self.say(disguise, segment(ACK), family)?;
        self.say(disguise, segment(ACK | PSH).data(HELO), family)?;
        Ok(())
    }

    /// The server's SYN and ACK.
    pub(crate) fn answer(
        &self,
        port: u16,
        seen: &mut Vec<Reply>,
        patience: Duration,
    ) -> Result<Option<Reply>> {
        let is_answer = |reply: &Reply| {
            (reply.source, reply.destination) == (25, port)
                && reply.flags & (flags::SYN | flags::ACK) == flags::SYN | flags::ACK
        };
        let deadline = Instant::now() + patience;
        loop {
            if let Some(found) = seen.iter().find(|reply| is_answer(reply)) {
                return Ok(Some(found.clone()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.line.next(left)? {
                Some(frame) => seen.extend(self.noted(&frame)),
                None if left.is_zero() => return Ok(None),
                None => {}
            }
        }
    }

    /// Whether the server reads a greeting from `port`.
    pub(crate) fn is_greeted(&self, port: u16, patience: Duration) -> Result<bool> {
        let Some(stream) = self.accepted(port, patience)? else { return Ok(false) };
        read(stream, patience)
    }

    /// The connection from `port`, if the server has one.
    pub(crate) fn accepted(&self, port: u16, patience: Duration) -> Result<Option<TcpStream>> {
        wait_until(patience, || {
            for listener in &self.mail {
                while let Ok((stream, peer)) = listener.accept() {
                    self.served.borrow_mut().insert(peer.port());
                    if peer.port() == port {
                        return Ok(Some(stream));
                    }
                }
            }
            Ok(None)
        })
    }

    /// Half a handshake with a port that is not filtered.
    pub(crate) fn barrier(&self, family: Family) -> Result<Vec<Reply>> {
        let port = next_port();
        let frame = |tcp| plain(family, tcp);
        self.line.send(&frame(Tcp::new(port, OPEN_PORT, flags::SYN).numbers(1, 0)))?;
        let mut seen = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "the line is dead: {family:?}");
            let Some(reply) = self.line.next(left)?.and_then(|frame| self.noted(&frame)) else {
                continue;
            };
            if (reply.source, reply.destination) == (OPEN_PORT, port) {
                let reset = Tcp::new(port, OPEN_PORT, flags::RST);
                self.line.send(&frame(reset.numbers(reply.acknowledgement, 0)))?;
                return Ok(seen);
            }
            seen.push(reply);
        }
    }

    /// Frames to the subscriber that have come down the line so far.
    pub(crate) fn pending(&self) -> Result<Vec<Reply>> {
        let mut seen = Vec::new();
        while let Some(frame) = self.line.next(Duration::ZERO)? {
            seen.extend(self.noted(&frame));
        }
        Ok(seen)
    }

    /// The `ports` of the subscriber that the server answered, however late.
    pub(crate) fn served(&self, ports: Range<u16>) -> Result<Vec<u16>> {
        self.pending()?;
        self.accepted(0, Duration::ZERO)?;
        Ok(self.served.borrow().range(ports).copied().collect())
    }

    fn noted(&self, frame: &[u8]) -> Option<Reply> {
        let reply = reply(frame)?;
        let is_answer = reply.flags & (flags::SYN | flags::ACK) == flags::SYN | flags::ACK;
        if reply.source == 25 && is_answer {
            self.served.borrow_mut().insert(reply.destination);
        }
        Some(reply)
    }
}

/// Addresses and routes of the gateway and the server's machine.
fn addresses(gateway: &Netns, internet: &Netns) -> Result<()> {
    gateway.address("core0", "192.0.2.1/24")?;
    gateway.address("core0", "2001:db8:7000::1/64")?;
    for host in [SERVER, RELAY] {
        internet.address("eth0", &format!("{}/24", host.v4))?;
        internet.address("eth0", &format!("{}/64", host.v6))?;
        gateway.ip(&format!("route replace {} dev core0", host.v4))?;
        gateway.ip(&format!("-6 route replace {} dev core0", host.v6))?;
    }
    for host in [SUBSCRIBER, STRANGER] {
        for address in [IpAddr::V4(host.v4), IpAddr::V6(host.v6)] {
            let family = if address.is_ipv6() { "-6" } else { "-4" };
            gateway.ip(&format!("{family} route add {address} dev sub0"))?;
            gateway.ip(&format!(
                "{family} neigh replace {address} lladdr 02:00:00:00:00:02 dev sub0 nud permanent"
            ))?;
        }
    }
    internet.default_route([192, 0, 2, 1].into())?;
    internet.default_route("2001:db8:7000::1".parse()?)?;

    internet.address("eth0", &format!("{CALLER}/24"))
}

pub(crate) fn read(mut stream: TcpStream, patience: Duration) -> Result<bool> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
    let mut text = Vec::new();
    let mut part = [0; 256];
    while !text.ends_with(HELO) {
        match stream.read(&mut part) {
            Ok(0) => return Ok(false),
            Ok(length) => text.extend(&part[..length]),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error).context("the server cannot read"),
        }
    }
    Ok(true)
}

/// An undisguised frame from the subscriber to the server.
pub(crate) fn plain(family: Family, tcp: Tcp) -> Vec<u8> {
    match family {
        Family::V4 => Ethernet::new().carrying(&Ipv4::new(SUBSCRIBER.v4, SERVER.v4).carrying(tcp)),
        Family::V6 => Ethernet::new().carrying(&Ipv6::new(SUBSCRIBER.v6, SERVER.v6).carrying(tcp)),
    }
}

pub(crate) fn next_port() -> u16 {
    static PORT: AtomicU16 = AtomicU16::new(20_000);
    PORT.fetch_add(1, Ordering::Relaxed)
}

fn next_id() -> u16 {
    static ID: AtomicU16 = AtomicU16::new(1);
    ID.fetch_add(1, Ordering::Relaxed)
}
