use std::collections::BTreeMap;

use opb_common::outcome::Direction;

use super::*;
use crate::{
    kernel::{Hook, LinkType},
    node::{self, Role},
};

const INDEX: u32 = 7;

fn wanted(direction: Direction) -> Wanted {
    Wanted {
        interface: "sub0".to_owned(),
        index: INDEX,
        role: Role::Subscriber,
        direction,
        hook: node::Hook::Auto,
        unknown_drop: false,
        loses_resets: false,
    }
}

fn plan(wanted: &[Wanted]) -> Plan {
    let links = BTreeMap::from([(INDEX, Ok(LinkType::Ethernet))]);
    Plan { wanted: wanted.to_vec(), missing: Vec::new(), links }
}

fn attached(wanted: &Wanted) -> Attached {
    Attached {
        interface: wanted.interface.clone(),
        index: wanted.index,
        direction: wanted.direction.name(),
        hook: Hook::Tcx,
        link: LinkType::Ethernet,
        warning: None,
    }
}

fn refused(wanted: &Wanted) -> AttachError {
    let error = kernel::Error::Call { what: "a program", source: io::ErrorKind::Other.into() };
    AttachError { wanted: Box::new(wanted.clone()), error }
}

/// Both directions wanted, upstream attached, downstream refused.
fn half_covered(now: Instant) -> Coverage {
    let [up, down] = [wanted(Direction::Upstream), wanted(Direction::Downstream)];
    let mut coverage = Coverage::new();
    let leftovers = coverage.follow(plan(&[up.clone(), down.clone()]), Which::Missing);
    assert_eq!(leftovers, Leftovers::None);
    assert_eq!(coverage.open(), [up.clone(), down.clone()]);
    let results = [(up.clone(), Ok(attached(&up))), (down.clone(), Err(refused(&down)))];
    coverage.record(results.into_iter(), now);
    coverage
}

#[test]
fn a_refused_program_is_tried_again_after_a_pause() {
    let now = Instant::now();
    let coverage = half_covered(now);
    let same = coverage.plan.clone();
    assert_eq!(coverage.open(), [wanted(Direction::Downstream)]);
    assert!(!coverage.is_due(&same, Which::Missing, now + RETRY / 2));
    assert!(coverage.is_due(&same, Which::Missing, now + RETRY));
    assert!(coverage.is_due(&same, Which::All, now));
    let problems: Vec<_> = coverage.problems().collect();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].direction.as_deref(), Some("downstream"));
    assert!(problems[0].text.starts_with("interface sub0 is not covered downstream: "));
}

#[test]
fn a_detached_program_is_counted_and_attached_at_once() {
    let now = Instant::now();
    let mut coverage = half_covered(now);
    let up = wanted(Direction::Upstream);
    coverage.lose(vec![(up.clone(), attached(&up))], now);
    assert_eq!((coverage.detachments(), coverage.status()), (1, Vec::new()));
    assert!(coverage.is_due(&coverage.plan.clone(), Which::Missing, now));
    assert_eq!(coverage.open().len(), 2);
    let causes: Vec<_> = coverage.problems().filter_map(|problem| problem.cause).collect();
    assert!(causes.contains(&"something took the tcx program off its hook".to_owned()));
    let last = coverage.problems().last().expect("a problem");
    assert_eq!(last.text, "no interface is covered: nothing is filtered");
}

#[test]
fn an_unwanted_program_is_left_over() {
    let mut coverage = half_covered(Instant::now());
    let less = plan(&[wanted(Direction::Downstream)]);
    assert!(coverage.is_due(&less, Which::Missing, Instant::now()));
    assert_eq!(coverage.follow(less.clone(), Which::Missing), Leftovers::Possible);
    assert!(coverage.covered.is_empty());
    assert_eq!(coverage.follow(less.clone(), Which::Missing), Leftovers::None);
    assert_eq!(coverage.follow(less, Which::All), Leftovers::Possible);
}

/// A tunnel device can lose its Ethernet header while it lives: its program reads frames of the
/// other kind.
#[test]
fn another_link_type_needs_another_program() {
    let mut coverage = half_covered(Instant::now());
    let links = BTreeMap::from([(INDEX, Ok(LinkType::BareIp))]);
    let other = Plan { links, ..coverage.plan.clone() };
    assert_eq!(coverage.follow(other, Which::Missing), Leftovers::None);
    assert_eq!(coverage.open().len(), 2);
}

#[test]
fn a_missing_interface_is_a_problem() {
    let mut coverage = half_covered(Instant::now());
    let missing = vec!["ppp9".to_owned()];
    let plan = Plan { missing, ..coverage.plan.clone() };
    let _ = coverage.follow(plan, Which::Missing);
    let found = coverage.problems().next().expect("a problem");
    assert_eq!((found.about, found.interface.as_deref()), (Subject::Interface, Some("ppp9")));
}
