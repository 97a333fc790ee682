//! Run-time changes apply to packets in tunnels as well: the programs look up each address in the overlay first.

use anyhow::{Context, Result, anyhow, ensure};
use jiff::Timestamp;
use opb_common::outcome::Direction;
use opb_lab::{
    frames::{Ethernet, Gre, Ipv4, Ipv6, Tcp},
    line::Way,
    packets::{
        POLICY,
        hosts::{DYNAMIC, ENDPOINT, OUTSIDE, PRIVATE},
    },
    programs::compile,
};
use opb_userspace::{
    image::{Changes, GroupIds, Overlay},
    node::Role,
    policy::{Policy, Prefix},
};

use crate::gate::{Gate, INGRESS};

/// They exempt the line.
const CHANGES: &str = "\
exemptions:
  - {prefix: 203.0.113.9/32, reason: changed}
  - {prefix: \"2001:db8:1000:9::/64\", reason: changed}
";

fn syn() -> Tcp {
    Tcp::syn_to(25)
}

/// Packets of the line: in no tunnel, in softwires of either family, in GRE, and from its 6to4 address.
fn packets() -> Vec<(&'static str, Vec<u8>)> {
    let private4 = || Ipv4::new(PRIVATE.v4, OUTSIDE.v4).carrying(syn());
    let private6 = Ipv6::new(PRIVATE.v6, OUTSIDE.v6).carrying(syn());
    let own = || Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(syn());
    let within = u128::from(DYNAMIC.v4.to_bits()) << 80 | 0x2002 << 112 | 1;
    let six_to_four = Ipv6::new(within.to_be_bytes(), OUTSIDE.v6).carrying(syn());
    let link = Ethernet::new();
    vec![
        ("no tunnel", link.carrying(&own())),
        ("4in6", link.carrying(&Ipv6::new(DYNAMIC.v6, ENDPOINT.v6).carrying(private4()))),
        ("6in4", link.carrying(&Ipv4::new(DYNAMIC.v4, ENDPOINT.v4).carrying(private6))),
        ("GRE", link.carrying(&Ipv6::new(OUTSIDE.v6, OUTSIDE.v6).carrying(Gre::of(&own())))),
        ("6to4", link.carrying(&Ipv4::new(DYNAMIC.v4, OUTSIDE.v4).carrying(six_to_four))),
    ]
}

/// Runs with an odd and an even generation, because an overlay has a header for each.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_change_names_the_line_of_a_packet_in_a_tunnel() -> Result<()> {
    let policy = POLICY.replace("exemptions:\n", CHANGES);
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("policy.yaml");
    std::fs::write(&file, &policy)?;
    let policy = Policy::load(&[file]).map_err(|errors| anyhow!("{errors}"))?;
    let prefixes: Vec<Prefix> = ["203.0.113.9/32", "2001:db8:1000:9::/64"]
        .map(str::parse)
        .into_iter()
        .collect::<Result<_, _>>()?;
    for hook in INGRESS {
        let mut gate = Gate::with(POLICY)?;
        gate.attach(Role::Subscriber, Direction::Upstream, hook)?;
        for generation in [2, 3] {
            let image = compile(POLICY, &GroupIds::default(), generation)?;
            gate.programs.kernel()?.publish(&image)?;
            let passed = |gate: &mut Gate| -> Result<Vec<&'static str>> {
                let mut passed = Vec::new();
                for (name, frame) in packets() {
                    if gate.ends.arriving(Way::Up, &frame)?.contains(&frame) {
                        passed.push(name);
                    }
                }
                Ok(passed)
            };
            let without = passed(&mut gate)?;
            ensure!(
                without.is_empty(),
                "{hook:?}, {generation}: {without:?} pass before the change"
            );
            let group_ids = image.group_ids();
            let changes = Changes { policy: &policy, group_ids, generation, prefixes: &prefixes };
            let overlay = Overlay::compile(Timestamp::now(), &[changes]).context("an overlay")?;
            gate.programs.kernel()?.publish_overlay(&overlay)?;
            let with = passed(&mut gate)?;
            ensure!(with.len() == packets().len(), "{hook:?}, {generation}: only {with:?} pass");
            // An overlay of another generation changes nothing.
            let stale = Changes { generation: generation + 2, ..changes };
            let overlay = Overlay::compile(Timestamp::now(), &[stale]).context("an overlay")?;
            gate.programs.kernel()?.publish_overlay(&overlay)?;
            let stale = passed(&mut gate)?;
            ensure!(stale.is_empty(), "{hook:?}, {generation}: {stale:?} pass by a stale overlay");
        }
    }
    Ok(())
}
