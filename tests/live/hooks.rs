//! The scripts in contrib/, as session systems call them.

use std::{path::Path, process::Command};

use opb_lab::process;

use super::*;
use crate::node::Node;

const MX: &str = "198.18.0.25";

/// Runs a script of contrib/ with the daemon's socket, and the binary under test as `opb`.
fn hook(node: &Node, script: &str) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib").join(script);
    let mut command = node.gateway.command(&path);
    command.env("OPB", env!("CARGO_BIN_EXE_opb")).env("OPB_CONTROL", node.path("opb.sock"));
    command.env("OPB_GROUP", "dyn");
    command
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn sessions_of_pppd_come_and_go() -> Result<()> {
    let node = Node::start("")?;
    let session = ["ppp7", "/dev/pts/3", "115200", "192.0.2.254", "100.64.0.7", "isp"];
    for _ in 0..2 {
        process::check(hook(&node, "pppd/ip-up").args(session).env("PEERNAME", "alice"))?;
        assert_eq!(node.verdict("100.64.0.7", MX)?, "drop policy");
    }
    let list = node.ask(&["subscriber", "list", "--json"])?;
    assert!(list.contains("session on ppp7 of alice"), "{list}");
    for _ in 0..2 {
        process::check(hook(&node, "pppd/ip-down").args(session).env("PEERNAME", "alice"))?;
        assert_eq!(node.verdict("100.64.0.7", MX)?, "pass unknown");
    }
    // Without a group, the policy files are what holds.
    process::check(hook(&node, "pppd/ip-up").args(session).env_remove("OPB_GROUP"))?;
    let link_local = ["ppp7", "", "0", "fe80::1", "fe80::2", ""];
    process::check(hook(&node, "pppd/ip-up").args(link_local))?;
    assert_eq!(node.status()?["entries"]["count"], 0);
    Ok(())
}

/// The address is assigned again before the end of the old session is reported.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_session_that_ends_late_leaves_the_next_one_alone() -> Result<()> {
    let node = Node::start("")?;
    let call = |script: &str, interface: &str, peer: &str| {
        let session = [interface, "", "0", "192.0.2.254", "100.64.0.7", ""];
        process::check(hook(&node, script).args(session).env("PEERNAME", peer))
    };
    call("pppd/ip-up", "ppp7", "alice")?;
    call("pppd/ip-up", "ppp8", "bob")?;
    assert_eq!(call("pppd/ip-down", "ppp7", "alice")?, "unchanged: 1\n");
    assert_eq!(node.verdict("100.64.0.7", MX)?, "drop policy");
    assert_eq!(call("pppd/ip-down", "ppp8", "bob")?, "removed: 1\n");

    let accounting = |status: &str, session: &str| {
        let mut command = hook(&node, "freeradius/opb-accounting");
        command.env("ACCT_STATUS_TYPE", status).env("ACCT_SESSION_ID", session);
        process::check(command.env("FRAMED_IP_ADDRESS", "100.64.0.8"))
    };
    accounting("Start", "\"1\"")?;
    accounting("Start", "\"2\"")?;
    assert_eq!(accounting("Stop", "\"1\"")?, "unchanged: 1\n");
    assert_eq!(accounting("Stop", "\"2\"")?, "removed: 1\n");
    Ok(())
}

/// A peer chooses its name, and the author of a policy its keys.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn no_name_steers_a_terminal() -> Result<()> {
    let node = Node::start("")?;
    let session = ["ppp7", "", "0", "192.0.2.254", "100.64.0.7", ""];
    let name = "\u{1b}]0;gone\u{7}\u{1b}[2Jm\u{fc}ller\u{202e}";
    process::check(hook(&node, "pppd/ip-up").args(session).env("PEERNAME", name))?;
    let list = node.ask(&["subscriber", "list"])?;
    assert!(list.contains("session on ppp7 of ]0;gone[2Jmller"), "{list}");

    for reason in ["\u{1b}[2J", "a\nb", "\u{9b}1m", "\u{202e}", &"x".repeat(257)] {
        let add = node.opb(&["subscriber", "add", "192.0.2.1", "--exempt", "--reason", reason])?;
        assert_eq!(add.status.code(), Some(2), "{}", add.stdout);
        assert!(add.stderr.contains("the reason "), "{}", add.stderr);
        assert!(!add.stderr.chars().any(|it| it.is_control() && it != '\n'), "{:?}", add.stderr);
    }

    // Files are not asked what they may say: it is shown harmless everywhere.
    let policy = "version: 1\ngroups:\n  dyn: {prefixes: [203.0.113.0/24]}\nexemptions:\n  \
                  - {prefix: 203.0.113.7/32, reason: \"\\e[2Jx\\u202e\\x9b1m\"}\n";
    node.write("policy.yaml", policy)?;
    node.ask(&["reload"])?;
    let query = ["explain", "--src", "203.0.113.7", "--dst", MX];
    for arguments in [query.to_vec(), [query.as_slice(), &["--json"]].concat()] {
        let said = node.ask(&arguments)?;
        let steers = |it: char| it != '\n' && (it.is_control() || it == '\u{202e}');
        assert!(said.contains("[2Jx") && !said.chars().any(steers), "{said:?}");
    }
    node.write("policy.yaml", "version: 1\n\"\\e[2J\\x9b\": 1\n")?;
    let rejected = node.opb(&["reload"])?;
    assert!(rejected.stderr.contains("unknown key"), "{}", rejected.stderr);
    for text in [rejected.stderr, node.opb(&["status"])?.stdout, node.said()] {
        assert!(!text.chars().any(|it| it.is_control() && it != '\n'), "{text:?}");
    }
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn radius_accounting_enters_and_removes() -> Result<()> {
    let node = Node::start("")?;
    let accounting = |status: &str| {
        let mut command = hook(&node, "freeradius/opb-accounting");
        command.env("ACCT_STATUS_TYPE", status).env("ACCT_SESSION_ID", "\"4711\"");
        command.env("FRAMED_IP_ADDRESS", "100.64.0.8").env("FILTER_ID", "\"opb:open\"");
        command.env("DELEGATED_IPV6_PREFIX", "2001:db8:77::/56");
        process::check(&mut command)
    };
    assert_eq!(accounting("Start")?, "added: 2\n");
    accounting("Interim-Update")?;
    assert_eq!(node.verdict("100.64.0.8", MX)?, "would-drop policy");
    assert_eq!(node.verdict("2001:db8:77:1::9", "2001:db8::1")?, "would-drop policy");
    assert_eq!(accounting("Stop")?, "removed: 2\n");
    assert_eq!(node.verdict("100.64.0.8", MX)?, "pass unknown");
    Ok(())
}
