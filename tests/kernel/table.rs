//! Every row of the packet table, over the image that the real compiler makes of its policy.

use std::{thread, time::Duration};

use opb_common::outcome::{Outcome, Reason, Verdict};
use opb_lab::packets::{Row, rows};
use opb_userspace::{image::Tables, kernel::ReplayHook};

use crate::judges::{LONG, Programs, bypassed, image, named, on_the_host, takes, words};

#[test]
fn every_row_gets_its_verdict_on_the_host() {
    let image = image();
    let bypassed = [bypassed(&image)];
    let tables = Tables::new(&image).with_bypasses(&bypassed);
    compare(rows().iter(), |row| words(on_the_host(&tables, &row.sample()), &image));
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn every_row_gets_its_verdict_in_xdp() {
    every_row_gets_its_verdict_in(ReplayHook::Xdp);
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn every_row_gets_its_verdict_in_tc() {
    every_row_gets_its_verdict_in(ReplayHook::Tc);
}

fn every_row_gets_its_verdict_in(hook: ReplayHook) {
    let image = image();
    let mut programs = Programs::new(&image, hook);
    let rows = rows();
    let possible = rows.iter().filter(|row| row.host_only.is_none() && takes(hook, &row.frame));
    compare(possible, |row| words(programs.judge(row.settings, &row.frame), &image));
}

/// While everybody is bypassed, each denial is a pass of its own reason, and everything else is as it
/// was. When the time is over, everything is as before, by the kernel's own clock.
fn a_bypass_of_everybody_in(hook: ReplayHook) {
    const SECOND: Duration = Duration::from_secs(1);
    let image = image();
    let (mut programs, mut bypassed) = (Programs::new(&image, hook), Programs::new(&image, hook));
    let (mut count, mut last) = (0, None);
    for row in rows().iter().filter(|row| row.host_only.is_none() && takes(hook, &row.frame)) {
        let Row { name, settings, frame, .. } = row;
        let before = programs.judge(*settings, frame);
        bypassed.with(*settings).bypass(0, LONG);
        let after = bypassed.judge(*settings, frame);
        if before.verdict.forwards() {
            assert_eq!(after, before, "{name}");
        } else {
            let pass = Outcome { verdict: Verdict::Pass, reason: Reason::Bypass, ..before };
            assert_eq!(after, pass, "{name}");
            (count, last) = (count + 1, Some((row.clone(), before)));
        }
    }
    assert!(count > 200, "only {count} rows are denied");
    let (Row { settings, frame, .. }, before) = last.expect("a denied row");
    let bypass = |programs: &mut Programs<'_>, group, period| {
        programs.with(settings).bypass(group, period);
        programs.judge(settings, &frame).reason
    };
    for period in [Duration::ZERO, Duration::from_nanos(1)] {
        assert_eq!(bypass(&mut bypassed, 0, period), before.reason, "over at once");
    }
    assert_eq!(bypass(&mut bypassed, before.group, LONG), Reason::Bypass, "its group's alone");
    assert_eq!(bypass(&mut bypassed, before.group, Duration::ZERO), before.reason, "is over");
    assert_eq!(bypass(&mut bypassed, 0, SECOND), Reason::Bypass);
    thread::sleep(SECOND);
    assert_eq!(bypassed.judge(settings, &frame), before, "over by itself");
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_bypass_of_everybody_holds_in_xdp_until_it_ends() {
    a_bypass_of_everybody_in(ReplayHook::Xdp);
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_bypass_of_everybody_holds_in_tc_until_it_ends() {
    a_bypass_of_everybody_in(ReplayHook::Tc);
}

fn compare<'a>(rows: impl Iterator<Item = &'a Row>, mut judge: impl FnMut(&Row) -> String) {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for row in rows {
        let Row { name, description, expected, .. } = row;
        let expected = named(expected.verdict.name(), expected.reason.name(), expected.group);
        let got = judge(row);
        count += 1;
        if got != expected {
            wrong.push(format!("{name} ({description}): {got}, expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} rows:\n{}", wrong.len(), wrong.join("\n"));
    // The table is the contract; half of one would be none.
    assert!(count > 250, "only {count} rows");
}
