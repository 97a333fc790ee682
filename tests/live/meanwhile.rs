//! Changes at run time while a reload compiles a large policy: each is in force from its answer on, before the new policy comes into
//! force, with it and after it.

use std::{
    fmt::Write as _,
    os::fd::AsRawFd as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::{
    errno::Errno,
    sys::{
        socket::{MsgFlags, recv, send, setsockopt, sockopt},
        time::TimeVal,
    },
};
use opb_lab::{
    frames::{Ethernet, Ipv4, Tcp},
    wire::Wire,
};

use super::*;
use crate::node::{Node, POLICY};

const RELOADS: usize = 8;
/// An image of so many takes a while where nothing is optimised.
const PREFIXES: u32 = 60_000;
const FOREIGN: [u8; 4] = [198, 18, 0, 25];
/// In an Ethernet frame without tags whose IPv4 header has no options.
const SOURCE: std::ops::Range<usize> = 26..30;
const DESTINATION: std::ops::Range<usize> = 30..34;
/// Longer than a frame takes to the filter.
const FLIGHT: Duration = Duration::from_millis(30);

/// In no group of the files; entries put it into one.
fn denied(number: usize) -> [u8; 4] {
    [198, 51, 10, number as u8]
}

/// In a group of the files; entries exempt it.
fn allowed(number: usize) -> [u8; 4] {
    [203, 0, 113, number as u8]
}

fn text(address: [u8; 4]) -> String {
    std::net::Ipv4Addr::from(address).to_string()
}

/// The policy with a group of many, or with others in front of it, so that everything has another place.
fn policy(which: usize) -> String {
    let mut text = POLICY.to_owned();
    for number in 0..which % 2 * 3 {
        writeln!(text, "  a{number}: {{prefixes: [100.127.{number}.0/24]}}").expect("a string");
    }
    let prefixes = (0..PREFIXES).map(|number| {
        std::net::Ipv4Addr::from(0x6440_0000 + 4 * number + which as u32 % 2).to_string()
    });
    let prefixes: Vec<_> = prefixes.collect();
    writeln!(text, "  big: {{prefixes: [{}]}}", prefixes.join(", ")).expect("a string");
    text
}

/// Subscribers whose entries are acknowledged, and how much the allowed ones have sent.
#[derive(Default)]
struct Known {
    denied: Vec<[u8; 4]>,
    allowed: Vec<[u8; 4]>,
    sent: u32,
}

/// A SYN of each of them, two thousand times a second.
fn send_all(socket: &Wire, known: &Mutex<Known>, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::SeqCst) {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let syn = |source: &[u8; 4]| {
            Ethernet::new().carrying(&Ipv4::new(*source, FOREIGN).carrying(Tcp::syn_to(25)))
        };
        for source in known.denied.iter().chain(&known.allowed) {
            send(socket.as_raw_fd(), &syn(source), MsgFlags::empty())?;
        }
        known.sent += known.allowed.len() as u32;
        drop(known);
        thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

/// How many SYNs of the two kinds of subscribers come out behind the filter.
fn count(socket: &Wire, stop: &AtomicBool) -> Result<[u32; 2]> {
    let mut seen = [0; 2];
    let mut frame = [0; 2048];
    loop {
        match recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(length) if length > DESTINATION.end && frame[DESTINATION] == FOREIGN => {
                seen[usize::from(frame[SOURCE][..3] == allowed(0)[..3])] += 1;
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if stop.load(Ordering::SeqCst) => return Ok(seen),
            Err(Errno::EAGAIN) => {}
            Err(error) => return Err(error).context("cannot receive"),
        }
    }
}

/// Adds two entries and removes them again until `stop`. How many changes that were.
fn change(node: &Node, known: &Mutex<Known>, stop: &AtomicBool) -> Result<usize> {
    let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
    let mut changes = 0;
    for number in (1..200).cycle() {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let (one, other) = (denied(number), allowed(number));
        node.ask(&["subscriber", "add", &text(one), "--group", "dyn"])?;
        lock().denied.push(one);
        node.ask(&["subscriber", "add", &text(other), "--exempt"])?;
        lock().allowed.push(other);
        changes += 2;
        // Some stay over the next reload.
        let Some(old) = number.checked_sub(6).filter(|&old| old > 0) else { continue };
        lock().denied.retain(|it| *it != denied(old));
        lock().allowed.retain(|it| *it != allowed(old));
        thread::sleep(FLIGHT);
        node.ask(&["subscriber", "remove", &text(denied(old)), &text(allowed(old))])?;
        changes += 2;
    }
    Ok(changes)
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_change_holds_before_and_after_a_reload_that_compiles_meanwhile() -> Result<()> {
    let mut node = Node::prepare("watch: off\n")?;
    node.write("policy.yaml", &policy(0))?;
    node.run()?;
    let receiver = Wire::open(&node.gateway, "sub0")?;
    setsockopt(&receiver, sockopt::RcvBufForce, &(64 << 20))?;
    setsockopt(&receiver, sockopt::ReceiveTimeout, &TimeVal::new(0, 100_000))?;
    let sender = Wire::open_to_send(&node.subscriber, "eth0")?;
    let (stop, over, known) = (AtomicBool::new(false), AtomicBool::new(false), Mutex::default());
    let (seen, changes, held) = thread::scope(|scope| -> Result<_> {
        let counting = scope.spawn(|| count(&receiver, &over));
        let sending = scope.spawn(|| send_all(&sender, &known, &stop));
        let changing = scope.spawn(|| change(&node, &known, &stop));
        let reload = || -> Result<usize> {
            let mut held = 0;
            for which in 1..=RELOADS {
                node.write("policy.yaml", &policy(which))?;
                assert_eq!(node.json(&["reload"])?["outcome"], "applied", "reload {which}");
                // What the image that has just come into force did not know.
                let later = node.status()?["policy"]["overlay"]["prefixes"].as_u64();
                held += usize::from(later > Some(0));
            }
            Ok(held)
        };
        let held = reload();
        stop.store(true, Ordering::SeqCst);
        let changes = changing.join().expect("no panic")?;
        sending.join().expect("no panic")?;
        over.store(true, Ordering::SeqCst);
        Ok((counting.join().expect("no panic")?, changes, held?))
    })?;
    let sent = known.into_inner().unwrap_or_else(PoisonError::into_inner).sent;
    eprintln!(
        "{changes} changes, {sent} allowed SYNs; changes meanwhile at {held} of {RELOADS} reloads"
    );
    assert_eq!(seen[0], 0, "SYNs passed that an acknowledged entry denies");
    assert_eq!(seen[1], sent, "SYNs that an acknowledged entry allows were lost");
    assert!(sent > 0 && held > 0, "nothing is proved");
    node.stop()
}
