//! PPPoE between Debian's own server and client: on the Ethernet side the sessions are in band, on the ppp device
//! packets are bare.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};
use opb_lab::{
    netns::Netns,
    process::{self, Process, wait_until},
    workdir::Workdir,
};
use opb_userspace::{kernel::Hook as Effective, node::Hook};

use super::net::{ACCESS, FIXED, LINE, Net, ROUTER, SUBSCRIBER, tc};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn pppoe() -> Result<()> {
    // Opening /dev/ppp in a namespace does not load it.
    process::check(Command::new("modprobe").args(["-a", "ppp_generic", "pppoe"]))?;
    let net = Net::lay()?;
    let workdir = Workdir::new("ppp")?;
    let options = workdir.path().join("options");
    std::fs::write(&options, "noauth\nlcp-echo-interval 0\n+ipv6\nipv6 ::1,::9\n")?;

    let mut server = net.gateway.command("pppoe-server");
    server.args(["-F", "-k", "-I", ACCESS, "-L", ROUTER[0], "-R", SUBSCRIBER[0], "-N", "4"]);
    server.arg("-O").arg(&options);
    let server_log = workdir.path().join("server.log");
    let server = Process::spawn("pppoe-server", &mut server, &server_log)?;

    let mut client = net.subscriber.command("pppd");
    client.args([
        "plugin",
        "rp-pppoe.so",
        &format!("nic-{LINE}"),
        "nodetach",
        "noauth",
        "noipdefault",
    ]);
    client.args(["lcp-echo-interval", "0", "+ipv6", "ipv6", "::9,::1", "debug"]);
    let client_log = workdir.path().join("client.log");
    let client = Process::spawn("pppd", &mut client, &client_log)?;

    for netns in [&net.subscriber, &net.gateway] {
        has_both_families(netns, "ppp0").with_context(|| {
            format!("client: {}\nserver: {}", said(&client_log), said(&server_log))
        })?;
    }
    // IPCP gave the IPv4 addresses. IPv6 delegation is not part of the test: static routes replace it.
    net.subscriber.ip("route add default dev ppp0")?;
    net.subscriber.address("ppp0", &format!("{}/128", SUBSCRIBER[1]))?;
    net.subscriber.ip("-6 route add default dev ppp0")?;
    for fixed in FIXED {
        let length = if fixed.contains(':') { 128 } else { 32 };
        net.subscriber.address("ppp0", &format!("{fixed}/{length}"))?;
        net.gateway.ip(&format!("route add {fixed}/{length} dev ppp0"))?;
    }
    net.gateway.ip(&format!("-6 route add {}/128 dev ppp0", SUBSCRIBER[1]))?;

    net.filter_on(&[
        (ACCESS, Hook::Xdp, Effective::Xdp),
        (ACCESS, Hook::XdpGeneric, Effective::XdpGeneric),
        (ACCESS, Hook::Tc, tc()?),
        (ACCESS, Hook::Clsact, Effective::Clsact),
        ("ppp0", Hook::Auto, Effective::XdpGeneric),
        ("ppp0", Hook::Tc, tc()?),
        ("ppp0", Hook::Clsact, Effective::Clsact),
    ])?;
    drop((client, server));
    Ok(())
}

fn has_both_families(netns: &Netns, device: &str) -> Result<()> {
    let mut shown = String::new();
    let up = wait_until(PATIENCE, || {
        shown = process::run(netns.command("ip").args(["addr", "show", device]), PATIENCE)?.stdout;
        Ok((shown.contains("inet ") && shown.contains("inet6 ")).then_some(()))
    })?;
    up.with_context(|| format!("{device} has not both families: {shown}"))
}

fn said(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}
