//! Debian's kernels under qemu: the test binaries of this host, run on kernels that it does not have.
//!
//! Of a kernel package only kernel and modules are used. The root of the virtual machine is the host's own, read-only
//! below a layer of memory, so that tests find the programs they need and nothing has to be collected. Emulation is in
//! software: it is slow but runs everywhere, and Debian's kernels hang under the KVM of some hosts.
//!
//! Nothing skips: the tests that must report are listed by the binary before the machine starts, and one that says
//! nothing has failed.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Runs what `cargo xtask test` runs, and not the full matrix
    #[arg(long, conflicts_with_all = ["record", "binaries"])]
    short: bool,
    /// Writes the results into docs/compatibility.md: the whole table, or the rows of the tests that ran
    #[arg(long)]
    record: bool,
    /// Runs this test binary only, the whole of it unless tests are named; may be given more than once
    #[arg(long = "test", value_name = "BINARY")]
    binaries: Vec<String>,
    /// Runs tests only whose names contain one of these
    filters: Vec<String>,
}

/// How much of what could run in the machines does.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Extent {
    /// Whether this version works on those kernels at all: seconds, for every run of the tests.
    Short,
    /// All of `access`, and of the other binaries what a kernel can change.
    Full,
}

/// The tests that run nowhere else: they need devices that few hosts have.
const ACCESS: &str = "access";

impl Extent {
    /// Test binaries, and what their tests' names contain; where nothing is said, all of them.
    fn choice(self) -> Vec<(String, Vec<String>)> {
        let choice: &[(&str, &[&str])] = match self {
            Self::Short => &[
                ("kernel", &["the_verifier_has_room", "every_row_gets_its_verdict_in_"]),
                (ACCESS, &["vm::hooks::native_xdp", "vm::hooks::tc_on_the_way_"]),
            ],
            Self::Full => &[
                ("kernel", &[]),
                ("line", &[]),
                ("lifecycle", &[]),
                ("faq", &["every_row_holds_"]),
                ("live", &["nothing_slips_through", "interfaces::pins", "sessions_of_pppd"]),
                ("seen", &["follow::", "load::"]),
                (ACCESS, &[]),
            ],
        };
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        choice.iter().map(|&(binary, names)| (binary.to_owned(), owned(names))).collect()
    }
}

/// One kernel may take this long. A test that hangs is found by the reader of the results, not by this.
const LIMIT: Duration = Duration::from_secs(3600);

/// What of the results goes into docs/compatibility.md.
#[derive(Clone, Copy, PartialEq)]
enum Record {
    Nothing,
    /// Those of the tests that ran.
    Rows,
    Table,
}

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
    let everything = args.binaries.is_empty() && args.filters.is_empty();
    let record = match args.record {
        false => Record::Nothing,
        true if everything => Record::Table,
        true => Record::Rows,
    };
    let chosen = match args {
        Args { short: true, .. } => Extent::Short.choice(),
        _ if everything => Extent::Full.choice(),
        Args { binaries, filters, .. } if binaries.is_empty() => vec![(ACCESS.to_owned(), filters)],
        Args { binaries, filters, .. } => {
            binaries.into_iter().map(|binary| (binary, filters.clone())).collect()
        }
    };
    run_on(&kernels, &chosen, &test_binaries()?, record).map(drop)
}

/// What the lane of `cargo xtask test` did, on each kernel.
#[derive(Clone, Copy)]
pub(crate) struct Ran {
    /// Tests of all binaries.
    pub(crate) all: u64,
    /// Tests of `access` among them, which run in no other lane.
    pub(crate) access: u64,
    /// Tests that `access` has.
    pub(crate) access_has: u64,
}

pub(crate) fn lane(extent: Extent) -> Result<Ran> {
    let binaries = test_binaries()?;
    let ran = run_on(&Kernel::ALL, &extent.choice(), &binaries, Record::Nothing)?;
    let access = ran.iter().filter(|name| name.starts_with("access::")).count();
    let access_has = list(found(&binaries, ACCESS)?, &[])?.len();
    Ok(Ran { all: ran.len() as u64, access: access as u64, access_has: access_has as u64 })
}

/// Boots the kernels and runs what is chosen on each. The names of the tests that passed on all of them.
fn run_on(
    kernels: &[Kernel],
    chosen: &[(String, Vec<String>)],
    binaries: &BTreeMap<String, PathBuf>,
    record: Record,
) -> Result<BTreeSet<String>> {
    setup::vm()?;
    let mut plan = Vec::new();
    let mut expected = BTreeSet::new();
    for (name, filters) in chosen {
        let binary = found(binaries, name)?;
        let tests = list(binary, filters)?;
        expected.extend(tests.into_iter().map(|test| format!("{name}::{test}")));
        let (name, binary) = (name.clone(), binary.to_owned());
        plan.push(Payload { name, binary, filters: filters.clone() });
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

    let reports: Vec<Report> = reports.into_iter().collect::<Result<_>>()?;
    let mut columns: Vec<record::Column> = Vec::new();
    for (machine, report) in machines.iter().zip(reports) {
        columns.push((machine.release().to_owned(), report, expected.clone()));
    }
    if record != Record::Nothing {
        // What needs devices that this kernel may lack, is not for it.
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        plan.retain(|payload| payload.name != ACCESS);
        let report = machine::run_here(&release, &plan)?;
        let possible = expected.iter().filter(|test| !test.starts_with("access::"));
        columns.push((format!("{release} (this machine)"), report, possible.cloned().collect()));
        record::write(&columns, &expected, record == Record::Table)?;
    }
    let mut wrong = Vec::new();
    for (release, report, expected) in &columns {
        let complaints = report.complaints(expected);
        if complaints.is_empty() {
            eprintln!("xtask: Linux {release}: {} tests passed", expected.len());
        }
        wrong.extend(complaints.into_iter().map(|text| format!("Linux {release}: {text}")));
    }
    ensure!(wrong.is_empty(), "on other kernels:\n  {}", wrong.join("\n  "));
    Ok(expected)
}

/// Builds the tests as the kernel lane does; the binaries by their names.
fn test_binaries() -> Result<BTreeMap<String, PathBuf>> {
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
    let binary = |line: &str| -> Option<(String, PathBuf)> {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_test = message.pointer("/profile/test")?.as_bool()?;
        let name = message.pointer("/target/name")?.as_str()?;
        let path = message.get("executable")?.as_str()?;
        is_test.then(|| (name.to_owned(), path.into()))
    };
    Ok(messages.lines().filter_map(binary).collect())
}

fn found<'a>(binaries: &'a BTreeMap<String, PathBuf>, name: &str) -> Result<&'a Path> {
    let binary = binaries.get(name).map(PathBuf::as_path);
    binary.with_context(|| format!("there is no test binary {name}"))
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
