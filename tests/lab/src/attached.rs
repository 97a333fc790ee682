//! Attachments as the kernel shows them; the program under test is not asked.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Context, Result};
use aya::programs::tc::{SchedClassifier, TcAttachType};
use serde_json::Value;

use crate::{netns::Netns, process};

/// A program on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub interface: String,
    /// The hook as bpftool names it: `driver`, `generic` or `tcx/ingress`.
    pub hook: String,
    pub id: u64,
}

/// Everything of XDP, TCX and clsact on `interfaces` of a namespace.
pub fn attached(netns: &Netns, interfaces: &[&str]) -> Result<Vec<Attachment>> {
    let shown = process::check(netns.command("bpftool").args(["-j", "net", "show"]))?;
    let mut found = attachments(&shown)?;
    found.retain(|attachment| interfaces.contains(&attachment.interface.as_str()));
    for attachment in tcx(netns, interfaces)? {
        if !found.contains(&attachment) {
            found.push(attachment);
        }
    }
    Ok(found)
}

impl Attachment {
    /// Whether it is on the hook that `opb status` calls `name`.
    #[must_use]
    pub fn is_on(&self, name: &str) -> bool {
        match name {
            "xdp" => self.hook == "driver",
            "xdp-generic" => self.hook == "generic",
            name => self.hook.split_once('/').is_some_and(|(hook, _)| hook == name),
        }
    }
}

/// Fails unless the kernel shows a program on the hook of `interface` that `opb status` calls `name`.
pub fn stands_on(netns: &Netns, interface: &str, name: &str) -> Result<()> {
    let found = attached(netns, &[interface])?;
    let on_it = found.iter().any(|attachment| attachment.is_on(name));
    anyhow::ensure!(on_it, "{interface}: not on {name}: {found:?}");
    Ok(())
}

/// Debian 12's bpftool is older than TCX and does not show it.
fn tcx(netns: &Netns, interfaces: &[&str]) -> Result<Vec<Attachment>> {
    let sides = [(TcAttachType::Ingress, "tcx/ingress"), (TcAttachType::Egress, "tcx/egress")];
    netns.enter(|| {
        let mut found = Vec::new();
        for interface in interfaces {
            for (side, hook) in sides {
                // Before 6.6 there is no TCX to ask about.
                let Ok((_, programs)) = SchedClassifier::query_tcx(interface, side) else {
                    continue;
                };
                found.extend(programs.iter().map(|program| Attachment {
                    interface: (*interface).to_owned(),
                    hook: hook.to_owned(),
                    id: program.id().into(),
                }));
            }
        }
        Ok(found)
    })
}

/// Reads `bpftool -j net show`: `[{"xdp":[{"devname":…,"mode":…,"id":…}],"tc":[{"devname":…,"kind":…,…}],…}]`.
fn attachments(json: &str) -> Result<Vec<Attachment>> {
    let shown: Value = serde_json::from_str(json).context("bpftool net show")?;
    let mut found = Vec::new();
    for (section, name) in [("xdp", "mode"), ("tc", "kind")] {
        let Some(rows) = shown.pointer(&format!("/0/{section}")).and_then(Value::as_array) else {
            continue;
        };
        for row in rows {
            let text = |key| row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let id = ["id", "prog_id"].iter().find_map(|key| row.get(key)?.as_u64());
            found.push(Attachment {
                interface: text("devname"),
                hook: text(name),
                id: id.with_context(|| format!("no program id in {row}"))?,
            });
        }
    }
    Ok(found)
}

/// Ids of all objects of a kind (`prog`, `map` or `link`) in the kernel.
pub fn loaded(kind: &str) -> Result<BTreeSet<u64>> {
    let shown = bpftool(&[kind, "show"])?;
    let shown = shown.as_array().context("a list")?.iter();
    Ok(shown.filter_map(|object| object.get("id")?.as_u64()).collect())
}

/// What bpftool shows, as JSON.
pub fn bpftool(arguments: &[&str]) -> Result<Value> {
    let shown = process::check(Command::new("bpftool").arg("-j").args(arguments))?;
    serde_json::from_str(&shown).with_context(|| format!("bpftool {arguments:?}: {shown}"))
}
