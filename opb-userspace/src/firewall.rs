//! Rules of nftables and iptables on this node that deny TCP port 25 to forwarded packets. opb did
//! not make them, and its counters do not show what they drop.
//!
//! The tools read the rules: their listing is a stable format, while the kernel's is not, and
//! nftables has JSON. A tool that is missing, fails or hangs makes the result incomplete, and
//! nothing else.

mod chains;
mod iptables;
mod nftables;
mod tools;

use std::{
    fs, io,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::{api::explain::OtherRules, kernel, text};

use self::{
    chains::{Denials, Ruleset},
    tools::ToolError,
};

/// How long all tools together may take.
pub const LIMIT: Duration = Duration::from_secs(3);
/// A process that ignores its kill is waited for as long as this in addition.
pub const GRACE: Duration = Duration::from_secs(1);
/// The most rules that are listed.
const MOST: usize = 50;

/// The port that all of this is about.
pub const MAIL: u16 = 25;

/// Reads the rules of this network namespace, on a thread of its own: a tool that cannot even be
/// killed does not hold up the caller.
#[must_use]
pub fn other_rules_in_time() -> OtherRules {
    let (done, result) = mpsc::channel();
    let spawned = thread::Builder::new().name("rules".to_owned()).spawn(move || {
        // The caller may have given up.
        let _ = done.send(other_rules(LIMIT));
    });
    match spawned.map(|_| result.recv_timeout(LIMIT + GRACE)) {
        Ok(Ok(rules)) => rules,
        _ => hanging(),
    }
}

/// The result if no tool answers in time.
#[must_use]
pub fn hanging() -> OtherRules {
    let unknown = format!("the rules were not listed within {} seconds", LIMIT.as_secs());
    OtherRules { unknown: vec![unknown], ..OtherRules::default() }
}

/// Reads the rules of this network namespace. Takes at most `limit`, unless a tool cannot be
/// killed.
#[must_use]
pub fn other_rules(limit: Duration) -> OtherRules {
    let deadline = Instant::now() + limit;
    let (mut denials, mut unknown) = (Denials::default(), Vec::new());
    if let Err(error) = nftables(deadline, &mut denials) {
        unknown.push(format!("nftables: {error}"));
    }
    for (names, tool, save) in [
        ("ip_tables_names", "iptables", "iptables-legacy-save"),
        ("ip6_tables_names", "ip6tables", "ip6tables-legacy-save"),
    ] {
        if let Err(error) = legacy(names, tool, save, deadline, &mut denials) {
            unknown.push(format!("{tool}: {error}"));
        }
    }
    let clean = |text: String| text::short(&text::line(&text), 300).into_owned();
    let more = denials.0.len().saturating_sub(MOST);
    let rules = denials.0.into_iter().take(MOST).map(clean).collect();
    OtherRules { rules, more, unknown: unknown.into_iter().map(clean).collect() }
}

/// Why the rules of one tool are not known.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    #[error("cannot ask the kernel for tables: {0}")]
    Kernel(io::Error),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("cannot read the listing: {0}")]
    Listing(#[from] serde_json::Error),
}

fn nftables(deadline: Instant, denials: &mut Denials) -> Result<(), Unknown> {
    // The tool may be missing where nobody uses nftables: that is complete, too.
    if !kernel::has_nftables().map_err(Unknown::Kernel)? {
        return Ok(());
    }
    let listing = tools::output("nft", &["-j", "list", "ruleset"], deadline)?;
    let (ruleset, opaque) = nftables::parse(&listing)?;
    denials.find(&ruleset);
    // Rules by iptables-nft may have parts that only that tool can read.
    for (family, save) in [("ip", "iptables-nft-save"), ("ip6", "ip6tables-nft-save")] {
        let tables = opaque.iter().filter(|(of, _)| of == family);
        let tables: Vec<_> = tables.map(|(_, table)| table.as_str()).collect();
        if tables.is_empty() {
            continue;
        }
        let listing = tools::output(save, &[], deadline)?;
        let tool = save.trim_end_matches("-nft-save");
        let mut ruleset = Ruleset::default();
        iptables::parse(&listing, tool, |table| tables.contains(&table), &mut ruleset);
        denials.find(&ruleset);
    }
    Ok(())
}

/// Reads legacy tables. The kernel names those that are in use; the tool itself would load the
/// module and make the tables.
fn legacy(
    names: &str,
    tool: &str,
    save: &str,
    deadline: Instant,
    denials: &mut Denials,
) -> Result<(), Unknown> {
    match fs::read_to_string(format!("/proc/thread-self/net/{names}")) {
        Ok(tables) if tables.trim().is_empty() => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Unknown::Kernel(error)),
    }
    let listing = tools::output(save, &[], deadline)?;
    let mut ruleset = Ruleset::default();
    iptables::parse(&listing, tool, |_| true, &mut ruleset);
    denials.find(&ruleset);
    Ok(())
}
