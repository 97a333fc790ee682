//! A subscriber, a gateway that routes, and the world behind it.
//!
//! ```text
//! subscriber            gateway               core
//!      [line]──────[access]  [uplink]──────[line]  192.0.2.25 anybody's mail server, 198.51.100.25 the relay
//! ```
//!
//! Each test adds tags, sessions or tunnels to the line.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket,
            sockopt::SendTimeout,
        },
        time::{TimeVal, TimeValLike},
    },
};
use opb_common::outcome::Direction;
use opb_lab::{
    netns::{Netns, veth},
    process,
    programs::{compile, wanted},
    release,
    topology::Family,
};
use opb_userspace::{
    image::{GroupIds, Image},
    kernel::Hook as Effective,
    node::{Hook, Role},
};

pub(crate) use opb_lab::programs::Programs as Filter;

pub(crate) const ACCESS: &str = "access";
pub(crate) const UPLINK: &str = "uplink";
pub(crate) const LINE: &str = "line";

/// Port 25 is denied to the subscriber, except to the relay.
pub(crate) const POLICY: &str = "\
version: 1
relays: {isp: {addresses: [198.51.100.25, 2001:db8:25::/64]}}
groups: {dynamic: {prefixes: [203.0.113.0/24, 2001:db8:1000::/36], relays: [isp]}}
exemptions:
  - {prefix: 203.0.113.77/32, reason: fixed address}
  - {prefix: 2001:db8:1000::77/128, reason: fixed address}
";

/// The subscriber, and the gateway on its line.
pub(crate) const SUBSCRIBER: [&str; 2] = ["203.0.113.9", "2001:db8:1000::9"];
pub(crate) const ROUTER: [&str; 2] = ["203.0.113.1", "2001:db8:1000::1"];
/// Another subscriber on the same line, with a fixed address.
pub(crate) const FIXED: [&str; 2] = ["203.0.113.77", "2001:db8:1000::77"];
const FOREIGN: [&str; 2] = ["192.0.2.25", "2001:db8:7000::25"];
const RELAY: [&str; 2] = ["198.51.100.25", "2001:db8:25::1"];

/// Who opens a session.
#[derive(Clone, Copy, Debug, PartialEq)]
enum From {
    Subscriber,
    /// The subscriber with the fixed address.
    Fixed,
    /// A host behind the core, to the subscriber.
    Outside,
}

/// The part of the provider's FAQ that the form of access could change, as TCP sessions: number of the row (as in
/// `opb_lab::faq`), who opens, to whom, to which port. Row 1 is denied, the others are not.
type Session = (u8, From, [&'static str; 2], u16);
const SESSIONS: [Session; 8] = [
    (1, From::Subscriber, FOREIGN, 25),
    (2, From::Subscriber, RELAY, 25),
    (3, From::Subscriber, FOREIGN, 587),
    (3, From::Subscriber, FOREIGN, 465),
    (4, From::Subscriber, FOREIGN, 80),
    (4, From::Subscriber, FOREIGN, 993),
    (7, From::Outside, SUBSCRIBER, 25),
    (8, From::Fixed, FOREIGN, 25),
];

/// A host whose sessions the test accepts.
const LISTENER: &str = "192.0.2.26";

/// For connections that must open: emulated machines are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// For connections that must not open: the counter proves that they were denied.
pub(crate) const IMPATIENCE: Duration = Duration::from_millis(400);

pub(crate) struct Net {
    pub(crate) subscriber: Netns,
    pub(crate) gateway: Netns,
    pub(crate) core: Netns,
    /// The kernel completes connections to them; the test does not accept.
    _listeners: Vec<TcpListener>,
}

impl Net {
    /// Lays the cables and sets the core up; the line has no addresses yet.
    pub(crate) fn lay() -> Result<Self> {
        let (subscriber, gateway) = (Netns::new("subscriber")?, Netns::new("gateway")?);
        veth((&subscriber, LINE), (&gateway, ACCESS))?;
        Self::behind(subscriber, gateway)
    }

    /// The same with two connected devices of this namespace as the ends of the subscriber's cable.
    pub(crate) fn over([near, far]: &[String; 2]) -> Result<Self> {
        let (subscriber, gateway) = (Netns::new("subscriber")?, Netns::new("gateway")?);
        for (device, netns, name) in [(near, &subscriber, LINE), (far, &gateway, ACCESS)] {
            let place = netns.path();
            let place = place.display().to_string();
            let mut command = Command::new("ip");
            command.args(["link", "set", "dev", device, "netns", &place, "name", name]);
            process::check(&mut command)?;
            netns.ip(&format!("link set {name} up"))?;
        }
        Self::behind(subscriber, gateway)
    }

    fn behind(subscriber: Netns, gateway: Netns) -> Result<Self> {
        let core = Netns::new("core")?;
        veth((&gateway, UPLINK), (&core, LINE))?;
        gateway.forward()?;
        for (prefix, [router, foreign], relay) in [
            (24, ["192.0.2.1", FOREIGN[0]], RELAY[0]),
            (64, ["2001:db8:7000::1", FOREIGN[1]], RELAY[1]),
        ] {
            gateway.address(UPLINK, &format!("{router}/{prefix}"))?;
            core.address(LINE, &format!("{foreign}/{prefix}"))?;
            core.address("lo", &format!("{relay}/{}", if prefix == 24 { 32 } else { 128 }))?;
            gateway.ip(&format!("route add {relay} via {foreign}"))?;
            core.default_route(router.parse()?)?;
        }
        core.address(LINE, &format!("{LISTENER}/24"))?;
        let mut listeners: Vec<TcpListener> = core.enter(|| {
            let outside = SESSIONS.iter().filter(|(_, from, ..)| *from != From::Outside);
            let places: BTreeSet<_> =
                outside.flat_map(|(.., to, port)| to.map(|address| (address, *port))).collect();
            places.into_iter().map(|place| Ok(TcpListener::bind(place)?)).collect()
        })?;
        listeners.push(subscriber.enter(|| Ok(TcpListener::bind(("::", 25))?))?);
        Ok(Self { subscriber, gateway, core, _listeners: listeners })
    }

    /// Gives the devices of subscriber and gateway their addresses, and the subscriber a default route.
    pub(crate) fn address(&self, at_subscriber: &str, at_gateway: &str) -> Result<()> {
        self.gateway_address(at_gateway)?;
        for (family, prefix) in [(0, 24), (1, 64)] {
            let router = ROUTER[family];
            for address in [SUBSCRIBER[family], FIXED[family]] {
                self.subscriber.address(at_subscriber, &format!("{address}/{prefix}"))?;
            }
            self.subscriber.default_route(router.parse()?)?;
        }
        Ok(())
    }

    /// The gateway's addresses on the line.
    pub(crate) fn gateway_address(&self, device: &str) -> Result<()> {
        for (router, prefix) in ROUTER.into_iter().zip([24, 64]) {
            self.gateway.address(device, &format!("{router}/{prefix}"))?;
        }
        Ok(())
    }

    /// Fails unless all sessions open, over each family.
    pub(crate) fn is_open(&self) -> Result<()> {
        for family in Family::BOTH {
            for session in &SESSIONS {
                self.comes_about(session, family)?;
            }
        }
        Ok(())
    }

    /// Fails unless the filter denies mail to strangers, and nothing else, over each family.
    pub(crate) fn is_filtered(&self, filter: &Filter) -> Result<()> {
        self.denies(filter, &Family::BOTH, &[1])
    }

    /// Fails unless the filter denies the sessions of these rows, and no others.
    pub(crate) fn denies(&self, filter: &Filter, families: &[Family], rows: &[u8]) -> Result<()> {
        for &family in families {
            let (denied, allowed): (Vec<_>, Vec<_>) =
                SESSIONS.iter().partition(|(row, ..)| rows.contains(row));
            for session in denied {
                let before = filter.denied()?;
                let answer = self.connects(session, family, IMPATIENCE)?;
                ensure!(answer == Answer::None, "{session:?} over {family}: {answer:?}");
                ensure!(filter.denied()? > before, "{session:?}: blocked, but not by the filter");
            }
            let counted = filter.denied()?;
            for session in allowed {
                self.comes_about(session, family)?;
            }
            // The denied connections are over: nothing else may be denied.
            ensure!(filter.denied()? == counted, "something else was denied over {family}");
        }
        Ok(())
    }

    /// Fails unless mail to strangers gets no answer, and everything else does.
    pub(crate) fn is_denied_and_allowed(&self) -> Result<()> {
        for family in Family::BOTH {
            for session in &SESSIONS {
                let (denied, limit) = match session.0 {
                    1 => (true, IMPATIENCE),
                    _ => (false, PATIENCE),
                };
                let answer = self.connects(session, family, limit)?;
                let expected = if denied { Answer::None } else { Answer::Connected };
                ensure!(answer == expected, "{session:?} over {family}: {answer:?}");
            }
        }
        Ok(())
    }

    fn comes_about(&self, session: &Session, family: Family) -> Result<()> {
        let answer = self.connects(session, family, PATIENCE)?;
        ensure!(answer == Answer::Connected, "{session:?} over {family}: {answer:?}");
        Ok(())
    }

    /// Opens the subscriber's mail session to a stranger.
    pub(crate) fn mail_is_answered(&self, family: Family) -> Result<Answer> {
        self.connects(&SESSIONS[0], family, PATIENCE)
    }

    fn connects(
        &self,
        &(_, from, to, port): &Session,
        family: Family,
        limit: Duration,
    ) -> Result<Answer> {
        let (netns, source) = match from {
            From::Subscriber => (&self.subscriber, Some(SUBSCRIBER)),
            From::Fixed => (&self.subscriber, Some(FIXED)),
            From::Outside => (&self.core, None),
        };
        let family = family as usize;
        let to = SocketAddr::new(to[family].parse()?, port);
        let source = source.map(|source| source[family].parse()).transpose()?;
        netns.enter(|| connect(source, to, limit)).with_context(|| format!("{source:?} to {to}"))
    }

    /// A connection to somebody's port 25, both ends of it.
    pub(crate) fn session(&self) -> Result<(TcpStream, TcpStream)> {
        let listener = self.core.enter(|| Ok(TcpListener::bind((LISTENER, 25))?))?;
        let to = listener.local_addr()?;
        let near = self.subscriber.enter(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
        let (far, _) = listener.accept()?;
        Ok((near, far))
    }

    /// Puts the filter on each of the interfaces and hooks in turn, and compares what gets through.
    pub(crate) fn filter_on(&self, places: &[(&str, Hook, Effective)]) -> Result<()> {
        self.filter_in_on(&Family::BOTH, places)
    }

    /// The same for interfaces that carry one family only.
    pub(crate) fn filter_in_on(
        &self,
        families: &[Family],
        places: &[(&str, Hook, Effective)],
    ) -> Result<()> {
        self.is_open().context("before there was a filter")?;
        let mut filter = Filter::new(POLICY)?;
        for &(interface, hook, effective) in places {
            attach(&mut filter, &self.gateway, interface, Role::Subscriber, hook, effective)
                .and_then(|()| self.denies(&filter, families, &[1]))
                .and_then(|()| filter.take_off(&self.gateway))
                .with_context(|| format!("with the filter on {interface}, hook {hook:?}"))?;
        }
        self.is_open().context("after the filter was taken off")
    }
}

/// How an attempt to connect ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answer {
    Connected,
    Refused,
    None,
}

pub(crate) fn connect(source: Option<IpAddr>, to: SocketAddr, limit: Duration) -> Result<Answer> {
    let family = if to.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if let Some(source) = source {
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    }
    setsockopt(&socket, SendTimeout, &TimeVal::milliseconds(limit.as_millis() as i64))?;
    match nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => Ok(Answer::Connected),
        Err(Errno::ECONNREFUSED) => Ok(Answer::Refused),
        Err(Errno::EINPROGRESS | Errno::ETIMEDOUT) => Ok(Answer::None),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn image(policy: &str, generation: u64) -> Result<Image> {
    compile(policy, &GroupIds::default(), generation)
}

/// Attaches one upstream program, and fails unless it is on the hook that is expected.
pub(crate) fn attach(
    filter: &mut Filter,
    gateway: &Netns,
    interface: &str,
    role: Role,
    hook: Hook,
    effective: Effective,
) -> Result<()> {
    filter.attach(gateway, wanted(interface, role, Direction::Upstream, hook), effective)
}

/// Where `hook: tc` leads on this kernel.
pub(crate) fn tc() -> Result<Effective> {
    Ok(if release::has_tcx()? { Effective::Tcx } else { Effective::Clsact })
}
