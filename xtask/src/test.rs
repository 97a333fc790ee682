//! The test lanes. A lane fails if it cannot run, and names what is missing; if it ran no test; and if another lane left a
//! test to it that it did not run.
//!
//! The lanes count libtest's output themselves. cargo-nextest would do it, but a fresh machine would have to compile it for
//! minutes, and the vm lane reads libtest's output all the same.

use std::fs;
use std::io::{self, BufRead, BufReader, Write, stdout};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;

use crate::exec::{announce, cargo, exec, root};
use crate::vm::{self, Extent};
use crate::{lint, setup};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Runs this lane only; may be given more than once. Without it: all of them, vm in its short form
    #[arg(long = "lane", value_name = "LANE")]
    lanes: Vec<Lane>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Lane {
    /// Formatting and clippy
    Lint,
    /// Tests that need no privileges
    Host,
    /// Tests that need root: they load programs and make namespaces
    Kernel,
    /// Tests that need devices or kernels that few hosts have: they run in virtual machines
    Vm,
}

pub(crate) fn run(Args { lanes }: Args) -> Result<()> {
    let wanted = |lane| lanes.contains(&lane) || lanes.is_empty();

    // First, so that a missing requirement shows before minutes of other tests.
    if wanted(Lane::Kernel) || wanted(Lane::Vm) {
        kernel_preflight()?;
        setup::lab()?;
    }
    if wanted(Lane::Vm) {
        setup::vm()?;
    }
    setup::build()?;

    if wanted(Lane::Lint) {
        lint::run().context("lint lane")?;
    }
    let host = wanted(Lane::Host).then(host_lane).transpose().context("host lane")?;
    let kernel = wanted(Lane::Kernel).then(kernel_lane).transpose().context("kernel lane")?;

    // Emulation is slow: the full matrix takes many minutes and runs only when this lane is named.
    let extent = if lanes.is_empty() { Extent::Short } else { Extent::Full };
    let vm = wanted(Lane::Vm).then(|| vm::lane(extent)).transpose().context("vm lane")?;

    for (lane, count) in [("host", host), ("kernel", kernel)] {
        if let Some(Count { ran, ignored, .. }) = count {
            eprintln!("xtask: {lane} lane: {ran} tests passed, {ignored} left to other lanes");
        }
    }
    if let (Some(host), Some(kernel)) = (host, kernel) {
        ensure!(
            host.ignored - host.for_vm == kernel.ran,
            "the host lane left {} tests to the kernel lane, which ran {}: they belong in tests/*/main.rs, in its modules or in a library",
            host.ignored - host.for_vm,
            kernel.ran
        );
    }
    if let Some(vm::Ran { all, access, access_has }) = vm {
        let left = access_has - access;
        eprintln!(
            "xtask: vm lane: {all} tests passed on each kernel, {left} left to cargo xtask test --lane vm"
        );
    }
    if let (Some(host), Some(vm)) = (host, vm) {
        ensure!(
            host.for_vm == vm.access_has,
            "the host lane left {} tests to the vm lane, which has {}: they belong in tests/access/main.rs, in `mod vm`",
            host.for_vm,
            vm.access_has
        );
    }
    Ok(())
}

fn host_lane() -> Result<Count> {
    let mut cmd = cargo("test");
    cmd.args(["--workspace", "--no-fail-fast"]);
    count(cmd, Show::AtOnce)
}

/// The suite that takes half of the kernel lane's time, most of it waiting for daemons.
const LONGEST: &str = "live";

/// Runs the tests that are marked `#[ignore = "root: cargo xtask test --lane kernel"]`. Within each of two processes, one test
/// runs at a time: in one those of [`LONGEST`], in the other all others.
fn kernel_lane() -> Result<Count> {
    // First, so that no test has to wait for a compiler.
    exec(kernel_tests(&["--lib", "--test", "*"]).arg("--no-run"))?;
    let suites = suites()?;
    let others = suites.iter().filter(|suite| *suite != LONGEST);
    let others: Vec<_> = others.flat_map(|suite| ["--test", suite]).collect();
    thread::scope(|scope| {
        let longest = scope.spawn(|| count(marked(&["--test", LONGEST]), Show::AtTheEnd));
        let others = count(marked(&[&["--lib"], &*others].concat()), Show::AtOnce);
        let longest = longest.join().map_err(|_| anyhow!("the thread of {LONGEST} panicked"))?;
        // What failed in both is worth knowing.
        match (longest, others) {
            (Ok(a), Ok(b)) => {
                Ok(Count { ran: a.ran + b.ran, ignored: a.ignored + b.ignored, for_vm: 0 })
            }
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
            (Err(a), Err(b)) => bail!("{a:#}; {b:#}"),
        }
    })
}

/// The whole workspace again: with one package alone, cargo would build its dependencies anew, for other features.
fn kernel_tests(targets: &[&str]) -> Command {
    let mut cmd = cargo("test");
    cmd.args(["--workspace", "--no-fail-fast"]).args(targets);
    cmd
}

fn marked(targets: &[&str]) -> Command {
    let mut cmd = kernel_tests(targets);
    // Those of the vm lane are marked as well.
    cmd.args(["--", "--ignored", "--test-threads=1", "--skip=vm::"]);
    cmd
}

/// The suites: the directories of `tests` that have a `main.rs`.
fn suites() -> Result<Vec<String>> {
    let mut suites = Vec::new();
    for entry in fs::read_dir(root().join("tests")).context("cannot list tests")? {
        let path = entry?.path();
        if path.join("main.rs").exists() {
            suites.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    suites.sort();
    ensure!(suites.iter().any(|suite| suite == LONGEST), "no suite is named {LONGEST}");
    Ok(suites)
}

/// Fails if the machine lacks what no package can install.
pub(crate) fn kernel_preflight() -> Result<()> {
    let mut missing = Vec::new();
    if !setup::is_root()? {
        missing.push("root");
    }
    let status = fs::read_to_string("/proc/self/status").context("cannot read our capabilities")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective =
        u64::from_str_radix(effective.context("no CapEff in /proc/self/status")?.trim(), 16)?;
    for (bit, name) in [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (39, "CAP_BPF")] {
        if effective & (1 << bit) == 0 {
            missing.push(name);
        }
    }
    if !fs::read_to_string("/proc/filesystems")?.lines().any(|line| line.ends_with("\tbpf")) {
        missing.push("the bpf file system");
    }
    if !fs::exists("/sys/kernel/btf/vmlinux")? {
        missing.push("the kernel's BTF (CONFIG_DEBUG_INFO_BTF)");
    }
    ensure!(
        missing.is_empty(),
        "the kernel lane cannot run here, missing: {}; the others can: cargo xtask test --lane lint --lane host",
        missing.join(", ")
    );
    Ok(())
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Count {
    ran: u64,
    ignored: u64,
    /// How many of the ignored are for virtual machines.
    for_vm: u64,
}

impl Count {
    /// Adds one line of libtest's output, if it is one that counts:
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s`
    /// `test vm::vlan ... ignored, vm: cargo xtask test --lane vm`
    fn add(&mut self, line: &str) {
        if line.starts_with("test ") && line.contains(" ... ignored, vm: ") {
            self.for_vm += 1;
            return;
        }
        let Some(result) = line.strip_prefix("test result: ") else { return };
        for part in result.split(['.', ';']) {
            match part.trim().split_once(' ') {
                Some((n, "passed" | "failed")) => self.ran += n.parse().unwrap_or(0),
                Some((n, "ignored")) => self.ignored += n.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

/// When to print the output of a command.
#[derive(Clone, Copy, PartialEq)]
enum Show {
    AtOnce,
    /// Another command prints meanwhile.
    AtTheEnd,
}

/// Runs `cargo test` with its output passed through, and counts what it ran.
fn count(mut cmd: Command, show: Show) -> Result<Count> {
    let line = announce(&cmd);
    // One pipe for both, or the results and cargo's headings come in any order.
    let (output, input) = io::pipe().context("cannot make a pipe")?;
    cmd.stdout(input.try_clone()?).stderr(input);
    let mut child = cmd.spawn().with_context(|| format!("cannot run {line}"))?;
    // Closes our writing ends, so that the output ends with the last process that has one.
    drop(cmd);

    let (done, counted) = mpsc::channel();
    thread::spawn(move || {
        let mut count = Count::default();
        let mut kept = String::new();
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            count.add(&line);
            match show {
                // Our reader may be gone: go on counting.
                Show::AtOnce => drop(writeln!(stdout(), "{line}")),
                Show::AtTheEnd => kept += &format!("{line}\n"),
            }
        }
        let _ = stdout().write_all(kept.as_bytes());
        let _ = done.send(count);
    });

    let status = child.wait().with_context(|| format!("cannot wait for {line}"))?;
    let Ok(count) = counted.recv_timeout(Duration::from_secs(10)) else {
        bail!("{line}: over, but something that it started still runs and holds its output");
    };
    ensure!(status.success(), "{line}: {status}");
    ensure!(count.ran > 0, "{line}: ran no test");
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::Count;

    #[test]
    fn counts_add_up_over_test_binaries() {
        let mut count = Count::default();
        for line in [
            "running 4 tests",
            "test blocks ... ignored, root: cargo xtask test --lane kernel",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test vm::vlan ... ignored, vm: cargo xtask test --lane vm",
            "test result: FAILED. 1 passed; 2 failed; 4 ignored; 0 measured; 9 filtered out; finished in 12.34s",
        ] {
            count.add(line);
        }
        assert_eq!(count, Count { ran: 6, ignored: 5, for_vm: 1 });
    }
}
