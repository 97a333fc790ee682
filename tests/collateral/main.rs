//! Ordinary traffic through the filter under its strictest policy: byte for byte the same as without it.

mod home;
mod layout;
mod trunk;

use anyhow::{Result, ensure};
use opb_common::{outcome::Direction, settings::Settings};
use opb_lab::{
    filter::{Filter, Place},
    naive::{Naive, Sample},
    packets::{self, Row},
};
use opb_userspace::node::{Hook, Role};

use home::Home;
use trunk::Trunk;

const UPSTREAM: Place = ("sub0", Role::Subscriber, Direction::Upstream);
const DOWNSTREAM: Place = ("sub0", Role::Subscriber, Direction::Downstream);

const HOOKS: [Hook; 4] = [Hook::Xdp, Hook::XdpGeneric, Hook::Tc, Hook::Clsact];

/// The strictest policy: every TCP packet is judged, in both directions.
const STRICT: &str = "\
version: 1
relays:
  isp:
    addresses: [198.51.100.25, 2001:db8:25::1]
groups:
  dynamic:
    prefixes: [203.0.113.0/24, 2001:db8:1000::/36]
    relays: [isp]
    match: any
    downstream: drop
";

opb_lab::cases! { kernel, nothing_is_harmed:
    nothing_is_harmed_by_native_xdp(Hook::Xdp)
    nothing_is_harmed_by_generic_xdp(Hook::XdpGeneric)
    nothing_is_harmed_by_tcx(Hook::Tc)
    nothing_is_harmed_by_clsact(Hook::Clsact)
}

fn nothing_is_harmed(hook: Hook) -> Result<()> {
    let home = Home::build()?;
    for mtu in [1500, 9000] {
        home.mtu(mtu)?;
        let filter = Filter::on(&home.gateway, &[UPSTREAM, DOWNSTREAM], hook, STRICT, true)?;
        home.unharmed()?;
        // The filter does deny.
        home.mail_to_strangers_is_stopped()?;
        filter.remove()?;
    }
    Ok(())
}

/// The packet table once more, over a real interface and a bridge: what passes comes out as it went in, tags and
/// all, and what is dropped does not come out.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn frames_cross_a_bridge_as_they_are() -> Result<()> {
    let trunk = Trunk::build()?;
    let policy = Naive::from_yaml(packets::POLICY)?;
    // What the bridge alone does to each frame.
    let rows: Vec<Row> = packets::rows().into_iter().filter(fits).collect();
    ensure!(rows.len() > 300, "only {} rows fit", rows.len());
    let mut bare = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        bare.push(trunk.through(&row.frame, number as u32)?);
    }
    let crossing = bare.iter().filter(|out| !out.is_empty()).count();
    ensure!(crossing > 300, "only {crossing} frames cross the bridge without the filter");

    for hook in HOOKS {
        let filter = Filter::on(&trunk.gateway, &[UPSTREAM], hook, packets::POLICY, false)?;
        let mut wrong = Vec::new();
        for ((number, row), bare) in rows.iter().enumerate().zip(&bare) {
            let out = trunk.through(&row.frame, number as u32)?;
            // Every row is sent as by a subscriber.
            let verdict = policy.decide(&Sample { settings: Settings::SUBSCRIBER, ..row.sample() });
            let forwards = verdict.verdict.forwards();
            if out != if forwards { bare.clone() } else { Vec::new() } {
                let came = if out.is_empty() { "nothing" } else { "something else" };
                wrong.push(format!("{}: {verdict:?}, and {came} came out", row.name));
            }
        }
        ensure!(wrong.is_empty(), "{hook:?}: {} wrong:\n{}", wrong.len(), wrong.join("\n"));
        filter.remove()?;
    }
    Ok(())
}

/// Rows that a subscriber can send over Ethernet.
fn fits(row: &Row) -> bool {
    !row.settings.has(Settings::BARE_IP)
        && row.tags_out_of_band == 0
        && (14..=10_000).contains(&row.frame.len())
}

/// Packets whose headers are not where a program can read them at once.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn headers_in_fragments_of_a_buffer_are_read() -> Result<()> {
    layout::headers_are_read_wherever_they_are()
}
