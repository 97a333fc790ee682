//! NICs with drivers: those that the virtual machine has been given, in pairs on a cable.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use opb_lab::process::{self, wait_until};
use opb_userspace::{kernel::Hook as Effective, node::Hook};

use super::{
    links::vlan,
    net::{ACCESS, LINE, Net, tc},
};

/// The names of the two NICs of that driver, once both are back from whatever namespace they were in.
pub(crate) fn pair(driver: &str) -> Result<[String; 2]> {
    process::check(
        std::process::Command::new("modprobe").arg(driver.replace("virtio_net", "virtio-net")),
    )?;
    let is_driven = |name: &str| {
        let link = fs::read_link(format!("/sys/class/net/{name}/device/driver"));
        link.is_ok_and(|link| link.file_name().is_some_and(|name| name == driver))
    };
    let mut found = Vec::new();
    let both = wait_until(Duration::from_secs(30), || {
        let names = fs::read_dir("/sys/class/net")?;
        found = names
            .map(|it| Ok(it?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_>>()?;
        found.retain(|name| is_driven(name));
        Ok(<[String; 2]>::try_from(found.clone()).ok())
    })?;
    both.with_context(|| format!("there are no two {driver} NICs: {found:?}"))
}

#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn virtio_net() -> Result<()> {
    let net = Net::over(&pair("virtio_net")?)?;
    net.address(LINE, ACCESS)?;
    net.filter_on(&[
        (ACCESS, Hook::Auto, Effective::Xdp),
        (ACCESS, Hook::XdpGeneric, Effective::XdpGeneric),
        (ACCESS, Hook::Tc, tc()?),
    ])
}

/// A driver without native XDP, and with tags out of band.
#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn e1000() -> Result<()> {
    let net = Net::over(&pair("e1000")?)?;
    vlan(&net.subscriber, LINE, "tagged", "802.1q", 100)?;
    vlan(&net.gateway, ACCESS, "tagged", "802.1q", 100)?;
    net.address("tagged", "tagged")?;
    net.filter_on(&[
        (ACCESS, Hook::Auto, Effective::XdpGeneric),
        (ACCESS, Hook::Tc, tc()?),
        (ACCESS, Hook::Clsact, Effective::Clsact),
        ("tagged", Hook::Tc, tc()?),
    ])
}
