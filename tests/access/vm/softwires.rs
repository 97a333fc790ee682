//! Two lines of one softwire endpoint: the outer address names the line, whatever is inside.
//!
//! ```text
//! one ───[access1]  gateway  [uplink]─── core: endpoint of all tunnels, anybody's mail server, the relay
//! two ───[access2]
//! ```

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{IpAddr, SocketAddr, SocketAddrV6, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::socket::{MsgFlags, SockaddrIn6, sendto},
};
use opb_lab::{
    netns::{Netns, veth},
    tun,
};
use opb_userspace::{
    kernel::Hook as Effective,
    node::{Hook, Role},
};

use super::net::{Answer, Filter, IMPATIENCE, PATIENCE, attach, connect, tc};

/// The lines are in a group by what they have outside; of the second, a contract says otherwise. Nobody knows what is inside.
const POLICY: &str = "\
version: 1
relays: {isp: {addresses: [198.51.100.25, \"2001:db8:25::/64\"]}}
groups: {dynamic: {prefixes: [203.0.113.0/24, \"2001:db8:1000::/36\"], relays: [isp]}}
exemptions:
  - {prefix: 203.0.113.17/32, reason: fixed address}
  - {prefix: \"2001:db8:1000:2::/64\", reason: fixed address}
softwires:
  all: {endpoints: [192.0.2.66, \"2001:db8:af::1\"]}
";

const ENDPOINT: [&str; 2] = ["192.0.2.66", "2001:db8:af::1"];
const FOREIGN: [&str; 2] = ["192.0.2.25", "2001:db8:7000::25"];
const RELAY: [&str; 2] = ["198.51.100.25", "2001:db8:25::1"];
/// Outer addresses of the two lines, and of the gateway on either.
const LINES: [[&str; 2]; 2] =
    [["203.0.113.9", "2001:db8:1000:1::9"], ["203.0.113.17", "2001:db8:1000:2::9"]];
const GATEWAYS: [[&str; 2]; 2] =
    [["203.0.113.10", "2001:db8:1000:1::1"], ["203.0.113.18", "2001:db8:1000:2::1"]];
const LENGTHS: [u8; 2] = [29, 64];

/// A large mail: 10 MB.
const MAIL: usize = 10_000_000;

/// What is in a tunnel, and how it is made.
struct Kind {
    /// 0 for IPv4 inside, 1 for IPv6.
    inner: usize,
    /// Inner addresses of the two lines.
    lines: [&'static str; 2],
    /// Type and options of the tunnel's device.
    device: &'static str,
    /// Ports that each line may use, where both have one address.
    ports: Option<[&'static str; 2]>,
}

#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn a_ds_lite_line_is_its_outer_address() -> Result<()> {
    Softwires::lay(&Kind {
        inner: 0,
        lines: ["192.168.1.5", "192.168.2.5"],
        device: "ip6tnl mode ipip6 encaplimit none",
        ports: None,
    })?
    .filter_on_each_hook()
}

#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn a_map_e_line_is_its_outer_address() -> Result<()> {
    Softwires::lay(&Kind {
        inner: 0,
        lines: ["198.18.0.1"; 2],
        device: "ip6tnl mode ipip6 encaplimit none",
        ports: Some(["1024-2047", "2048-3071"]),
    })?
    .filter_on_each_hook()
}

/// The tunnel's packets are as large as the path, so that each large one is fragmented outside.
#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn a_6rd_line_is_its_outer_address() -> Result<()> {
    Softwires::lay(&Kind {
        inner: 1,
        lines: ["2001:db8:6d:1::5", "2001:db8:6d:2::5"],
        device: "sit nopmtudisc",
        ports: None,
    })?
    .filter_on_each_hook()
}

struct Softwires {
    lines: [Netns; 2],
    gateway: Netns,
    _core: Netns,
    inner: usize,
    addresses: [&'static str; 2],
    relay: TcpListener,
    _foreign: Vec<TcpListener>,
}

impl Softwires {
    fn lay(kind: &Kind) -> Result<Self> {
        let (gateway, core) = (Netns::new("gateway")?, Netns::new("core")?);
        veth((&gateway, "uplink"), (&core, "line"))?;
        gateway.forward()?;
        let between = [["192.0.2.1", FOREIGN[0]], ["2001:db8:7000::1", FOREIGN[1]]];
        for (family, [near, far]) in between.into_iter().enumerate() {
            let length = [24, 64][family];
            gateway.address("uplink", &format!("{near}/{length}"))?;
            core.address("line", &format!("{far}/{length}"))?;
            core.default_route(near.parse()?)?;
            let whole = [32, 128][family];
            for server in [ENDPOINT[family], RELAY[family]] {
                core.address("lo", &format!("{server}/{whole}"))?;
                gateway.ip(&format!("route add {server} via {far}"))?;
            }
        }
        let lines = [Netns::new("one")?, Netns::new("two")?];
        for (number, line) in lines.iter().enumerate() {
            kind.connect(number, line, &gateway, &core)?;
        }
        let listen = |address: &str, port: u16| {
            let place = SocketAddr::new(address.parse()?, port);
            core.enter(|| Ok(TcpListener::bind(place)?))
        };
        let foreign = [25, 587].map(|port| listen(FOREIGN[kind.inner], port));
        let relay = listen(RELAY[kind.inner], 25)?;
        let foreign = foreign.into_iter().collect::<Result<_>>()?;
        let (inner, addresses) = (kind.inner, kind.lines);
        Ok(Self { lines, gateway, _core: core, inner, addresses, relay, _foreign: foreign })
    }

    fn filter_on_each_hook(&self) -> Result<()> {
        let _sender = if self.inner == 0 { Some(self.fragmenting_sender()?) } else { None };
        for line in 0..2 {
            ensure!(self.mail(line, FOREIGN, 25)? == Answer::Connected, "without a filter");
        }
        let mut filter = Filter::new(POLICY)?;
        for (hook, effective) in [(Hook::Xdp, Effective::Xdp), (Hook::Tc, tc()?)] {
            for access in ["access1", "access2"] {
                attach(&mut filter, &self.gateway, access, Role::Subscriber, hook, effective)?;
            }
            self.is_filtered(&filter).with_context(|| format!("{hook:?}"))?;
            filter.take_off(&self.gateway)?;
        }
        Ok(())
    }

    fn is_filtered(&self, filter: &Filter) -> Result<()> {
        let answer = self.mail(0, FOREIGN, 25)?;
        ensure!(answer == Answer::None, "the first line's mail to a stranger: {answer:?}");
        let denied = filter.denied()?;
        ensure!(denied > 0, "blocked, but not by the filter");
        for (line, to, port) in
            [(0, RELAY, 25), (0, FOREIGN, 587), (1, FOREIGN, 25), (1, RELAY, 25)]
        {
            let answer = self.mail(line, to, port)?;
            ensure!(answer == Answer::Connected, "line {line} to {to:?} port {port}: {answer:?}");
        }
        let before = self.fragments()?;
        self.large_mail()?;
        let made = self.fragments()? - before;
        ensure!(made > MAIL as u64 / 1500, "only {made} fragments were made of a large mail");
        ensure!(filter.denied()? == denied, "something else was denied");
        Ok(())
    }

    /// Sends the first line's packets in place of the tunnel's device, which fragments nothing.
    fn fragmenting_sender(&self) -> Result<Sender> {
        let line = &self.lines[0];
        let inside = tun::open(line, "sender", tun::Kind::Tun)?;
        line.ip("link set sender mtu 1500 up")?;
        line.ip(&format!("route replace default dev sender src {}", self.addresses[0]))?;
        line.sysctl("net/ipv4/conf/all/rp_filter", "0")?;
        line.sysctl("net/ipv4/conf/tunnel0/rp_filter", "0")?;
        Sender::start(line, inside)
    }

    /// IP fragments that the first line has made of outer packets.
    fn fragments(&self) -> Result<u64> {
        let (file, key) = [("snmp6", "Ip6FragCreates"), ("snmp", "FragCreates")][self.inner];
        let text = self.lines[0]
            .enter(|| Ok(fs::read_to_string(format!("/proc/thread-self/net/{file}"))?))?;
        let number = if self.inner == 0 {
            text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
        } else {
            let mut rows = text.lines().filter(|line| line.starts_with("Ip:"));
            let (names, values) = (rows.next().context("names")?, rows.next().context("values")?);
            let at = names.split(' ').position(|name| name == key).context("no such counter")?;
            values.split(' ').nth(at)
        };
        Ok(number.context("no such counter")?.parse()?)
    }

    fn mail(&self, line: usize, to: [&str; 2], port: u16) -> Result<Answer> {
        let to = SocketAddr::new(to[self.inner].parse()?, port);
        let source: IpAddr = self.addresses[line].parse()?;
        let limit = if line == 0 && port == 25 { IMPATIENCE } else { PATIENCE };
        self.lines[line].enter(|| connect(Some(source), to, limit))
    }

    /// From the first line to the relay.
    fn large_mail(&self) -> Result<()> {
        let to = self.relay.local_addr()?;
        let relay = self.relay.try_clone()?;
        let server = thread::spawn(move || -> Result<usize> {
            loop {
                // Earlier clients that only connected are gone.
                let (mut from, _) = relay.accept()?;
                from.set_read_timeout(Some(6 * PATIENCE))?;
                let mut mail = Vec::new();
                if from.read_to_end(&mut mail).is_ok() && !mail.is_empty() {
                    return Ok(mail.len());
                }
            }
        });
        let mut client = self.lines[0].enter(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
        client.write_all(&vec![0x25; MAIL])?;
        drop(client);
        let received = server.join().map_err(|_| anyhow!("the server panicked"))??;
        ensure!(received == MAIL, "{received} of {MAIL} bytes arrived");
        Ok(())
    }
}

/// Puts packets of a tun device into IPv6, as large as they are, so that the kernel fragments what is outside (RFC 6333,
/// section 5.3; Linux's tunnel devices send an ICMP error instead).
struct Sender {
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    fn start(line: &Netns, mut inside: File) -> Result<Self> {
        const IPV4: i32 = 4;
        let outside = line.enter(|| raw_ipv6(IPV4))?;
        let to: SocketAddrV6 = SocketAddrV6::new(ENDPOINT[1].parse()?, 0, 0, 0);
        let to = SockaddrIn6::from(to);
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        let thread = thread::spawn(move || {
            let mut packet = vec![0; 2000];
            while !stop.load(Ordering::Relaxed) {
                let mut ready = [PollFd::new(inside.as_fd(), PollFlags::POLLIN)];
                if poll(&mut ready, 100u16).unwrap_or(0) == 0 {
                    continue;
                }
                let Ok(length) = inside.read(&mut packet) else { return };
                // The kernel's own IPv6 packets, such as router solicitations, are nobody's here.
                if packet[0] >> 4 == 4 {
                    // What is lost is sent again.
                    let _ = sendto(outside.as_raw_fd(), &packet[..length], &to, MsgFlags::empty());
                }
            }
        });
        Ok(Self { stopped, thread: Some(thread) })
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn raw_ipv6(protocol: i32) -> Result<OwnedFd> {
    // SAFETY: a system call without pointers; the descriptor is nobody else's.
    unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let fd = Errno::result(libc::socket(libc::AF_INET6, kind, protocol))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

impl Kind {
    /// The cable of one line, and the tunnel over it.
    fn connect(&self, number: usize, line: &Netns, gateway: &Netns, core: &Netns) -> Result<()> {
        let outer = 1 - self.inner;
        let (inner, outer_line) = (self.lines[number], LINES[number][outer]);
        let access = format!("access{}", number + 1);
        veth((line, "line"), (gateway, &access))?;
        line.address("line", &format!("{outer_line}/{}", LENGTHS[outer]))?;
        let near = GATEWAYS[number][outer];
        gateway.address(&access, &format!("{near}/{}", LENGTHS[outer]))?;
        line.ip(&format!("route add {} via {near}", ENDPOINT[outer]))?;
        let tunnel = format!("tunnel{number}");
        for (netns, local, remote) in
            [(line, outer_line, ENDPOINT[outer]), (core, ENDPOINT[outer], outer_line)]
        {
            let Self { device, .. } = self;
            netns.ip(&format!(
                "link add name {tunnel} type {device} local {local} remote {remote}"
            ))?;
            // As large as the path, not as what is left of it: so the endpoint announces it as well.
            netns.ip(&format!("link set {tunnel} mtu 1500"))?;
            netns.ip(&format!("link set {tunnel} up"))?;
        }
        let whole = [32, 128][self.inner];
        line.address(&tunnel, &format!("{inner}/{whole}"))?;
        let default = ["0.0.0.0/0", "::/0"][self.inner];
        line.ip(&format!("route add {default} dev {tunnel}"))?;
        // What the endpoint announces must not depend on what its tunnel device has learnt of the path.
        let size = [1460, 1440][self.inner];
        let route = format!("route add {inner}/{whole} dev {tunnel} advmss {size}");
        let Some(ports) = self.ports else { return core.ip(&route) };
        let table = 101 + number;
        let ports = ports[number];
        core.ip(&format!("{route} table {table}"))?;
        core.ip(&format!("rule add to {inner} ipproto tcp dport {ports} lookup {table}"))?;
        line.sysctl("net/ipv4/ip_local_port_range", &ports.replace('-', " "))
    }
}
