//! Each hook's life on plain Ethernet: attached, left by a process that died, replaced, under another policy, taken off.

use anyhow::{Context, Result, ensure};
use opb_userspace::{
    kernel::Hook as Effective,
    node::{Hook, Role},
};

use super::net::{ACCESS, Filter, LINE, Net, POLICY, UPLINK, attach, image, tc};

opb_lab::cases! { vm, life:
    native_xdp(ACCESS, Role::Subscriber, Hook::Xdp, Effective::Xdp)
    generic_xdp(ACCESS, Role::Subscriber, Hook::XdpGeneric, Effective::XdpGeneric)
    tc_on_the_way_in(ACCESS, Role::Subscriber, Hook::Tc, tc()?)
    tc_on_the_way_out(UPLINK, Role::Core, Hook::Tc, tc()?)
    clsact_on_the_way_in(ACCESS, Role::Subscriber, Hook::Clsact, Effective::Clsact)
    clsact_on_the_way_out(UPLINK, Role::Core, Hook::Clsact, Effective::Clsact)
    the_best_hook_is_native_xdp(ACCESS, Role::Subscriber, Hook::Auto, Effective::Xdp)
}

/// Mail from nobody is denied.
const OPEN: &str = "version: 1\ngroups: {nobody: {prefixes: [198.18.0.0/24]}}\n";

fn life(interface: &str, role: Role, hook: Hook, effective: Effective) -> Result<()> {
    let net = Net::lay()?;
    net.address(LINE, ACCESS)?;
    net.is_open().context("before there was a filter")?;

    let mut filter = Filter::new(POLICY)?;
    attach(&mut filter, &net.gateway, interface, role, hook, effective)?;
    net.is_filtered(&filter).context("attached")?;

    filter.kernel = None;
    // Two of the policy and the image's block, counters and their interfaces, bypasses, the four maps of
    // denied packets, and the link.
    ensure!(filter.bpffs.pins()?.len() == 11, "pinned: {:?}", filter.bpffs.pins()?);
    filter.restart()?;
    net.is_filtered(&filter).context("after the death of the process that attached it")?;

    attach(&mut filter, &net.gateway, interface, role, hook, effective).context("replaced")?;
    net.is_filtered(&filter).context("replaced")?;

    filter.kernel()?.publish(&image(OPEN, 2)?)?;
    net.is_open().context("under a policy that denies nothing here")?;
    filter.kernel()?.publish(&image(POLICY, 3)?)?;
    net.is_filtered(&filter).context("under the old policy again")?;

    filter.detach(&net.gateway)?;
    net.is_open().context("detached")
}

/// On clsact both programs of an interface bear one name.
#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn one_direction_is_taken_off_and_the_other_stays() -> Result<()> {
    use nix::net::if_::if_nametoindex;
    use opb_common::outcome::Direction;
    use opb_userspace::kernel::Wanted;

    let net = Net::lay()?;
    net.address(LINE, ACCESS)?;
    for hook in [Hook::Tc, Hook::Clsact] {
        let mut filter = Filter::new(POLICY)?;
        let wanted = |direction| -> Result<Wanted> {
            Ok(Wanted {
                interface: ACCESS.into(),
                index: net.gateway.enter(|| Ok(if_nametoindex(ACCESS)?))?,
                role: Role::Subscriber,
                direction,
                hook,
                unknown_drop: false,
                loses_resets: false,
            })
        };
        let up = wanted(Direction::Upstream)?;
        let both = [up.clone(), wanted(Direction::Downstream)?];
        let kernel = filter.kernel()?;
        net.gateway.enter(|| {
            for result in kernel.attach(&both) {
                result.map_err(|refused| anyhow::anyhow!(refused.error))?;
            }
            Ok(kernel.detach_unwanted(std::slice::from_ref(&up))?)
        })?;
        net.is_filtered(&filter).with_context(|| format!("{hook:?}"))?;
        filter.detach(&net.gateway)?;
        net.is_open()?;
    }
    Ok(())
}
