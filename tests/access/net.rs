//! A subscriber, a gateway that routes, and the world behind it.
//!
//! ```text
//! subscriber            gateway               core
//!      [line]──────[access]  [uplink]──────[line]  192.0.2.25 anybody's mail server, 198.51.100.25 the relay
//! ```
//!
//! What stands on the line (tags, sessions, tunnels) is the business of each test.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::net::if_::if_nametoindex;
use opb_common::outcome::Direction;
use opb_lab::{
    bpffs::Bpffs,
    netns::{Netns, veth},
    topology::Family,
};
use opb_userspace::{
    image::{Image, Slots},
    kernel::{self, Attached, Hook as Effective, Kernel, Wanted},
    node::{Hook, Role},
    policy::Policy,
};

pub(crate) const ACCESS: &str = "access";
pub(crate) const UPLINK: &str = "uplink";
pub(crate) const LINE: &str = "line";

/// Denied to the subscriber but for the relay.
pub(crate) const POLICY: &str = "\
version: 1
relays: {isp: {addresses: [198.51.100.25, 2001:db8:25::/64]}}
groups: {dynamic: {prefixes: [203.0.113.0/24, 2001:db8:1000::/36], relays: [isp]}}
";

/// The subscriber, and the gateway on its line.
pub(crate) const SUBSCRIBER: [&str; 2] = ["203.0.113.9", "2001:db8:1000::9"];
pub(crate) const ROUTER: [&str; 2] = ["203.0.113.1", "2001:db8:1000::1"];
const FOREIGN: [&str; 2] = ["192.0.2.25", "2001:db8:7000::25"];
const RELAY: [&str; 2] = ["198.51.100.25", "2001:db8:25::1"];

/// Somebody whose sessions are accepted by the test.
const LISTENER: &str = "192.0.2.26";

/// Emulated machines are slow: what connects has time.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is blocked is known by the counter, not by the time.
const IMPATIENCE: Duration = Duration::from_millis(400);

pub(crate) struct Net {
    pub(crate) subscriber: Netns,
    pub(crate) gateway: Netns,
    pub(crate) core: Netns,
    /// Nobody accepts: the kernel completes a connection by itself.
    _listeners: Vec<TcpListener>,
}

impl Net {
    /// Lays the cables and sets the core up; the line has no addresses yet.
    pub(crate) fn lay() -> Result<Self> {
        let (subscriber, gateway, core) =
            (Netns::new("subscriber")?, Netns::new("gateway")?, Netns::new("core")?);
        veth((&subscriber, LINE), (&gateway, ACCESS))?;
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
        let listeners = core.enter(|| {
            let addresses = FOREIGN.into_iter().chain(RELAY);
            let places = addresses.flat_map(|address| [(address, 25), (address, 80)]);
            places.map(|place| Ok(TcpListener::bind(place)?)).collect()
        })?;
        Ok(Self { subscriber, gateway, core, _listeners: listeners })
    }

    /// Gives the subscriber's device and the gateway's their addresses, and the subscriber its way out.
    pub(crate) fn address(&self, at_subscriber: &str, at_gateway: &str) -> Result<()> {
        for ((subscriber, router), prefix) in SUBSCRIBER.iter().zip(ROUTER).zip([24, 64]) {
            self.subscriber.address(at_subscriber, &format!("{subscriber}/{prefix}"))?;
            self.gateway.address(at_gateway, &format!("{router}/{prefix}"))?;
            self.subscriber.default_route(router.parse()?)?;
        }
        Ok(())
    }

    /// Fails unless the subscriber's sessions get through, over each family, to all that there is.
    pub(crate) fn is_open(&self) -> Result<()> {
        for family in Family::BOTH.map(|family| family as usize) {
            for (to, port) in [(FOREIGN[family], 25), (RELAY[family], 25), (FOREIGN[family], 80)] {
                ensure!(self.connects(to, port, PATIENCE)?, "{to} port {port} cannot be reached");
            }
        }
        Ok(())
    }

    /// Fails unless mail to anybody is denied and counted, and mail to the relay and the web are as they were.
    pub(crate) fn is_filtered(&self, filter: &Filter) -> Result<()> {
        self.is_filtered_in(filter, &Family::BOTH)
    }

    fn is_filtered_in(&self, filter: &Filter, families: &[Family]) -> Result<()> {
        for family in families.iter().map(|&family| family as usize) {
            let before = filter.denied()?;
            let foreign = FOREIGN[family];
            ensure!(!self.connects(foreign, 25, IMPATIENCE)?, "{foreign} port 25 can be reached");
            ensure!(filter.denied()? > before, "{foreign} port 25: blocked, but not by the filter");
            let counted = filter.denied()?;
            for (to, port) in [(RELAY[family], 25), (foreign, 80)] {
                ensure!(self.connects(to, port, PATIENCE)?, "{to} port {port} cannot be reached");
            }
            // The blocked connection is over, and nothing else may have been denied.
            ensure!(filter.denied()? == counted, "something else was denied over {foreign}");
        }
        Ok(())
    }

    fn connects(&self, to: &str, port: u16, limit: Duration) -> Result<bool> {
        let to = SocketAddr::new(to.parse::<IpAddr>()?, port);
        self.subscriber.enter(|| match TcpStream::connect_timeout(&to, limit) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::TimedOut => Ok(false),
            Err(error) => Err(error).with_context(|| format!("{to}")),
        })
    }

    /// A connection to somebody's port 25, both ends of it.
    pub(crate) fn session(&self) -> Result<(TcpStream, TcpStream)> {
        let listener = self.core.enter(|| Ok(TcpListener::bind((LISTENER, 25))?))?;
        let to = listener.local_addr()?;
        let near = self.subscriber.enter(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
        let (far, _) = listener.accept()?;
        Ok((near, far))
    }

    /// Puts the filter on each of the interfaces and hooks in turn, and looks at what gets through.
    pub(crate) fn filter_on(&self, places: &[(&str, Hook, Effective)]) -> Result<()> {
        self.filter_in_on(&Family::BOTH, places)
    }

    /// The same for places where only one family comes by.
    pub(crate) fn filter_in_on(
        &self,
        families: &[Family],
        places: &[(&str, Hook, Effective)],
    ) -> Result<()> {
        self.is_open().context("before there was a filter")?;
        let mut filter = Filter::new(POLICY)?;
        for &(interface, hook, effective) in places {
            filter
                .on(self, interface, Role::Subscriber, hook, effective)
                .and_then(|()| self.is_filtered_in(&filter, families))
                .and_then(|()| filter.off(self))
                .with_context(|| format!("with the filter on {interface}, hook {hook:?}"))?;
        }
        self.is_open().context("after the filter was taken off")
    }
}

pub(crate) struct Filter {
    pub(crate) kernel: Option<Kernel>,
    slots: Slots,
    pub(crate) bpffs: Bpffs,
}

impl Filter {
    /// The policy in force; no program on any interface.
    pub(crate) fn new(policy: &str) -> Result<Self> {
        let bpffs = Bpffs::mount()?;
        let image = image(policy, 1)?;
        let mut kernel = Kernel::open(&bpffs.path().join("opb"), None)?;
        kernel.publish(&image)?;
        Ok(Self { kernel: Some(kernel), slots: image.slots().clone(), bpffs })
    }

    pub(crate) fn kernel(&mut self) -> Result<&mut Kernel> {
        self.kernel.as_mut().context("the filter has no process")
    }

    /// What a daemon leaves that is killed, and what the next one finds.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.kernel = None;
        self.kernel = Some(Kernel::open(&self.bpffs.path().join("opb"), None)?);
        Ok(())
    }

    /// Attaches one program, and fails unless it is on the hook that is expected.
    pub(crate) fn on(
        &mut self,
        net: &Net,
        interface: &str,
        role: Role,
        hook: Hook,
        effective: Effective,
    ) -> Result<()> {
        let kernel = self.kernel()?;
        let Attached { hook: got, warning, .. } = net.gateway.enter(|| {
            let wanted = Wanted {
                interface: interface.to_owned(),
                index: if_nametoindex(interface)?,
                role,
                direction: Direction::Upstream,
                hook,
                unknown_drop: false,
            };
            match kernel.attach(&[wanted]).pop() {
                Some(Ok(attached)) => Ok(attached),
                Some(Err(refused)) => Err(anyhow!(refused.error)),
                None => bail!("no answer"),
            }
        })?;
        ensure!(got == effective, "on {got:?} instead of {effective:?}: {warning:?}");
        Ok(())
    }

    /// Takes every program off.
    pub(crate) fn off(&mut self, net: &Net) -> Result<()> {
        let kernel = self.kernel()?;
        net.gateway.enter(|| Ok(kernel.detach_unwanted(&[])?))?;
        Ok(())
    }

    /// Removes all that is in the kernel, as `opb detach` does.
    pub(crate) fn detach(mut self, net: &Net) -> Result<()> {
        self.kernel = None;
        let pins = self.bpffs.path().join("opb");
        net.gateway.enter(|| Ok(kernel::detach(&pins)?))?;
        ensure!(self.bpffs.pins()?.is_empty(), "pins are left: {:?}", self.bpffs.pins()?);
        Ok(())
    }

    pub(crate) fn denied(&self) -> Result<u64> {
        let kernel = self.kernel.as_ref().context("the filter has no process")?;
        let rows = kernel.counters(&self.slots);
        Ok(rows.iter().filter(|row| row.verdict == "drop").map(|row| row.packets).sum())
    }
}

pub(crate) fn image(policy: &str, generation: u64) -> Result<Image> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("policy.yaml");
    fs::write(&file, policy)?;
    let policy = Policy::load(&[file]).map_err(|error| anyhow!("{error}"))?;
    Ok(Image::compile(&policy, &Slots::default(), generation, jiff::Timestamp::now())?)
}

/// Where `hook: tc` leads on this kernel.
pub(crate) fn tc() -> Result<Effective> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Ok(if version >= (6, 6) { Effective::Tcx } else { Effective::Clsact })
}
