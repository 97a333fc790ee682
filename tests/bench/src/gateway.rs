//! A gateway under load: one cable from the generator, one towards the core, and something that filters between them.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;
use opb_lab::{
    frames::{Ethernet, Ipv4, Tcp, Udp},
    netns::{Netns, veth},
    process,
};
use serde_json::Value;

use crate::{
    clock::pin,
    programs::Generator,
    table::{OUTSIDE, Source},
};

/// The gateway's interfaces: towards subscribers, and towards the core.
pub const ACCESS: &str = "sub0";
pub const UPLINK: &str = "up0";
/// The generator's end of the cable.
const END: &str = "gen0";

/// Frames are this long: the generator writes that much.
const FRAME: usize = 80;

/// What the generator sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// SYNs to port 25.
    Smtp,
    /// Small UDP packets.
    Udp,
}

/// Where a server can listen behind the gateway.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 26);

pub struct Gateway {
    pub netns: Netns,
    /// Behind the access interface, also for programs of a subscriber.
    pub generator: Netns,
    /// Behind the uplink; it has the address [`SERVER`].
    pub core: Netns,
    frame: Vec<u8>,
    program: Generator,
}

/// What became of the frames of one measurement, in the kernel's own counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    pub time: Duration,
    /// Frames that the cable took. Others found it full.
    pub received: u64,
    pub lost: u64,
    /// Frames that left on the other side.
    pub delivered: u64,
}

impl Gateway {
    pub fn new(frames: Frames) -> Result<Self> {
        let [generator, netns, core] =
            [Netns::new("generator")?, Netns::new("gateway")?, Netns::new("core")?];
        // Nothing but the load on the cables.
        for netns in [&generator, &netns, &core] {
            netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
            netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        }
        veth((&netns, ACCESS), (&generator, END))?;
        veth((&netns, UPLINK), (&core, "eth0"))?;
        // A receiver takes redirected frames with XDP or GRO, and only some filters bring XDP. XDP brings GRO along, so
        // that without this the others would also have to do without it.
        for (netns, interface) in
            [(&netns, ACCESS), (&netns, UPLINK), (&generator, END), (&core, "eth0")]
        {
            process::check(netns.command("ethtool").args(["-K", interface, "gro", "on"]))?;
        }
        netns.ip(&format!("link set {ACCESS} address 02:00:00:00:00:01"))?;
        netns.sysctl("net/ipv4/ip_forward", "1")?;
        netns.address(ACCESS, "192.88.99.1/24")?;
        netns.address(UPLINK, "192.0.2.1/24")?;
        generator.address(END, "192.88.99.2/24")?;
        generator.default_route(Ipv4Addr::new(192, 88, 99, 1).into())?;
        core.address("eth0", &format!("{SERVER}/24"))?;
        core.default_route(Ipv4Addr::new(192, 0, 2, 1).into())?;
        netns.ip(&format!("neigh add {} lladdr 02:00:00:00:00:09 dev {UPLINK}", OUTSIDE.0))?;

        let packet = Ipv4::new([1, 2, 3, 4], OUTSIDE.0);
        let packet = match frames {
            Frames::Smtp => packet.carrying(Tcp::syn_to(25)),
            Frames::Udp => packet.carrying(Udp::new(53, 53, b"not mail")),
        };
        let mut frame = Ethernet::new().carrying(&packet);
        frame.resize(FRAME, 0);
        let out = generator.enter(|| Ok(if_nametoindex(END)?))?;
        let program = Generator::new(out, &frame)?;
        Ok(Self { netns, generator, core, frame, program })
    }

    pub fn set_sources(&mut self, sources: &[Source]) -> Result<()> {
        self.program.set_sources(sources)
    }

    /// Sends `count` frames, each with the next source, as fast as one processor can.
    pub fn load(&mut self, count: u32) -> Result<Load> {
        let before = self.counters()?;
        let (program, frame) = (&mut self.program, &self.frame);
        let time = self.generator.enter(|| {
            pin()?;
            program.send(frame, count)
        })?;
        let after = self.counters()?;
        let load = Load {
            time,
            received: after.received - before.received,
            lost: after.lost - before.lost,
            delivered: after.delivered - before.delivered,
        };
        ensure!(
            load.received + load.lost == u64::from(count),
            "{count} frames were sent, and the cable knows of {} and {} lost ones",
            load.received,
            load.lost
        );
        Ok(load)
    }

    fn counters(&self) -> Result<Load> {
        // NIC statistics:
        //      rx_queue_0_xdp_packets: 0
        let sum = |netns: &Netns, interface: &str, counter: &str| -> Result<u64> {
            let shown = process::check(netns.command("ethtool").args(["-S", interface]))?;
            let found = shown.lines().filter_map(|line| line.trim().split_once(": "));
            let found = found.filter(|(name, _)| name.ends_with(counter));
            Ok(found.filter_map(|(_, value)| value.parse::<u64>().ok()).sum())
        };
        let links = ["-json", "-statistics", "link", "show", "dev", UPLINK];
        let links = process::check(self.netns.command("ip").args(links))?;
        let links: Value = serde_json::from_str(&links).context("ip link")?;
        let delivered = links.pointer("/0/stats64/tx/packets").and_then(Value::as_u64);
        Ok(Load {
            time: Duration::ZERO,
            received: sum(&self.netns, ACCESS, "_xdp_packets")?,
            lost: sum(&self.generator, END, "_xdp_xmit_errors")?,
            delivered: delivered.context("ip link shows no statistics")?,
        })
    }
}
