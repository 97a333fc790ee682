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
        process::check(hook(&node, "pppd/ip-down").args(session))?;
        assert_eq!(node.verdict("100.64.0.7", MX)?, "pass unknown");
    }
    // Without a group, the policy files are what holds.
    process::check(hook(&node, "pppd/ip-up").args(session).env_remove("OPB_GROUP"))?;
    let link_local = ["ppp7", "", "0", "fe80::1", "fe80::2", ""];
    process::check(hook(&node, "pppd/ip-up").args(link_local))?;
    assert_eq!(node.status()?["entries"]["count"], 0);
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
