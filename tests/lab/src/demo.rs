//! The main job, shown: real mail against a real gateway, one line for each case of the table.
#![allow(clippy::print_stdout, reason = "the demo's report is its output")]

use std::{path::Path, time::Instant};

use anyhow::{Context, Result};

use crate::{
    faq::{self, Bench, Happened, Held, Judged, Outcome},
    opb::{Hook, OpbNode},
    preflight::preflight,
    topology::{Family, Topology},
};

/// Runs the table under the hook that `opb` chooses by itself and under TC, then looks for leftovers. False
/// when a row is wrong.
pub fn run(opb: &Path) -> Result<bool> {
    preflight()?;
    let start = Instant::now();
    println!("Building the network: gateway, 5 subscribers, ISP relay, foreign MX, web host …");
    let topology = Topology::build()?;
    faq::unfiltered(&topology)?;
    println!(
        "Ready after {:.1} s. Without opb, mail from the dynamic subscriber and from the home \
         server reaches the foreign MX.",
        start.elapsed().as_secs_f32()
    );

    let mut right = true;
    for hook in [Hook::Auto, Hook::Tc] {
        right &= table(&topology, opb, hook)?;
    }

    let machines = topology.size();
    topology.tear_down()?;
    println!(
        "\nNothing left of {machines} namespaces, their processes, files, mounts, pins and programs."
    );
    println!(
        "{} after {:.0} s.",
        if right { "All rows are right" } else { "SOME ROWS ARE WRONG" },
        start.elapsed().as_secs_f32()
    );
    Ok(right)
}

fn table(topology: &Topology, opb: &Path, hook: Hook) -> Result<bool> {
    let start = Instant::now();
    let held = Held::open(topology)?;
    let mut node = OpbNode::prepare(topology, opb, hook)?;
    node.run()?;
    println!("\nhook: {hook}; attached:{}", attachments(&node)?);
    println!(
        "{:>2}  {:<24} {:<31} {:<6} {:<9}  {:<9}  {:<5}  counter that moved",
        "#", "who", "does", "family", "should", "happened", ""
    );

    let mut right = true;
    let mut bench = Bench::new(topology, &node, held);
    for row in faq::rows() {
        for family in Family::BOTH {
            let Judged { happened, counted, right: row_right } = row
                .run(&mut bench, family)
                .with_context(|| format!("opb said:\n{}", node.said()))?;
            right &= row_right;
            println!(
                "{:>2}  {:<24} {:<31} {family:<6} {:<9}  {:<9}  {:<5}  {counted}",
                row.number,
                row.who,
                row.does,
                row.must,
                happened.outcome,
                if row_right { "ok" } else { "WRONG" },
            );
            if !row_right {
                println!("    {}", happened.detail);
            }
        }
    }
    drop(bench);

    right &= life(topology, node)?;
    println!("took {:.1} s", start.elapsed().as_secs_f32());
    Ok(right)
}

/// Row 1 again and again, while the daemon dies, comes back, ends and is detached.
fn life(topology: &Topology, mut node: OpbNode) -> Result<bool> {
    node.kill()?;
    let mut right = still("opb run killed with SIGKILL", topology, Outcome::Blocked)?;
    node.run()?;
    right &= still("opb run started again", topology, Outcome::Blocked)?;
    node.stop()?;
    right &= still("opb run stopped with SIGTERM", topology, Outcome::Blocked)?;
    node.remove()?;
    right &= still("opb detach", topology, Outcome::Delivered)?;
    Ok(right)
}

fn still(event: &str, topology: &Topology, must: Outcome) -> Result<bool> {
    let mut right = true;
    for (family, Happened { outcome, detail }) in
        Family::BOTH.into_iter().zip(faq::dynamic_to_mx_by_both(topology, must)?)
    {
        let row_right = outcome == must;
        right &= row_right;
        println!(
            " 1  {:<56} {family:<6} {must:<9}  {outcome:<9}  {}",
            format!("after: {event}"),
            if row_right { "ok" } else { "WRONG" },
        );
        if !row_right {
            println!("    {detail}");
        }
    }
    Ok(right)
}

fn attachments(node: &OpbNode) -> Result<String> {
    let attached = node.attached()?;
    Ok(attached.iter().map(|found| format!(" {} {}", found.interface, found.hook)).collect())
}
