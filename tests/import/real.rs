//! Rules in a real kernel, dumped by the real tools.

use std::{fs, io::Write as _, process::Stdio};

use anyhow::{Context, Result, ensure};
use opb_common::outcome::Verdict::{Drop, Pass, Reject, WouldDrop};
use opb_lab::{netns::Netns, process};
use opb_userspace::import::{Format, Imported, Options, import};

use crate::{Compiled, address, fixture, imported};

/// What `nft` prints with these arguments after it has loaded a fixture.
fn dump(name: &str, arguments: &[&str]) -> Result<String> {
    let netns = Netns::new("import")?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("rules");
    fs::write(&file, fixture(name))?;
    process::check(netns.command("nft").arg("-f").arg(&file))?;
    let output = netns.command("nft").args(arguments).args(["list", "ruleset"]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_ruleset_of_a_real_kernel_becomes_a_policy() -> Result<()> {
    let imported = imported(&dump("inet.nft", &["-j"])?);
    ensure!(imported.format == Format::NftJson);
    let compiled = Compiled::of(&imported.yaml);
    for (src, dst, flags, wanted) in [
        ("203.0.113.9", "192.0.2.1", "S", Reject),
        ("203.0.113.9", "192.0.2.1", "A", Pass),
        ("203.0.113.9", "192.0.2.11", "S", Pass),
        ("203.0.113.9", "192.0.2.13", "S", Reject),
        ("203.0.113.9", "198.51.100.71", "S", Pass),
        ("203.0.113.77", "192.0.2.1", "S", Pass),
        ("192.0.2.200", "192.0.2.1", "S", Reject),
        ("192.0.2.100", "192.0.2.1", "S", Pass),
        ("100.64.0.1", "192.0.2.1", "S", Drop),
        ("100.64.0.9", "192.0.2.1", "S", Drop),
        ("100.64.0.10", "192.0.2.1", "S", Pass),
        ("198.19.0.1", "192.0.2.1", "S", Drop),
        ("2001:db8:1000::9", "2001:db8:99::1", "S", Drop),
        ("2001:db8:1000::9", "2001:db8:25::1", "S", Pass),
        ("2001:db8:9000::9", "2001:db8:99::1", "S", Pass),
    ] {
        let got = compiled.verdict(address(src), address(dst), flags);
        ensure!(got == wanted, "{src} to {dst}, {flags}: {got}\n{}", imported.yaml);
    }
    ensure!(imported.yaml.contains("reason: \"contract 1234\""), "{}", imported.yaml);
    let lost = imported.notes.iter().filter(|note| note.lost);
    let causes: Vec<_> = lost.map(|note| note.cause.as_str()).collect();
    ensure!(causes.len() == 2, "{causes:?}");
    ensure!(causes.iter().any(|cause| cause.contains("`limit`")), "{causes:?}");
    ensure!(causes.iter().any(|cause| cause.contains("other traffic")), "{causes:?}");
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn the_text_of_a_ruleset_gives_its_sets_alone() -> Result<()> {
    let text = dump("inet.nft", &[])?;
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let options = Options {
        relays: names(&["relays4", "relays6"]),
        exempt: names(&["fixed"]),
        ..Options::default()
    };
    let Imported { format, yaml, notes, summary } = import(text.as_bytes(), "test", &options)?;
    ensure!(format == Format::Nft, "{format:?}");
    ensure!((summary.groups, summary.relays, summary.exemptions) == (1, 2, 2), "{yaml}");
    let compiled = Compiled::of(&yaml);
    for (src, dst, wanted) in [
        ("203.0.113.9", "192.0.2.1", WouldDrop),
        ("203.0.113.9", "192.0.2.11", Pass),
        ("203.0.113.77", "192.0.2.1", Pass),
    ] {
        let got = compiled.verdict(address(src), address(dst), "S");
        ensure!(got == wanted, "{src} to {dst}: {got}\n{yaml}");
    }
    // Of the rules, those that name port 25 are reported.
    let rules = notes.iter().filter(|note| note.cause.contains("nft -j")).count();
    ensure!(rules == 5, "{notes:?}");
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn sets_of_ipset_become_groups_relays_and_exemptions() -> Result<()> {
    let netns = Netns::new("import")?;
    let mut restore = netns.command("ipset");
    let mut restore = restore.arg("restore").stdin(Stdio::piped()).spawn()?;
    let blocks = fixture("blocks.ipset");
    restore.stdin.take().context("a pipe")?.write_all(blocks.as_bytes())?;
    ensure!(restore.wait()?.success(), "ipset restore fails");
    let output = netns.command("ipset").arg("save").output()?;
    let text = String::from_utf8(output.stdout)?;
    let options = Options {
        relays: vec!["relays".into()],
        exempt: vec!["fixed".into()],
        ..Options::default()
    };
    let Imported { yaml, notes, summary, .. } = import(text.as_bytes(), "test", &options)?;
    ensure!((summary.groups, summary.relays) == (2, 1), "{yaml}");
    let compiled = Compiled::of(&yaml);
    for (src, dst, wanted) in [
        ("203.0.113.9", "192.0.2.1", WouldDrop),
        ("203.0.113.9", "198.51.100.25", Pass),
        ("203.0.113.70", "192.0.2.1", Pass),
        ("203.0.113.77", "192.0.2.1", Pass),
        ("198.19.255.255", "192.0.2.1", WouldDrop),
        ("2001:db8:1000::1", "2001:db8:99::1", WouldDrop),
    ] {
        let got = compiled.verdict(address(src), address(dst), "S");
        ensure!(got == wanted, "{src} to {dst}: {got}\n{yaml}");
    }
    ensure!(yaml.contains("reason: \"contract 1234\""), "{yaml}");
    let lost: Vec<_> = notes.iter().filter(|note| note.lost).collect();
    ensure!(lost.len() == 1 && lost[0].cause.contains("hash:net,port"), "{lost:?}");
    Ok(())
}
