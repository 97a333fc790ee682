//! The packet table over real cables: what a test run of a program cannot show, such as VLAN tags beside the frame
//! and packets that are not linear.

use anyhow::Result;
use opb_common::{
    outcome::{Direction, Reason, Verdict},
    settings::Settings,
};
use opb_lab::{
    frames::{Ethernet, Ipv4, Tcp},
    line::{Ends, Way},
    packets::{Expected, POLICY, Row, hosts, rows},
};
use opb_userspace::{
    kernel::Hook as Effective,
    node::{Hook, Role},
};

use crate::gate::{EGRESS, Gate, INGRESS, moved};

opb_lab::cases! { kernel, every_row_holds:
    every_row_holds_in_native_xdp(INGRESS[0], EGRESS[0])
    every_row_holds_in_generic_xdp(INGRESS[1], EGRESS[0])
    every_row_holds_in_tcx(INGRESS[2], EGRESS[0])
    every_row_holds_in_clsact(INGRESS[3], EGRESS[1])
}

/// Rows of both directions, on one subscriber interface.
fn every_row_holds(ingress: (Hook, Effective), egress: (Hook, Effective)) -> Result<()> {
    let mut gate = Gate::with(POLICY)?;
    let rows: Vec<Row> = rows().into_iter().filter(fits).collect();
    // A frame so broken that the kernel itself loses it says nothing of the filter.
    let mut arrives = Vec::new();
    for row in &rows {
        arrives.push(arrives_unchanged(&gate.ends, row)?);
    }
    gate.attach(Role::Subscriber, Direction::Upstream, ingress)?;
    gate.attach(Role::Subscriber, Direction::Downstream, egress)?;

    let (mut wrong, mut forwarded) = (Vec::new(), 0);
    let mut before = gate.counts()?;
    for (row, arrived_unfiltered) in rows.iter().zip(arrives) {
        let arrived = arrives_unchanged(&gate.ends, row)?;
        let after = gate.counts()?;
        let counted = moved(&before, &after);
        let expected = counters(row);
        let fits = match counted.iter().collect::<Vec<_>>()[..] {
            [] => expected.is_empty() || !arrived_unfiltered && !arrived,
            [(counter, 1)] => expected.contains(counter),
            _ => false,
        };
        let forwards = row.expected.verdict.forwards();
        if arrived != (forwards && arrived_unfiltered) || !fits {
            let Row { name, description, .. } = row;
            wrong.push(format!(
                "{name} ({description}): arrived: {arrived}, unfiltered: {arrived_unfiltered}, \
                 counted: {counted:?}, expected: {expected:?}"
            ));
        }
        forwarded += u32::from(arrived);
        before = after;
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    assert!(forwarded > 200 && rows.len() > 800, "{forwarded} of {} rows arrived", rows.len());
    Ok(())
}

/// Whether a subscriber interface without further settings judges as the row says.
fn fits(row: &Row) -> bool {
    let Row { frame, settings, expected, .. } = row;
    let other = Settings::BARE_IP.with(Settings::UNKNOWN_DROP).with(Settings::NO_RESET);
    settings.0 & other.0 == 0
        // On a core interface, what hides from nobody in particular is only counted.
        && (settings.has(Settings::SUBSCRIBER) || expected.group.is_some() || !hides(expected.reason))
        && (14..3000).contains(&frame.len())
}

fn hides(reason: Reason) -> bool {
    matches!(reason, Reason::Link | Reason::Headers | Reason::Fragment)
}

/// The counters that may move: none for packets that the filter does not judge, and a drop in place of a reset that is
/// one too many for its source.
fn counters(row: &Row) -> Vec<String> {
    let Expected { verdict, reason, group } = row.expected;
    if reason == Reason::Other {
        return Vec::new();
    }
    let direction = match way(row) {
        Way::Up => Direction::Upstream,
        Way::Down => Direction::Downstream,
    };
    let counter = |verdict: Verdict| {
        let group = group.unwrap_or("-");
        format!("{group} {} {} {}", direction.name(), verdict.name(), reason.name())
    };
    match verdict {
        Verdict::Reject => vec![counter(verdict), counter(Verdict::Drop)],
        _ => vec![counter(verdict)],
    }
}

fn way(row: &Row) -> Way {
    if row.settings.has(Settings::DOWNSTREAM) { Way::Down } else { Way::Up }
}

fn arrives_unchanged(ends: &Ends, row: &Row) -> Result<bool> {
    ends.passes(way(row), &on_the_cable(row))
}

/// With the tag that TC finds beside the frame in front of the others.
fn on_the_cable(row: &Row) -> Vec<u8> {
    let mut frame = row.frame.clone();
    for _ in 0..row.tags_out_of_band {
        frame.splice(12..12, [0x81, 0, 0, 7]);
    }
    frame
}

/// The instrument itself.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn the_line_carries_what_it_is_given() -> Result<()> {
    let gate = Gate::with(POLICY)?;
    let packet = Ipv4::new(hosts::DYNAMIC.v4, hosts::OUTSIDE.v4).carrying(Tcp::syn_to(25));
    for tags in 0..10 {
        let frame = Ethernet::new().tags(tags).pppoe().carrying(&packet);
        assert!(gate.ends.passes(Way::Up, &frame)?, "{tags} tags");
        assert!(gate.ends.passes(Way::Down, &frame)?, "{tags} tags");
    }
    Ok(())
}
