//! Every row of the packet table, over the image that the real compiler makes of its policy.

use opb_lab::packets::{Row, rows};
use opb_userspace::{image::Tables, kernel::ReplayHook};

use crate::judges::{Programs, image, named, on_the_host, takes, words};

#[test]
fn every_row_gets_its_verdict_on_the_host() {
    let image = image();
    let tables = Tables::new(&image);
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
