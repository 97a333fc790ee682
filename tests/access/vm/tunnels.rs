//! One family inside the other: DS-Lite (IPv4 in IPv6), 6rd (IPv6 in IPv4) and GRE, as the access network sees it and as
//! the tunnel's own device does.

use std::net::UdpSocket;

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;
use opb_common::outcome::Direction;
use opb_lab::{topology::Family, wire::Wire};
use opb_userspace::{
    kernel::{Error, Hook as Effective, Unreadable, Wanted},
    node::{Hook, Role},
};

use super::net::{ACCESS, FIXED, Filter, LINE, Net, PATIENCE, POLICY, ROUTER, SUBSCRIBER, tc};

#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn ds_lite() -> Result<()> {
    between(Family::V4, "ip6tnl mode ipip6 encaplimit none")
}

#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn six_rd() -> Result<()> {
    between(Family::V6, "sit")
}

#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn gre() -> Result<()> {
    on_the_device(&lay(Family::V6, "gre")?, Family::V6)
}

#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn gre_in_ipv6() -> Result<()> {
    on_the_device(&lay(Family::V4, "ip6gre encaplimit none")?, Family::V4)
}

/// A GRE device for many far ends shows the outer header in front, which is why it is refused.
#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn gre_without_a_remote_is_refused() -> Result<()> {
    let net = Net::lay()?;
    let mut filter = Filter::new(POLICY)?;
    let hubs = [
        (Family::V4, "gre local 203.0.113.1", "gre local 203.0.113.9 remote 203.0.113.1"),
        (Family::V4, "gre external", ""),
        (Family::V6, "ip6gre local 2001:db8:1000::1", ""),
        (Family::V6, "ip6gre external", ""),
    ];
    net.address(LINE, ACCESS)?;
    for (outer, hub, far) in hubs {
        net.gateway.ip(&format!("link add name hub type {hub}"))?;
        net.gateway.ip("link set hub up")?;
        if outer == Family::V4 && !far.is_empty() {
            shows_the_outer_header(&net, far)?;
        }
        for hook in [Hook::Auto, Hook::Tc] {
            let kernel = filter.kernel()?;
            let refused = net.gateway.enter(|| {
                let wanted = Wanted {
                    interface: "hub".to_owned(),
                    index: if_nametoindex("hub")?,
                    role: Role::Subscriber,
                    direction: Direction::Upstream,
                    hook,
                    unknown_drop: false,
                    loses_resets: false,
                };
                kernel.attach(&[wanted]).pop().context("no answer")
            })?;
            let error = refused.err().with_context(|| format!("{hub}: not refused"))?.error;
            let kind = if outer == Family::V4 { "gre" } else { "ip6gre" };
            let is_named = matches!(
                &error,
                Error::LinkType { source: Unreadable::Hub { kind: named }, .. } if *named == kind
            );
            ensure!(is_named, "{hub}: {error:?}");
        }
        net.gateway.ip("link del hub")?;
    }
    filter.detach(&net.gateway)
}

/// What comes in through the hub begins with the outer header, protocol 47, on the packet sockets that see what TC sees.
fn shows_the_outer_header(net: &Net, far: &str) -> Result<()> {
    net.gateway.address("hub", "10.25.0.1/24")?;
    net.subscriber.ip(&format!("link add name spoke type {far}"))?;
    net.subscriber.ip("link set spoke up")?;
    net.subscriber.address("spoke", "10.25.0.9/24")?;
    let hub = Wire::open(&net.gateway, "hub")?;
    let socket = net.subscriber.enter(|| Ok(UdpSocket::bind("10.25.0.9:0")?))?;
    socket.send_to(b"inside", "10.25.0.1:9")?;
    let frame = hub.next(PATIENCE)?.context("nothing comes through the hub")?;
    ensure!((frame[0], frame[9]) == (0x45, 47), "not the outer header: {frame:02x?}");
    // Outer header and GRE (24 bytes), inner header and UDP (28 bytes), and what was sent.
    ensure!(frame.get(52..) == Some(b"inside"), "{frame:02x?}");
    net.subscriber.ip("link del spoke")
}

/// The line speaks one family, and a tunnel of this kind brings the other.
fn between(inner: Family, kind: &str) -> Result<()> {
    let net = lay(inner, kind)?;
    net.filter_on(&[
        (ACCESS, Hook::Xdp, Effective::Xdp),
        (ACCESS, Hook::XdpGeneric, Effective::XdpGeneric),
        (ACCESS, Hook::Tc, tc()?),
    ])?;
    on_the_device(&net, inner)
}

/// The tunnel's device has no link header, and one family only.
fn on_the_device(net: &Net, inner: Family) -> Result<()> {
    net.filter_in_on(
        &[inner],
        &[
            ("tunnel", Hook::Auto, Effective::XdpGeneric),
            ("tunnel", Hook::Tc, tc()?),
            ("tunnel", Hook::Clsact, Effective::Clsact),
        ],
    )
}

fn lay(inner: Family, kind: &str) -> Result<Net> {
    let net = Net::lay()?;
    let [carried, carrier] = match inner {
        Family::V4 => [0, 1],
        Family::V6 => [1, 0],
    };
    let length = [24, 64];
    let ends =
        [(&net.subscriber, LINE, SUBSCRIBER, ROUTER), (&net.gateway, ACCESS, ROUTER, SUBSCRIBER)];
    for (netns, device, here, there) in ends {
        netns.address(device, &format!("{}/{}", here[carrier], length[carrier]))?;
        let (local, remote) = (here[carrier], there[carrier]);
        netns.ip(&format!("link add name tunnel type {kind} local {local} remote {remote}"))?;
        netns.ip("link set tunnel up")?;
        netns.address("tunnel", &format!("{}/{}", here[carried], length[carried]))?;
    }
    net.subscriber.address("tunnel", &format!("{}/{}", FIXED[carried], length[carried]))?;
    net.subscriber.address(LINE, &format!("{}/{}", FIXED[carrier], length[carrier]))?;
    for router in ROUTER {
        net.subscriber.default_route(router.parse()?)?;
    }
    Ok(net)
}
