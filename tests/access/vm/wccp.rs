//! GRE of WCCP: Linux decapsulates it as a packet of the outer family, so the filter must read it.

use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use opb_lab::{
    frames::{Ethernet, Gre, Ipv4, Ipv6, Packet, Raw, Tcp, flags},
    packets::hosts::{DYNAMIC, ISP, OUTSIDE},
    wire::Wire,
};
use opb_userspace::{
    kernel::Hook as Effective,
    node::{Hook, Role},
};

use super::net::{ACCESS, Filter, IMPATIENCE, LINE, Net, PATIENCE, POLICY, SUBSCRIBER, attach, tc};

const WCCP: u16 = 0x883e;

/// A SYN to a stranger's port 25 in each form that Linux accepts: version 1 over IPv4, and version 2,
/// which has four bytes before the packet, over either family.
fn syns(port: u16) -> Result<[(&'static str, Vec<u8>); 3]> {
    let own: Ipv6Addr = SUBSCRIBER[1].parse()?;
    let tcp = || Tcp::new(port, 25, flags::SYN);
    let four = || Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(tcp());
    let six = Ipv6::new(own, OUTSIDE.v6).carrying(tcp());
    let redirected =
        |inside: Vec<u8>| Raw(47, [&[0, 0, 0x88, 0x3e, 0, 0, 0, 0], &*inside].concat());
    let link = Ethernet::new();
    let over4 = || Ipv4::new(DYNAMIC.v4, ISP.v4);
    let one = over4().carrying(Gre::of(&four()).protocol(WCCP));
    let two = over4().carrying(redirected(Packet::bytes(&four())));
    let over6 = Ipv6::new(own, ISP.v6).carrying(redirected(Packet::bytes(&six)));
    Ok([
        ("version 1", link.carrying(&one)),
        ("version 2", link.carrying(&two)),
        ("version 2 over IPv6", link.carrying(&over6)),
    ])
}

/// Whether the stranger answers with a SYN and ACK to `port`, in no tunnel.
fn is_answered(line: &Wire, frame: &[u8], port: u16, limit: Duration) -> Result<bool> {
    line.send(frame)?;
    let start = Instant::now();
    while let Some(left) = limit.checked_sub(start.elapsed()) {
        let Some(frame) = line.next(left)? else { continue };
        let tcp = match frame.get(12..14) {
            Some([0x08, 0x00]) => frame.get(14 + 20..),
            Some([0x86, 0xdd]) => frame.get(14 + 40..),
            _ => None,
        };
        let ports = [&25u16.to_be_bytes()[..], &port.to_be_bytes()].concat();
        if tcp.is_some_and(|tcp| tcp.starts_with(&ports) && tcp.get(13) == Some(&0x12)) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn gre_of_wccp() -> Result<()> {
    let net = Net::lay()?;
    net.address(LINE, ACCESS)?;
    // The MAC addresses of the lab's frames.
    net.gateway.ip(&format!("link set {ACCESS} address 02:00:00:00:00:01"))?;
    net.subscriber.ip(&format!("link set {LINE} address 02:00:00:00:00:02"))?;
    for (kind, near, far) in
        [("gre", ISP.v4.to_string(), SUBSCRIBER[0]), ("ip6gre", ISP.v6.to_string(), SUBSCRIBER[1])]
    {
        net.core.ip(&format!("link add name {kind}9 type {kind} local {near} remote {far}"))?;
        net.core.ip(&format!("link set {kind}9 up"))?;
    }
    for name in ["all", "default", LINE, "gre9"] {
        net.core.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0")?;
    }
    let line = Wire::open(&net.subscriber, LINE)?;
    let mut port = 50_000;
    let mut tell = |limit| -> Result<Vec<(&str, bool)>> {
        port += 1;
        let answers = syns(port)?.into_iter();
        answers.map(|(name, frame)| Ok((name, is_answered(&line, &frame, port, limit)?))).collect()
    };
    let bare = tell(PATIENCE)?;
    ensure!(bare.iter().all(|(_, answered)| *answered), "Linux does not accept all: {bare:?}");

    let mut filter = Filter::new(POLICY)?;
    for (hook, effective) in [(Hook::Xdp, Effective::Xdp), (Hook::Tc, tc()?)] {
        attach(&mut filter, &net.gateway, ACCESS, Role::Subscriber, hook, effective)?;
        let before = filter.denied()?;
        let answers = tell(IMPATIENCE).with_context(|| format!("{hook:?}"))?;
        ensure!(answers.iter().all(|(_, answered)| !answered), "{hook:?}: {answers:?}");
        let denied = filter.denied()? - before;
        ensure!(denied == 3, "{hook:?}: {denied} of 3 were denied");
        filter.take_off(&net.gateway)?;
    }
    filter.detach(&net.gateway)
}
