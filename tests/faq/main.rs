//! The provider's FAQ as a test, under every hook: real mail between real mail servers.

use std::path::Path;

use anyhow::{Result, ensure};
use opb_lab::{
    faq::{self, Bench, Held, Outcome},
    opb::{Hook, OpbNode},
    preflight::preflight,
    topology::{Family, Topology},
};

const OPB: &str = env!("CARGO_BIN_EXE_opb");

opb_lab::cases! { kernel, every_row_holds:
    every_row_holds_under_native_xdp(Hook::Xdp)
    every_row_holds_under_generic_xdp(Hook::XdpGeneric)
    every_row_holds_under_tc(Hook::Tc)
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn the_filter_outlives_its_daemon_until_it_is_detached() -> Result<()> {
    preflight()?;
    let topology = Topology::build()?;
    let mut node = OpbNode::prepare(&topology, Path::new(OPB), Hook::Auto)?;

    node.run()?;
    dynamic_to_mx_is(&topology, Outcome::Blocked, "opb run")?;
    node.kill()?;
    dynamic_to_mx_is(&topology, Outcome::Blocked, "SIGKILL")?;
    node.run()?;
    dynamic_to_mx_is(&topology, Outcome::Blocked, "opb run after SIGKILL")?;
    node.stop()?;
    dynamic_to_mx_is(&topology, Outcome::Blocked, "SIGTERM")?;
    node.remove()?;
    dynamic_to_mx_is(&topology, Outcome::Delivered, "opb detach")?;

    topology.tear_down()
}

fn every_row_holds(hook: Hook) -> Result<()> {
    preflight()?;
    let topology = Topology::build()?;
    faq::unfiltered(&topology)?;

    let held = Held::open(&topology)?;
    let mut node = OpbNode::prepare(&topology, Path::new(OPB), hook)?;
    node.run()?;
    let mut bench = Bench::new(&topology, &node, held);
    let mut wrong = Vec::new();
    for row in faq::rows() {
        for family in Family::BOTH {
            let judged = row.run(&mut bench, family)?;
            if !judged.right {
                wrong.push(format!(
                    "{} {} {} ({family}): must be {}, is {} ({}); counted: {}",
                    row.number,
                    row.who,
                    row.does,
                    row.must,
                    judged.happened.outcome,
                    judged.happened.detail,
                    judged.counted,
                ));
            }
        }
    }
    drop(bench);
    ensure!(
        wrong.is_empty(),
        "wrong under {hook}:\n{}\nopb said:\n{}",
        wrong.join("\n"),
        node.said()
    );
    node.remove()?;
    topology.tear_down()
}

fn dynamic_to_mx_is(topology: &Topology, must: Outcome, after: &str) -> Result<()> {
    for (family, happened) in
        Family::BOTH.into_iter().zip(faq::dynamic_to_mx_by_both(topology, must)?)
    {
        ensure!(
            happened.outcome == must,
            "after {after}, mail over {family} must be {must}, is {}: {}",
            happened.outcome,
            happened.detail
        );
    }
    Ok(())
}
