//! Which rule holds on which interface, at which hook.

use anyhow::Result;
use opb_common::outcome::Direction;
use opb_lab::{
    frames::{Ethernet, Ipv4, Ipv6, Payload, Tcp, flags},
    line::Way,
    packets::{
        Host, POLICY,
        hosts::{DYNAMIC, ISP, MULTI, OUTSIDE, REJECTING, WHOLESALE},
    },
};
use opb_userspace::{
    kernel::Hook as Effective,
    node::{Hook, Role},
};

use crate::gate::{EGRESS, Gate, INGRESS, moved};

/// A frame of each family, and whether it may pass.
struct Case {
    what: &'static str,
    frames: [Vec<u8>; 2],
    passes: bool,
}

fn case(
    what: &'static str,
    (from, to): (Host, Host),
    payload: impl Payload + Clone + 'static,
    passes: bool,
) -> Case {
    case_on(Ethernet::new(), what, (from, to), payload, passes)
}

fn case_on(
    link: Ethernet,
    what: &'static str,
    (from, to): (Host, Host),
    payload: impl Payload + Clone + 'static,
    passes: bool,
) -> Case {
    let v4 = link.carrying(&Ipv4::new(from.v4, to.v4).carrying(payload.clone()));
    let v6 = link.carrying(&Ipv6::new(from.v6, to.v6).carrying(payload));
    Case { what, frames: [v4, v6], passes }
}

/// What the upstream rule says to what goes up.
fn upstream(role: Role) -> Vec<Case> {
    let (syn, ack) = (Tcp::syn_to(25), Tcp::new(49152, 25, flags::ACK));
    let too_deep = Ethernet::new().tags(9);
    vec![
        case("mail to anybody", (DYNAMIC, OUTSIDE), syn.clone(), false),
        case("mail to the relay", (DYNAMIC, ISP), syn.clone(), true),
        case("an open connection", (DYNAMIC, OUTSIDE), ack, true),
        case("the web", (DYNAMIC, OUTSIDE), Tcp::syn_to(80), true),
        case("mail from nobody we know", (OUTSIDE, OUTSIDE), syn.clone(), true),
        case("the answers of one's own server", (DYNAMIC, OUTSIDE), Tcp::syn_ack_from(25), true),
        case("a group's second port", (MULTI, OUTSIDE), Tcp::syn_to(2525), false),
        case("another group's port", (DYNAMIC, OUTSIDE), Tcp::syn_to(2525), true),
        case("what is rejected", (REJECTING, OUTSIDE), syn.clone(), false),
        case_on(
            Ethernet::new().tag(0x88a8, 7).tag(0x8100, 100).pppoe(),
            "QinQ and PPPoE",
            (DYNAMIC, OUTSIDE),
            syn.clone(),
            false,
        ),
        case_on(too_deep, "nine tags", (DYNAMIC, OUTSIDE), syn, role == Role::Core),
    ]
}

/// What the downstream rule says to what goes down.
fn downstream() -> Vec<Case> {
    let answer = Tcp::syn_ack_from(25);
    vec![
        case("an answer of anybody", (OUTSIDE, DYNAMIC), answer.clone(), false),
        case("later packets of anybody", (OUTSIDE, DYNAMIC), Tcp::new(25, 4000, flags::ACK), false),
        case("an answer of the relay", (ISP, DYNAMIC), answer.clone(), true),
        case("an answer of another relay", (ISP, WHOLESALE), answer.clone(), false),
        case("a group that does not want it", (OUTSIDE, MULTI), answer, true),
        case("mail to one's own server", (OUTSIDE, DYNAMIC), Tcp::syn_to(25), true),
        case("the web", (OUTSIDE, DYNAMIC), Tcp::syn_ack_from(80), true),
    ]
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_subscriber_interface_judges_what_comes_in_upstream() -> Result<()> {
    holds(Role::Subscriber, Direction::Upstream, &INGRESS)
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_subscriber_interface_judges_what_goes_out_downstream() -> Result<()> {
    holds(Role::Subscriber, Direction::Downstream, &EGRESS)
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_core_interface_judges_what_goes_out_upstream() -> Result<()> {
    holds(Role::Core, Direction::Upstream, &EGRESS)
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_core_interface_judges_what_comes_in_downstream() -> Result<()> {
    holds(Role::Core, Direction::Downstream, &INGRESS)
}

/// The rule of `direction` holds for what travels that way, and for nothing that travels the other.
fn holds(role: Role, direction: Direction, hooks: &[(Hook, Effective)]) -> Result<()> {
    let mut gate = Gate::with(POLICY)?;
    for &hook in hooks {
        gate.attach(role, direction, hook)?;
        for (way, cases, judged) in [
            (Way::Up, upstream(role), direction == Direction::Upstream),
            (Way::Down, downstream(), direction == Direction::Downstream),
        ] {
            for Case { what, frames, passes } in cases {
                for frame in frames {
                    let before = gate.counts()?;
                    let passed = gate.ends.passes(way, &frame)?;
                    let counted = moved(&before, &gate.counts()?);
                    assert_eq!(passed, passes || !judged, "{hook:?}, {way:?}: {what} {counted:?}");
                    if !judged {
                        assert!(counted.is_empty(), "{hook:?}, {way:?}: {what} {counted:?}");
                    }
                }
            }
        }
        gate.detach()?;
        let frame = &upstream(role)[0].frames[0];
        assert!(gate.ends.passes(Way::Up, frame)?, "{hook:?}: detached");
    }
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn unknown_sources_are_dropped_where_the_interface_says_so() -> Result<()> {
    let cases = [
        case("mail from nobody we know", (OUTSIDE, ISP), Tcp::syn_to(25), false),
        case("the web", (OUTSIDE, ISP), Tcp::syn_to(80), true),
        case("mail to the relay", (DYNAMIC, ISP), Tcp::syn_to(25), true),
    ];
    let mut gate = Gate::with(POLICY)?;
    for (role, hooks) in [(Role::Subscriber, &INGRESS[..]), (Role::Core, &EGRESS)] {
        for &hook in hooks {
            gate.attach_with(role, Direction::Upstream, hook, true)?;
            for Case { what, frames, passes } in &cases {
                for frame in frames {
                    assert_eq!(gate.ends.passes(Way::Up, frame)?, *passes, "{hook:?}: {what}");
                }
            }
            gate.detach()?;
        }
    }
    Ok(())
}
