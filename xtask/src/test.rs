//! The test lanes. A lane fails if it cannot run, and names what is missing; if it ran no test; and if another lane left a
//! test to it that it did not run.

use std::fs;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;

use crate::exec::{cargo, exec, root};
use crate::libtest::{self, Output, Show};
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

    for (lane, count) in [("host", &host), ("kernel", &kernel)] {
        if let Some(Output { ran, ignored, .. }) = count {
            eprintln!("xtask: {lane} lane: {ran} tests passed, {ignored} left to other lanes");
        }
    }
    if let (Some(host), Some(kernel)) = (&host, &kernel) {
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
    if let (Some(host), Some(vm)) = (&host, vm) {
        ensure!(
            host.for_vm == vm.access_has,
            "the host lane left {} tests to the vm lane, which has {}: they belong in tests/access/main.rs, in `mod vm`",
            host.for_vm,
            vm.access_has
        );
    }
    Ok(())
}

fn host_lane() -> Result<Output> {
    let mut cmd = cargo("test");
    cmd.args(["--workspace", "--no-fail-fast"]);
    let output = libtest::run(cmd, Show::AtOnce)?;
    ensure!(output.failed.is_empty(), "failed: {}", list(&output.failed));
    Ok(output)
}

/// The suite that takes half of the kernel lane's time, most of it waiting for daemons.
const LONGEST: &str = "live";

/// Suites that drive daemons in real time, where a busy machine may miss a deadline. In the other suites, a test that
/// failed once has found something.
const TIMED: [&str; 4] = ["faults", "lifecycle", LONGEST, "seen"];

/// Of tests in [`TIMED`] suites, this many may run a second time.
const REPEATED: usize = 3;

/// Runs the tests that are marked `#[ignore = "root: cargo xtask test --lane kernel"]`. Within each of two processes, one test
/// runs at a time: in one those of [`LONGEST`], in the other all others.
fn kernel_lane() -> Result<Output> {
    // First, so that no test has to wait for a compiler.
    exec(kernel_tests(&["--lib", "--test", "*"]).arg("--no-run"))?;
    let suites = suites()?;
    let others = suites.iter().filter(|suite| *suite != LONGEST);
    let others: Vec<_> = others.flat_map(|suite| ["--test", suite]).collect();
    let (longest, others) = thread::scope(|scope| {
        let longest = scope.spawn(|| libtest::run(marked(&["--test", LONGEST]), Show::AtTheEnd));
        let others = libtest::run(marked(&[&["--lib"], &*others].concat()), Show::AtOnce);
        (longest.join(), others)
    });
    let longest = longest.map_err(|_| anyhow!("the thread of {LONGEST} panicked"))?;
    // What failed in both is worth knowing.
    let mut output = match (longest, others) {
        (Ok(mut a), Ok(b)) => {
            (a.ran, a.ignored) = (a.ran + b.ran, a.ignored + b.ignored);
            a.failed.extend(b.failed);
            a
        }
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => return Err(error),
        (Err(a), Err(b)) => bail!("{a:#}; {b:#}"),
    };
    repeat(std::mem::take(&mut output.failed))?;
    Ok(output)
}

/// Runs tests that failed once more, each alone. The two processes of the lane disturb each other, so that now and then one
/// of hundreds of deadlines is missed; a second failure is one of the program. It is printed either way.
fn repeat(failed: Vec<(String, String)>) -> Result<()> {
    let may_repeat = failed.iter().all(|(suite, _)| TIMED.contains(&suite.as_str()));
    ensure!(may_repeat && failed.len() <= REPEATED, "failed: {}", list(&failed));
    for (suite, test) in &failed {
        let mut cmd = marked(&["--test", suite]);
        cmd.args(["--exact", test]);
        let output = libtest::run(cmd, Show::AtOnce)?;
        ensure!(output.failed.is_empty(), "failed twice: {suite} {test}");
    }
    if !failed.is_empty() {
        eprintln!("xtask: kernel lane: passed only when run again, alone: {}", list(&failed));
    }
    Ok(())
}

fn list(failed: &[(String, String)]) -> String {
    let tests: Vec<_> = failed.iter().map(|(suite, test)| format!("{suite} {test}")).collect();
    tests.join(", ")
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
