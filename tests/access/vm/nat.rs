//! Beside the kernel's own packet handling: address translation before and after the filter, and flows that leave
//! the usual path.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use opb_lab::{
    netns::Netns,
    process::{self, wait_until},
    topology::Family,
};
use opb_userspace::{
    kernel::Hook as Effective,
    node::{Hook, Role},
};

use super::net::{ACCESS, Filter, LINE, Net, POLICY, UPLINK, attach, image, tc};

pub(crate) fn nft(netns: &Netns, rules: &str) -> Result<()> {
    process::check(netns.command("nft").arg(rules)).map(drop)
}

const MASQUERADE: &str = "table inet lab {
    chain out { type nat hook postrouting priority srcnat; oifname uplink masquerade; }
}";

/// Before translation the filter knows the subscriber.
#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn before_translation() -> Result<()> {
    let net = Net::lay()?;
    net.address(LINE, ACCESS)?;
    nft(&net.gateway, MASQUERADE)?;
    net.filter_on(&[
        (ACCESS, Hook::Xdp, Effective::Xdp),
        (ACCESS, Hook::XdpGeneric, Effective::XdpGeneric),
        (ACCESS, Hook::Tc, tc()?),
    ])
}

/// After it the filter knows the address of the translator, and no other.
#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn after_translation() -> Result<()> {
    let net = Net::lay()?;
    net.address(LINE, ACCESS)?;
    nft(&net.gateway, MASQUERADE)?;
    let mut filter = Filter::new(POLICY)?;
    attach(&mut filter, &net.gateway, UPLINK, Role::Core, Hook::Tc, tc()?)?;
    net.is_open().context("by a policy that names the subscribers, behind the translation")?;

    let translator = POLICY
        .replace("203.0.113.0/24", "192.0.2.1/32")
        .replace("2001:db8:1000::/36", "2001:db8:7000::1/128");
    filter.kernel()?.publish(&image(&translator, 2)?)?;
    // Nobody's own exemption can be seen any more.
    net.denies(&filter, &Family::BOTH, &[1, 8]).context("by a policy that names the translator")?;
    filter.detach(&net.gateway)
}

const FLOWTABLE: &str = "table inet lab {
    flowtable fast { hook ingress priority 0; devices = { access, uplink }; }
    chain forward {
        type filter hook forward priority 0;
        counter
        meta l4proto tcp flow add @fast
    }
}";

/// Flows in a flow table skip the forwarding path. Our hooks are before it and behind it, so they lose nothing.
#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn offloaded_flows_meet_every_hook() -> Result<()> {
    let net = Net::lay()?;
    net.address(LINE, ACCESS)?;
    nft(&net.gateway, FLOWTABLE)?;
    let any = POLICY.replace("relays: [isp]}", "relays: [isp], match: any}");
    ensure!(any != POLICY, "the policy is another one now");
    for (interface, role, hook, effective) in [
        (ACCESS, Role::Subscriber, Hook::Xdp, Effective::Xdp),
        (ACCESS, Role::Subscriber, Hook::XdpGeneric, Effective::XdpGeneric),
        (ACCESS, Role::Subscriber, Hook::Tc, tc()?),
        (UPLINK, Role::Core, Hook::Tc, tc()?),
    ] {
        let (mut near, mut far) = net.session()?;
        for _ in 0..5 {
            carries(&near, &far)?;
        }
        let before = forwarded(&net.gateway)?;
        for _ in 0..5 {
            carries(&near, &far)?;
        }
        ensure!(forwarded(&net.gateway)? == before, "the flow was not offloaded");

        let mut filter = Filter::new(&any)?;
        attach(&mut filter, &net.gateway, interface, role, hook, effective)?;
        let denied = filter.denied()?;
        near.write_all(b"more")?;
        let counted =
            wait_until(Duration::from_secs(10), || Ok((filter.denied()? > denied).then_some(())))?;
        counted.with_context(|| format!("{hook:?} on {interface} missed an offloaded packet"))?;
        far.set_read_timeout(Some(Duration::from_millis(300)))?;
        match far.read(&mut [0; 16]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            other => bail!("{hook:?} on {interface}: the far end got {other:?}"),
        }
        filter.detach(&net.gateway)?;
    }
    Ok(())
}

pub(crate) fn carries(near: &TcpStream, far: &TcpStream) -> Result<()> {
    for (mut from, mut to) in [(near, far), (far, near)] {
        from.write_all(b"word")?;
        to.set_read_timeout(Some(Duration::from_secs(10)))?;
        to.read_exact(&mut [0; 4])?;
    }
    Ok(())
}

/// Packets that took the usual path.
fn forwarded(netns: &Netns) -> Result<u64> {
    let shown = process::check(netns.command("nft").args(["list", "ruleset"]))?;
    let count = shown.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
    count.and_then(|count| count.parse().ok()).with_context(|| format!("no counter in {shown}"))
}
