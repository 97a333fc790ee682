//! The filters that do the same job on a gateway: ours, and what people use today.

use std::{
    fmt, fs,
    io::{BufRead as _, BufReader, Write as _},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use opb_lab::{
    netns::Netns,
    process::{self, Output},
    trivial,
    workdir::Workdir,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    gateway::ACCESS,
    node::{self, Node},
    plan::Effort,
    programs::{DropAll, Reference},
    table::{Family, Form, Table, relays},
};

/// Loading a million prefixes takes some of them a minute.
pub const LIMIT: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    #[serde(rename = "no filter")]
    Nothing,
    /// An XDP program that lets everything pass: what XDP costs on this cable.
    #[serde(rename = "empty XDP")]
    EmptyXdp,
    /// The same at TC.
    #[serde(rename = "empty TC")]
    EmptyTc,
    /// An XDP program that drops everything: what generator and cable cost.
    #[serde(rename = "drop all")]
    DropAll,
    #[serde(rename = "opb XDP")]
    OpbXdp,
    #[serde(rename = "opb TC")]
    OpbTc,
    #[serde(rename = "LPM tries")]
    Reference,
    #[serde(rename = "nftables")]
    Nftables,
    #[serde(rename = "iptables+ipset")]
    Iptables,
    /// Knows the port alone.
    #[serde(rename = "xdp-filter")]
    XdpFilter,
}

impl Kind {
    /// Whether it is measured in such a run.
    pub fn is_measured(self, effort: Effort) -> bool {
        let is_peer = matches!(self, Self::Nftables | Self::Iptables | Self::XdpFilter);
        effort.has_peers() || !is_peer
    }

    /// Whether it looks at sources at all.
    pub fn knows_subscribers(self) -> bool {
        !matches!(self, Self::DropAll | Self::XdpFilter)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nothing => "no filter",
            Self::EmptyXdp => "empty XDP",
            Self::EmptyTc => "empty TC",
            Self::DropAll => "drop all",
            Self::OpbXdp => "opb XDP",
            Self::OpbTc => "opb TC",
            Self::Reference => "LPM tries",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables+ipset",
            Self::XdpFilter => "xdp-filter",
        })
    }
}

/// A filter in place. Dropping it takes it away.
pub enum Filter {
    Nothing,
    Empty(OwnedFd),
    DropAll(DropAll),
    Opb(Node),
    Reference(Reference),
    Nftables(Netns),
    Iptables(Netns),
    XdpFilter(XdpFilter),
}

impl Filter {
    /// Puts a filter for `table` on a gateway's access interface.
    pub fn new(kind: Kind, table: &Table, gateway: &Netns, opb: &Path) -> Result<Self> {
        let made = match kind {
            Kind::Nothing => Ok(Self::Nothing),
            Kind::EmptyXdp => trivial::pass_in_xdp(gateway, ACCESS).map(Self::Empty),
            Kind::EmptyTc => trivial::pass_in_tcx(gateway, ACCESS).map(Self::Empty),
            Kind::DropAll => DropAll::attach(gateway, ACCESS).map(Self::DropAll),
            Kind::OpbXdp => node(table, gateway, opb, "xdp").map(Self::Opb),
            Kind::OpbTc => node(table, gateway, opb, "tc").map(Self::Opb),
            Kind::Reference => reference(table, gateway).map(Self::Reference),
            Kind::Nftables => nftables(table, gateway).map(Self::Nftables),
            Kind::Iptables => iptables(table, gateway).map(Self::Iptables),
            Kind::XdpFilter => XdpFilter::start(gateway).map(Self::XdpFilter),
        };
        made.with_context(|| format!("{kind} cannot be measured on this machine"))
    }

    /// The packets that it reports as dropped so far; `None` if it does not count.
    pub fn dropped(&mut self) -> Result<Option<u64>> {
        Ok(Some(match self {
            Self::Nothing | Self::Empty(_) | Self::DropAll(_) => return Ok(None),
            Self::Opb(node) => node.counted("drop")?,
            Self::Reference(reference) => reference.dropped()?,
            Self::Nftables(netns) => {
                // Tersely: otherwise it reads a million prefixes first.
                let arguments = ["-t", "-j", "list", "counter", "netdev", "bench", "dropped"];
                let Output { stdout, stderr, .. } =
                    process::run(netns.command("nft").args(arguments), LIMIT)?;
                let shown: Value = serde_json::from_str(&stdout).context(stderr)?;
                let objects = shown.get("nftables").and_then(Value::as_array);
                let counter = |object: &Value| object.pointer("/counter/packets")?.as_u64();
                objects
                    .and_then(|objects| objects.iter().find_map(counter))
                    .with_context(|| format!("no counter in {shown}"))?
            }
            Self::Iptables(netns) => {
                let arguments = ["-t", "raw", "-nvxL", "PREROUTING"];
                let shown = process::check(netns.command(IPTABLES).args(arguments))?;
                // pkts bytes target prot opt in out source destination
                let rules = shown.lines().filter(|line| line.contains(" DROP "));
                rules.filter_map(|rule| rule.split_whitespace().next()?.parse::<u64>().ok()).sum()
            }
            Self::XdpFilter(filter) => filter.dropped()?,
        }))
    }
}

fn node(table: &Table, gateway: &Netns, opb: &Path, hook: &str) -> Result<Node> {
    let mut node = node::prepare(opb, gateway, hook)?;
    let directory = node.make_directory("table")?;
    table.write_policy(&directory, &Family::BOTH, Form::Lines)?;
    node.select(&directory)?;
    node.run()?;
    Ok(node)
}

fn reference(table: &Table, gateway: &Netns) -> Result<Reference> {
    let mut reference = Reference::new(table)?;
    reference.attach(gateway, ACCESS)?;
    Ok(reference)
}

/// One set for all groups, because all have the same relays. The port comes first: most packets end there.
fn nftables(table: &Table, gateway: &Netns) -> Result<Netns> {
    let scratch = Workdir::new("nft")?;
    let file = scratch.path().join("rules.nft");
    fs::write(&file, nft_rules(table))?;
    load(gateway, "nft", &["-f"], &file)?;
    Ok(gateway.clone())
}

/// An operator's `nft -f` file.
pub fn nft_rules(table: &Table) -> String {
    let list =
        |prefixes: &mut dyn Iterator<Item = String>| prefixes.collect::<Vec<_>>().join(",\n");
    let subscribers =
        list(&mut table.prefixes(Family::V4).iter().map(|(prefix, _)| prefix.to_string()));
    let relays = list(
        &mut relays().filter(|relay| !relay.is_ipv6()).map(|relay| relay.network().to_string()),
    );
    format!(
        "\
table netdev bench {{
  counter dropped {{}}
  set subscribers {{
    type ipv4_addr
    flags interval
    auto-merge
    elements = {{ {subscribers} }}
  }}
  set relays {{
    type ipv4_addr
    elements = {{ {relays} }}
  }}
  chain ingress {{
    type filter hook ingress device {ACCESS} priority 0; policy accept;
    tcp dport 25 tcp flags & (syn | ack) == syn ip saddr @subscribers ip daddr != @relays counter name dropped drop
  }}
}}
"
    )
}

/// The kernel's own tables; those that nftables emulates were no faster in a run of each.
const IPTABLES: &str = "iptables-legacy";

fn iptables(table: &Table, gateway: &Netns) -> Result<Netns> {
    let scratch = Workdir::new("ipset")?;
    let file = scratch.path().join("sets");
    fs::write(&file, ipset_sets(table))?;
    load(gateway, "ipset", &["restore", "-file"], &file)?;
    ipset_rule(gateway)?;
    Ok(gateway.clone())
}

/// The rule that uses the sets.
pub fn ipset_rule(gateway: &Netns) -> Result<()> {
    let rule = format!(
        "-t raw -A PREROUTING -i {ACCESS} -p tcp --dport 25 --syn \
         -m set --match-set subscribers src -m set ! --match-set relays dst -j DROP"
    );
    process::check(gateway.command(IPTABLES).args(rule.split_whitespace())).map(drop)
}

/// An operator's `ipset restore` file.
pub fn ipset_sets(table: &Table) -> String {
    let prefixes = table.prefixes(Family::V4);
    let room = prefixes.len().max(64);
    let mut text = format!(
        "create subscribers hash:net family inet hashsize {0} maxelem {0}\ncreate relays hash:ip\n",
        room.next_power_of_two()
    );
    for (prefix, _) in prefixes {
        text += &format!("add subscribers {prefix}\n");
    }
    for relay in relays().filter(|relay| !relay.is_ipv6()) {
        text += &format!("add relays {}\n", relay.network());
    }
    text
}

fn load(gateway: &Netns, program: &str, arguments: &[&str], file: &Path) -> Result<()> {
    let Output { status, stderr, .. } =
        process::run(gateway.command(program).args(arguments).arg(file), LIMIT)?;
    ensure!(status.success(), "{program}: {status}: {stderr}");
    Ok(())
}

/// The tool of xdp-tools. It pins below /sys/fs/bpf wherever it runs, so all of its commands share a mount namespace
/// that has a bpffs of its own there.
pub struct XdpFilter {
    shell: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl XdpFilter {
    /// Answers `status` until it reads the end of its input. Debian's version says what it should and then exits 254.
    const SCRIPT: &str = "
        set -e
        mount -t bpf bpf /sys/fs/bpf
        xdp-filter load \"$1\" -m native -f tcp >&2
        xdp-filter port 25 -m dst -p tcp >&2
        echo ready
        while read -r _; do
            xdp-filter status || true
            echo end
        done
        xdp-filter unload \"$1\" >&2
    ";

    fn start(gateway: &Netns) -> Result<Self> {
        let mut shell = gateway
            .command("unshare")
            .args(["--mount", "sh", "-c", Self::SCRIPT, "sh", ACCESS])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start unshare")?;
        let said = BufReader::new(shell.stdout.take().context("no output")?);
        let mut filter = Self { shell, said };
        let mut line = String::new();
        filter.said.read_line(&mut line)?;
        ensure!(line.trim() == "ready", "xdp-filter of Debian's xdp-tools does not start");
        Ok(filter)
    }

    fn dropped(&mut self) -> Result<u64> {
        let stdin = self.shell.stdin.as_mut().context("no input")?;
        writeln!(stdin)?;
        let mut dropped = None;
        loop {
            let mut line = String::new();
            ensure!(self.said.read_line(&mut line)? > 0, "xdp-filter ended");
            // XDP_DROP          0 pkts           0 KiB
            let mut words = line.split_whitespace();
            match words.next() {
                Some("end") => break,
                Some("XDP_DROP") => dropped = words.next().and_then(|word| word.parse().ok()),
                _ => {}
            }
        }
        dropped.context("xdp-filter status names no XDP_DROP")
    }
}

impl Drop for XdpFilter {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
