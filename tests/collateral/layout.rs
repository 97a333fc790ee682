//! Packets whose headers lie in the fragments of a socket buffer, which a TC program has to
//! pull into the linear part first: large frames from a tap device, whose owner chooses the layout.

use std::{
    fs::File,
    io::Write,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use opb_lab::{
    filter::Filter,
    frames::{Ethernet, Ipv4, Ipv6, Tcp, flags},
    netns::{Netns, veth},
    packets::hosts::{DYNAMIC, ISP, OUTSIDE},
    tun,
    wire::Wire,
};
use opb_userspace::node::Hook;

use crate::{STRICT, UPSTREAM};

const MTU: u32 = 9000;
/// More than a page, below which tap copies everything into the linear part.
const DATA: usize = 6000;

/// ```text
///  (a file of the test's)  sub0  gateway: bridge  core0 ── eth0  internet
/// ```
struct Bench {
    gateway: Netns,
    tap: File,
    line: Wire,
    _internet: Netns,
}

/// How a frame lies in its socket buffer.
#[derive(Clone, Copy, Debug)]
enum Layout {
    /// So many bytes in the linear part.
    Linear(u16),
    /// One packet that stands for many: what GRO and TSO make. The headers end here.
    Segmented(u16),
}

impl Layout {
    /// `struct virtio_net_hdr`.
    fn header(self) -> [u8; 10] {
        let mut header = [0; 10];
        match self {
            Self::Linear(length) => header[2..4].copy_from_slice(&length.to_ne_bytes()),
            Self::Segmented(length) => {
                header[..2].copy_from_slice(&[1, 1]); // checksum is to come; TCP over IPv4
                header[2..4].copy_from_slice(&length.to_ne_bytes());
                header[4..6].copy_from_slice(&1400u16.to_ne_bytes());
                header[6..8].copy_from_slice(&(length - 20).to_ne_bytes()); // where TCP starts
                header[8..10].copy_from_slice(&16u16.to_ne_bytes()); // and its checksum in it
            }
        }
        header
    }
}

pub(crate) fn headers_are_read_wherever_they_are() -> Result<()> {
    let bench = Bench::build()?;
    let syn = |port| Tcp::new(50_000, port, flags::SYN).data(&[0x25; DATA]);
    let v4 = |to, port| Ethernet::new().carrying(&Ipv4::new(DYNAMIC.v4, to).carrying(syn(port)));
    let v6 = |port| {
        let packet = Ipv6::new(DYNAMIC.v6, OUTSIDE.v6).hop_by_hop(1).destination_options(1);
        Ethernet::new().carrying(&packet.carrying(syn(port)))
    };
    let denied = [v4(OUTSIDE.v4, 25), v6(25)];
    let allowed = [v4(OUTSIDE.v4, 2000), v4(ISP.v4, 25), v6(2000)];
    let layouts = [14, 15, 34, 54, 200].map(Layout::Linear);

    for frame in denied.iter().chain(&allowed) {
        for layout in layouts {
            ensure!(bench.through(layout, frame)? == [&**frame], "without filter: {layout:?}");
        }
    }
    // The driver of tap has no native XDP for frames of this size.
    for hook in [Hook::XdpGeneric, Hook::Tc, Hook::Clsact] {
        let filter = Filter::on(&bench.gateway, &[UPSTREAM], hook, STRICT, false)?;
        for layout in layouts {
            for frame in &denied {
                ensure!(bench.through(layout, frame)?.is_empty(), "{hook:?}, {layout:?}: passed");
            }
            for frame in &allowed {
                let out = bench.through(layout, frame)?;
                ensure!(out == [&**frame], "{hook:?}, {layout:?}: came out otherwise");
            }
        }
        let segmented = Layout::Segmented(54);
        ensure!(bench.through(segmented, &denied[0])?.is_empty(), "{hook:?}: segments passed");
        ensure!(!bench.through(segmented, &allowed[0])?.is_empty(), "{hook:?}: segments lost");
        filter.remove()?;
    }
    Ok(())
}

impl Bench {
    fn build() -> Result<Self> {
        let (gateway, internet) = (Netns::new("gateway")?, Netns::new("internet")?);
        for netns in [&gateway, &internet] {
            netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        }
        let tap = tun::open(&gateway, "sub0", tun::Kind::TapWithLayout)?;
        veth((&gateway, "core0"), (&internet, "eth0"))?;
        for (netns, name) in [(&gateway, "sub0"), (&gateway, "core0"), (&internet, "eth0")] {
            netns.ip(&format!("link set dev {name} mtu {MTU}"))?;
        }
        gateway.bridge("switch", &["sub0", "core0"])?;
        let line = Wire::open(&internet, "eth0")?;
        let bench = Self { gateway, tap, line, _internet: internet };
        // A port of a bridge forwards a moment after it is up.
        let deadline = Instant::now() + Duration::from_secs(5);
        while bench.line.next(Duration::from_millis(20))?.is_none() {
            ensure!(Instant::now() < deadline, "the bridge does not forward");
            bench.write(Layout::Linear(0), &mark())?;
        }
        while bench.line.next(Duration::from_millis(20))?.is_some() {}
        Ok(bench)
    }

    /// What comes out at the other side.
    fn through(&self, layout: Layout, frame: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.write(layout, frame)?;
        self.write(Layout::Linear(0), &mark())?;
        let mut out = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            ensure!(Instant::now() < deadline, "the line is dead: {layout:?}");
            match self.line.next(Duration::from_millis(100))? {
                Some(frame) if frame == mark() => return Ok(out),
                Some(frame) => out.push(frame),
                None => {}
            }
        }
    }

    fn write(&self, layout: Layout, frame: &[u8]) -> Result<()> {
        Ok((&self.tap).write_all(&[&layout.header(), frame].concat())?)
    }
}

/// A frame that arrives behind all frames that were sent before it.
fn mark() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    frame.resize(60, 0);
    frame
}
