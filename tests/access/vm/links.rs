//! Ethernet in its forms: tags, a switch, bundled links, routing domains of their own.

use anyhow::{Context, Result, ensure};
use opb_lab::{
    netns::Netns,
    process::{self, wait_until},
    topology::Family,
    trivial,
};
use opb_userspace::{
    kernel::Hook as Effective,
    node::{Hook, Role},
};

use super::net::{ACCESS, Answer, Filter, LINE, Net, PATIENCE, POLICY, UPLINK, attach, tc};

/// A VLAN device `name` on `parent`.
pub(crate) fn vlan(netns: &Netns, parent: &str, name: &str, protocol: &str, id: u16) -> Result<()> {
    netns.ip(&format!("link add link {parent} name {name} type vlan proto {protocol} id {id}"))?;
    netns.ip(&format!("link set {name} up"))
}

#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn vlan_8021q() -> Result<()> {
    let net = Net::lay()?;
    vlan(&net.subscriber, LINE, "tagged", "802.1q", 100)?;
    vlan(&net.gateway, ACCESS, "tagged", "802.1q", 100)?;
    net.address("tagged", "tagged")?;
    net.filter_on(&[
        (ACCESS, Hook::Xdp, Effective::Xdp),
        (ACCESS, Hook::XdpGeneric, Effective::XdpGeneric),
        (ACCESS, Hook::Tc, tc()?),
        (ACCESS, Hook::Clsact, Effective::Clsact),
        ("tagged", Hook::Auto, Effective::XdpGeneric),
        ("tagged", Hook::Tc, tc()?),
    ])
}

#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn qinq() -> Result<()> {
    let net = Net::lay()?;
    for (netns, parent) in [(&net.subscriber, LINE), (&net.gateway, ACCESS)] {
        vlan(netns, parent, "service", "802.1ad", 200)?;
        vlan(netns, "service", "customer", "802.1q", 100)?;
    }
    net.address("customer", "customer")?;
    net.filter_on(&[
        (ACCESS, Hook::Xdp, Effective::Xdp),
        (ACCESS, Hook::XdpGeneric, Effective::XdpGeneric),
        (ACCESS, Hook::Tc, tc()?),
        ("service", Hook::Auto, Effective::XdpGeneric),
        ("service", Hook::Tc, tc()?),
        ("customer", Hook::Auto, Effective::XdpGeneric),
        ("customer", Hook::Tc, tc()?),
    ])
}

/// A reset goes back through both tags: `connect` fails at once with "connection refused".
#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn rejected_behind_qinq() -> Result<()> {
    let net = Net::lay()?;
    for (netns, parent) in [(&net.subscriber, LINE), (&net.gateway, ACCESS)] {
        // Tags beside the frame would be lost to native XDP on the way back: see the doctor's tests.
        for offload in ["tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"] {
            process::check(netns.command("ethtool").args(["-K", parent, offload, "off"]))?;
        }
        vlan(netns, parent, "service", "802.1ad", 200)?;
        vlan(netns, "service", "customer", "802.1q", 100)?;
    }
    net.address("customer", "customer")?;
    // A veth takes in what native XDP sends back only if it has a program itself.
    let _taking_in = trivial::pass_in_xdp(&net.subscriber, LINE)?;
    net.is_open()?;
    let mut filter =
        Filter::new(&POLICY.replace("relays: [isp]}", "relays: [isp], action: reject}"))?;
    for (hook, effective) in [
        (Hook::Xdp, Effective::Xdp),
        (Hook::XdpGeneric, Effective::XdpGeneric),
        (Hook::Tc, tc()?),
        (Hook::Clsact, Effective::Clsact),
    ] {
        attach(&mut filter, &net.gateway, ACCESS, Role::Subscriber, hook, effective)?;
        for family in Family::BOTH {
            let answer = net.mail_is_answered(family)?;
            ensure!(answer == Answer::Refused, "{hook:?}, {family}: {answer:?}");
        }
        filter.take_off(&net.gateway)?;
    }
    net.is_open()
}

#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn bridge() -> Result<()> {
    let net = Net::lay()?;
    net.gateway.bridge("switch", &[ACCESS])?;
    net.address(LINE, "switch")?;
    net.filter_on(&[
        (ACCESS, Hook::Xdp, Effective::Xdp),
        (ACCESS, Hook::XdpGeneric, Effective::XdpGeneric),
        (ACCESS, Hook::Tc, tc()?),
        ("switch", Hook::Auto, Effective::XdpGeneric),
        ("switch", Hook::Tc, tc()?),
    ])
}

#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn bond() -> Result<()> {
    let net = Net::lay()?;
    net.gateway.ip("link add name bundle type bond mode active-backup miimon 100")?;
    net.gateway.ip(&format!("link set {ACCESS} down"))?;
    net.gateway.ip(&format!("link set {ACCESS} master bundle"))?;
    net.gateway.ip("link set bundle up")?;
    net.address(LINE, "bundle")?;
    net.filter_on(&[
        (ACCESS, Hook::Tc, tc()?),
        ("bundle", Hook::Auto, Effective::Xdp),
        ("bundle", Hook::XdpGeneric, Effective::XdpGeneric),
        ("bundle", Hook::Tc, tc()?),
    ])
}

#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn vrf() -> Result<()> {
    let net = Net::lay()?;
    // Enslaving takes a device down and up. Its IPv6 addresses would go with that.
    net.gateway.sysctl("net/ipv6/conf/all/keep_addr_on_down", "1")?;
    net.gateway.ip("link add name customers type vrf table 10")?;
    net.gateway.ip("link set customers up")?;
    for device in [ACCESS, UPLINK] {
        net.gateway.ip(&format!("link set {device} master customers"))?;
    }
    // The connected routes moved along, the others must be added; IPv6 gets its own only when the carrier is back.
    for (relay, foreign) in
        [("198.51.100.25", "192.0.2.25"), ("2001:db8:25::1", "2001:db8:7000::25")]
    {
        let route = format!("route replace {relay} via {foreign} table 10");
        let added = wait_until(PATIENCE, || Ok(net.gateway.ip(&route).ok()))?;
        added.with_context(|| format!("never accepted: {route}"))?;
    }
    net.address(LINE, ACCESS)?;
    net.filter_on(&[(ACCESS, Hook::Auto, Effective::Xdp), (ACCESS, Hook::Tc, tc()?)])
}

/// What is pinned stays on an interface that goes down and comes up.
#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn an_interface_that_flaps() -> Result<()> {
    use opb_userspace::node::Role;

    use super::net::{Filter, POLICY, ROUTER};

    let net = Net::lay()?;
    net.address(LINE, ACCESS)?;
    for (hook, effective) in
        [(Hook::Xdp, Effective::Xdp), (Hook::Tc, tc()?), (Hook::Clsact, Effective::Clsact)]
    {
        let mut filter = Filter::new(POLICY)?;
        attach(&mut filter, &net.gateway, ACCESS, Role::Subscriber, hook, effective)?;
        for _ in 0..5 {
            net.gateway.ip(&format!("link set {ACCESS} down"))?;
            net.gateway.ip(&format!("link set {ACCESS} up"))?;
        }
        // The IPv6 address went with the link.
        net.gateway.address(ACCESS, &format!("{}/64", ROUTER[1]))?;
        net.is_filtered(&filter)?;
        filter.detach(&net.gateway)?;
    }
    Ok(())
}
