//! The provider's network that the conformance table is about.
//!
//! ```text
//!  dynamic ─┐
//!  fixed   ─┼─ access ─ sub0 ┐         ┌ core0 ─ internet ─┬─ foreign MX
//!  home    ─┘                │         │                   └─ web host
//!  watched ─────────── sub1 ─┤ gateway ┤
//!  hosting ─────────── sub2 ─┘         └ srv0 ─── ISP relay
//! ```
//!
//! `access` and `internet` are switches. The relay hangs on a filtered interface of its own, as a server
//! segment on an edge router does: its mail to the outside has to get past the filter, not around it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::{Context, Result, bail};

use crate::{
    mta::{Certificate, Postfix, Role, Route, Starting},
    netns::{Netns, veth},
    services::WebHost,
    workdir::Workdir,
};

/// The gateway's filtered interfaces. All of them face hosts whose traffic is to be judged as they send it.
pub const SUBSCRIBER_INTERFACES: [&str; 4] = ["sub0", "sub1", "sub2", "srv0"];

pub const DYNAMIC_PREFIXES: [&str; 2] = ["203.0.113.0/25", "2001:db8:1000::/36"];
pub const WATCHED_PREFIXES: [&str; 2] = ["203.0.113.128/26", "2001:db8:2000::/36"];
pub const FIXED_PREFIXES: [&str; 2] = ["203.0.113.77/32", "2001:db8:1000:1::77/128"];
pub const RELAY_ADDRESSES: [&str; 2] = ["198.51.100.25", "2001:db8:25::/64"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Which way the home server and the relay send a recipient's mail on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Straight to the foreign MX.
    Direct,
    /// From the home server through the relay.
    Smarthost,
}

/// A recipient at the foreign provider. Way and family are part of the domain, so that one transport map
/// serves all rows.
pub fn foreign_recipient(via: Via, family: Family) -> String {
    format!("user@{}", foreign_domain(via, family))
}

pub const HOME_RECIPIENT: &str = "owner@home.example";

fn foreign_domain(via: Via, family: Family) -> String {
    let via = match via {
        Via::Direct => "direct",
        Via::Smarthost => "smarthost",
    };
    let family = match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    };
    format!("{via}.{family}.foreign.example")
}

/// A machine with one address of each family.
#[derive(Debug)]
pub struct Host {
    pub netns: Netns,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Host {
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

/// One link's prefixes with the gateway's address on it; hosts differ in the last part only.
struct Segment {
    v4: [u8; 3],
    v4_gateway: u8,
    v4_length: u8,
    v6: [u16; 4],
}

impl Segment {
    fn v4(&self, host: u8) -> Ipv4Addr {
        let [a, b, c] = self.v4;
        Ipv4Addr::new(a, b, c, host)
    }

    fn v6(&self, host: u16) -> Ipv6Addr {
        let [a, b, c, d] = self.v6;
        Ipv6Addr::new(a, b, c, d, 0, 0, 0, host)
    }

    /// Adds the gateway's end, an interface that exists already.
    fn serve(&self, gateway: &Netns, interface: &str) -> Result<()> {
        gateway.address(interface, &format!("{}/{}", self.v4(self.v4_gateway), self.v4_length))?;
        gateway.address(interface, &format!("{}/64", self.v6(1)))
    }

    /// Makes a host whose one interface hangs on `port` of `on`. `v6` is read as it is written: `0x77` ends in `::77`.
    fn host(&self, name: &str, (on, port): (&Netns, &str), v4: u8, v6: u16) -> Result<Host> {
        let netns = Netns::new(name)?;
        veth((&netns, "eth0"), (on, port))?;
        Ok(Host { netns, v4: self.v4(v4), v6: self.v6(v6) })
    }

    /// Addresses and routes of a host. After the cable, because a bridge port comes up with its bridge.
    fn configure(&self, Host { netns, v4, v6 }: &Host) -> Result<()> {
        netns.address("eth0", &format!("{v4}/{}", self.v4_length))?;
        netns.address("eth0", &format!("{v6}/64"))?;
        netns.default_route(self.v4(self.v4_gateway).into())?;
        netns.default_route(self.v6(1).into())
    }
}

const ACCESS: Segment =
    Segment { v4: [203, 0, 113], v4_gateway: 1, v4_length: 25, v6: [0x2001, 0xdb8, 0x1000, 1] };
const WATCHED: Segment =
    Segment { v4: [203, 0, 113], v4_gateway: 129, v4_length: 26, v6: [0x2001, 0xdb8, 0x2000, 1] };
const HOSTING: Segment =
    Segment { v4: [203, 0, 113], v4_gateway: 193, v4_length: 26, v6: [0x2001, 0xdb8, 0x3000, 1] };
const SERVERS: Segment =
    Segment { v4: [198, 51, 100], v4_gateway: 1, v4_length: 24, v6: [0x2001, 0xdb8, 0x25, 0] };
const INTERNET: Segment =
    Segment { v4: [192, 0, 2], v4_gateway: 1, v4_length: 24, v6: [0x2001, 0xdb8, 0xf000, 1] };

/// All machines, and the servers on them. Dropping it stops and removes everything.
#[derive(Debug)]
pub struct Topology {
    // Servers before networks before the directory they live in: fields drop in this order.
    pub home_mta: Postfix,
    pub relay_mta: Postfix,
    pub foreign_mta: Postfix,
    web_host: WebHost,

    pub gateway: Netns,
    pub dynamic: Host,
    pub fixed: Host,
    pub home: Host,
    pub watched: Host,
    pub hosting: Host,
    pub relay: Host,
    pub foreign: Host,
    pub web: Host,
    access: Netns,
    internet: Netns,

    workdir: Workdir,
}

impl Topology {
    pub fn build() -> Result<Self> {
        let workdir = Workdir::new("lab")?;

        let gateway = Netns::new("gateway")?;
        let access = Netns::new("access")?;
        let internet = Netns::new("internet")?;
        veth((&gateway, "sub0"), (&access, "uplink"))?;
        veth((&gateway, "core0"), (&internet, "uplink"))?;

        let dynamic = ACCESS.host("dynamic", (&access, "dynamic"), 10, 0x10)?;
        let fixed = ACCESS.host("fixed", (&access, "fixed"), 77, 0x77)?;
        let home = ACCESS.host("home", (&access, "home"), 20, 0x20)?;
        let watched = WATCHED.host("watched", (&gateway, "sub1"), 130, 0x130)?;
        let hosting = HOSTING.host("hosting", (&gateway, "sub2"), 200, 0x200)?;
        let relay = SERVERS.host("relay", (&gateway, "srv0"), 25, 0x25)?;
        let foreign = INTERNET.host("foreign", (&internet, "foreign"), 25, 0x25)?;
        let web = INTERNET.host("web", (&internet, "web"), 80, 0x80)?;
        access.bridge("switch", &["uplink", "dynamic", "fixed", "home"])?;
        internet.bridge("switch", &["uplink", "foreign", "web"])?;

        gateway.forward()?;
        let links: [(&Segment, &str, &[&Host]); 5] = [
            (&ACCESS, "sub0", &[&dynamic, &fixed, &home]),
            (&WATCHED, "sub1", &[&watched]),
            (&HOSTING, "sub2", &[&hosting]),
            (&SERVERS, "srv0", &[&relay]),
            (&INTERNET, "core0", &[&foreign, &web]),
        ];
        for (segment, interface, hosts) in links {
            segment.serve(&gateway, interface)?;
            for host in hosts {
                segment.configure(host)?;
            }
        }

        let certificate = Certificate::self_signed(workdir.path(), "foreign.example")?;
        let start = |host: &Host, role: Role| {
            Starting::begin(&host.netns, &workdir.path().join(&role.name), &role)
        };
        let home_mta = start(&home, home_role(&relay, &foreign))?;
        let relay_mta = start(&relay, relay_role(&foreign))?;
        let foreign_mta = start(&foreign, foreign_role(certificate.clone()))?;
        let web_dir = workdir.path().join("web");
        std::fs::create_dir(&web_dir)?;
        let web_host = WebHost::start(&web.netns, &web_dir, &certificate)?;
        Ok(Self {
            home_mta: home_mta.finish()?,
            relay_mta: relay_mta.finish()?,
            foreign_mta: foreign_mta.finish()?,
            web_host,
            gateway,
            dynamic,
            fixed,
            home,
            watched,
            hosting,
            relay,
            foreign,
            web,
            access,
            internet,
            workdir,
        })
    }

    /// A place for files of whatever runs in this network.
    pub fn dir(&self) -> &Path {
        self.workdir.path()
    }

    /// Stops everything and fails if something is still there afterwards.
    pub fn tear_down(mut self) -> Result<()> {
        self.web_host.stop()?;
        for mta in [&mut self.home_mta, &mut self.relay_mta, &mut self.foreign_mta] {
            mta.stop()?;
        }
        let namespaces = self.namespaces().map(Clone::clone);
        let dir = self.dir().to_owned();
        drop(self);

        // Postfix's services end by themselves when they miss their master, a moment after it.
        for netns in &namespaces {
            let limit = std::time::Duration::from_secs(5);
            let empty = crate::process::wait_until(limit, || {
                Ok(netns.inhabitants()?.is_empty().then_some(()))
            })?;
            if empty.is_none() {
                bail!("still running in {}: {}", netns.name(), netns.inhabitants()?.join(", "));
            }
        }
        if dir.exists() {
            bail!("{} is still there", dir.display());
        }
        let mounts = std::fs::read_to_string("/proc/mounts").context("cannot read the mounts")?;
        if mounts.contains(&*dir.to_string_lossy()) {
            bail!("something is still mounted below {}", dir.display());
        }
        Ok(())
    }

    /// How many machines and switches there are.
    pub fn size(&self) -> usize {
        self.namespaces().len()
    }

    fn namespaces(&self) -> [&Netns; 11] {
        [
            &self.gateway,
            &self.access,
            &self.internet,
            &self.dynamic.netns,
            &self.fixed.netns,
            &self.home.netns,
            &self.watched.netns,
            &self.hosting.netns,
            &self.relay.netns,
            &self.foreign.netns,
            &self.web.netns,
        ]
    }
}

fn home_role(relay: &Host, foreign: &Host) -> Role {
    let mut routes = Vec::new();
    for family in Family::BOTH {
        let next = [(Via::Direct, foreign, true), (Via::Smarthost, relay, false)];
        for (via, host, impatient) in next {
            let (domain, next_hop) = (foreign_domain(via, family), host.address(family));
            routes.push(Route { domain, next_hop, impatient });
        }
    }
    Role {
        name: "mail.home.example".to_owned(),
        domains: vec!["home.example".to_owned()],
        routes,
        ..Role::default()
    }
}

fn relay_role(foreign: &Host) -> Role {
    let mut routes = Vec::new();
    for family in Family::BOTH {
        for via in [Via::Direct, Via::Smarthost] {
            let (domain, next_hop) = (foreign_domain(via, family), foreign.address(family));
            routes.push(Route { domain, next_hop, impatient: false });
        }
    }
    // Postfix wants IPv6 networks with the address part in brackets.
    let clients = DYNAMIC_PREFIXES.iter().chain(&WATCHED_PREFIXES).map(|prefix| {
        match prefix.split_once('/') {
            Some((address, length)) if address.contains(':') => format!("[{address}]/{length}"),
            _ => (*prefix).to_owned(),
        }
    });
    Role {
        name: "relay.isp.example".to_owned(),
        domains: vec!["isp.example".to_owned()],
        routes,
        clients: clients.collect(),
        ..Role::default()
    }
}

fn foreign_role(certificate: Certificate) -> Role {
    let mut domains = Vec::new();
    for family in Family::BOTH {
        domains.extend([Via::Direct, Via::Smarthost].map(|via| foreign_domain(via, family)));
    }
    Role {
        name: "mx.foreign.example".to_owned(),
        domains,
        submission: Some(certificate),
        ..Role::default()
    }
}
