//! One family inside the other: DS-Lite (IPv4 in IPv6) and 6rd (IPv6 in IPv4), as the access network sees it and as
//! the tunnel's own device does.

use anyhow::Result;
use opb_lab::topology::Family;
use opb_userspace::{kernel::Hook as Effective, node::Hook};

use super::net::{ACCESS, FIXED, LINE, Net, ROUTER, SUBSCRIBER, tc};

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

/// The line speaks one family, and a tunnel of this kind brings the other.
fn between(inner: Family, kind: &str) -> Result<()> {
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
    net.filter_on(&[
        (ACCESS, Hook::Xdp, Effective::Xdp),
        (ACCESS, Hook::XdpGeneric, Effective::XdpGeneric),
        (ACCESS, Hook::Tc, tc()?),
    ])?;
    // The tunnel's device has no link header, and one family only.
    net.filter_in_on(
        &[inner],
        &[
            ("tunnel", Hook::Auto, Effective::XdpGeneric),
            ("tunnel", Hook::Tc, tc()?),
            ("tunnel", Hook::Clsact, Effective::Clsact),
        ],
    )
}
