//! Debian's kernels under qemu: the test binaries of this host, run on kernels that it does not have.
//!
//! Of a kernel package only kernel and modules are used. The root of the virtual machine is the host's own, read-only
//! below a layer of memory, so that tests find the programs they need and nothing has to be collected. Emulation is in
//! software: it is slow but runs everywhere, and Debian's kernels hang under the KVM of some hosts.
//!
//! Nothing skips: the tests that must report are listed by the binary before the machine starts, and one that says
//! nothing has failed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::exec::{cargo, target_dir};
use crate::{setup, test};

mod kernel;
mod machine;
mod record;

pub(crate) use kernel::Kernel;
use machine::{Machine, Report};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Runs on this kernel only; may be given more than once
    #[arg(long = "kernel", value_name = "KERNEL", value_enum)]
    kernels: Vec<Kernel>,
    /// Writes the results into docs/compatibility.md
    #[arg(long)]
    record: bool,
    /// Runs this test binary only, the whole of it unless tests are named; may be given more than once
    #[arg(long = "test", value_name = "BINARY")]
    binaries: Vec<String>,
    /// Runs tests only whose names contain one of these
    filters: Vec<String>,
}

/// What runs in every machine unless the command line says otherwise.
///
/// `access` is for virtual machines only: it needs devices that few hosts have. Of the others only what a kernel can
/// change, and what emulation can do in seconds.
const CHOSEN: &[(&str, &[&str])] = &[("access", &[])];

/// One kernel may take this long. A test that hangs is found by the reader of the results, not by this.
const LIMIT: Duration = Duration::from_secs(900);

/// A test binary and the names that choose its tests; no name, all of them.
struct Payload {
    name: String,
    binary: PathBuf,
    filters: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let kernels = match args.kernels {
        kernels if kernels.is_empty() => Kernel::ALL.to_vec(),
        kernels => kernels,
    };
    test::kernel_preflight()?;
    setup::lab()?;
    setup::build()?;
    let chosen: Vec<(String, Vec<String>)> = if args.binaries.is_empty() {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let only = |names: &[&str]| {
            if args.filters.is_empty() { owned(names) } else { args.filters.clone() }
        };
        CHOSEN.iter().map(|&(binary, names)| (binary.to_owned(), only(names))).collect()
    } else {
        args.binaries.into_iter().map(|binary| (binary, args.filters.clone())).collect()
    };
    run_on(&kernels, &chosen, args.record)
}

/// The lane of `cargo xtask test`. Returns how many tests of the `access` binary each kernel ran.
pub(crate) fn lane() -> Result<u64> {
    let chosen: Vec<(String, Vec<String>)> = CHOSEN
        .iter()
        .map(|&(binary, names)| {
            (binary.to_owned(), names.iter().map(|&name| name.to_owned()).collect())
        })
        .collect();
    let binary = test_binary("access")?;
    run_on(&Kernel::ALL, &chosen, false)?;
    Ok(list(&binary, &[])?.len() as u64)
}

fn run_on(kernels: &[Kernel], chosen: &[(String, Vec<String>)], record: bool) -> Result<()> {
    setup::vm()?;
    let mut plan = Vec::new();
    let mut expected = BTreeSet::new();
    for (name, filters) in chosen {
        let binary = test_binary(name)?;
        let tests = list(&binary, filters)?;
        expected.extend(tests.into_iter().map(|test| format!("{name}::{test}")));
        plan.push(Payload { name: name.clone(), binary, filters: filters.clone() });
    }

    let cache = target_dir()?.join("vm");
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let mut machines = Vec::new();
    for kernel in kernels {
        machines.push(Machine::prepare(kernel.fetch(&cache)?, &plan)?);
    }
    // Side by side: booting and most tests keep one processor busy each.
    let reports: Vec<Result<Report>> = thread::scope(|scope| {
        let running: Vec<_> =
            machines.iter().map(|machine| scope.spawn(|| machine.run(LIMIT))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Report>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        running.into_iter().map(join).collect()
    });

    let mut wrong = Vec::new();
    let reports: Vec<Report> = reports.into_iter().collect::<Result<_>>()?;
    let columns: Vec<(&str, &Report)> =
        machines.iter().map(Machine::release).zip(&reports).collect();
    if record {
        record::write(&columns, &expected)?;
    }
    for (machine, report) in machines.iter().zip(&reports) {
        let complaints = report.complaints(&expected);
        if complaints.is_empty() {
            eprintln!("xtask: Linux {}: {} tests passed", machine.release(), expected.len());
        }
        wrong.extend(
            complaints.into_iter().map(|text| format!("Linux {}: {text}", machine.release())),
        );
    }
    ensure!(wrong.is_empty(), "in virtual machines:\n  {}", wrong.join("\n  "));
    Ok(())
}

/// Builds the tests as the kernel lane does, and finds one of the binaries.
fn test_binary(name: &str) -> Result<PathBuf> {
    let mut cmd = cargo("test");
    cmd.args([
        "--workspace",
        "--no-run",
        "--test",
        "*",
        "--message-format=json-render-diagnostics",
    ]);
    let output = cmd.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo cannot build the tests: {}", output.status);
    let messages = String::from_utf8_lossy(&output.stdout);
    let found = messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message.pointer("/target/name")?.as_str()? == name
            && message.pointer("/profile/test")?.as_bool()?;
        let path = message.get("executable")?.as_str()?;
        is_it.then(|| PathBuf::from(path))
    });
    found.with_context(|| format!("there is no test binary {name}"))
}

/// The tests that a binary will run. A name that chooses none is an error.
fn list(binary: &Path, filters: &[String]) -> Result<Vec<String>> {
    let names = |filters: &[String]| -> Result<Vec<String>> {
        let mut cmd = Command::new(binary);
        cmd.args(["--list", "--format=terse", "--ignored"]).args(filters);
        let output = cmd.output().with_context(|| format!("cannot run {}", binary.display()))?;
        ensure!(output.status.success(), "{} --list: {}", binary.display(), output.status);
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter_map(|line| Some(line.strip_suffix(": test")?.to_owned())).collect())
    };
    for filter in filters {
        let found = names(std::slice::from_ref(filter))?;
        ensure!(!found.is_empty(), "{filter} chooses no test of {}", binary.display());
    }
    let all = names(filters)?;
    ensure!(!all.is_empty(), "{} has no test for a virtual machine", binary.display());
    Ok(all)
}
