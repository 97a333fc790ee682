//! Installs what is missing, and only that. The way that always works takes Debian's packages and crates.io;
//! on other distributions it prints what to install.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::bpf;
use crate::exec::exec;

/// bpf-linker must read the bitcode of the compiler: its LLVM is not to be older than rustc's. Debian's rustc 1.96
/// and today's nightly both have 22, while the linker's own default feature is a later one.
const BPF_LINKER: &str = "0.13.0";
const LLVM: &str = "22";

/// Packages for building. Add to a list here, with the reason; nothing else names packages.
const BUILD: &[&str] = &[
    // to build bpf-linker, and the libLLVM that it runs with
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
    // a rustc that has `core` for the BPF targets precompiled, and its clippy
    "rustc-web",
    "libstd-rust-web-dev-bpf",
    "rust-web-clippy",
];

/// Packages for the lab: the demo and the kernel tests.
const LAB: &[&str] = &[
    // namespaces, links and offloads
    "iproute2",
    "ethtool",
    // rules and sets of other filters, on the mail port and for `opb import`
    "nftables",
    "ipset",
    // echoes of any size, compared byte by byte
    "iputils-ping",
    // mail server and mail client, with TLS
    "postfix",
    "swaks",
    "openssl",
    "ca-certificates",
    "libnet-ssleay-perl",
    "libio-socket-ssl-perl",
    "libio-socket-inet6-perl",
    "python3",
    // a web client
    "curl",
    // scans by a tool that others use to get past filters
    "nmap",
    // a name server whose answers change
    "dnsmasq-base",
    // a client of RADIUS that is not ours
    "freeradius-utils",
    // a clock that jumps
    "libfaketime",
    // rules of others on the mail port
    "iptables",
    // a second look at what we loaded
    "bpftool",
    // the status page, in a browser, with letters for Japanese
    "chromium",
    "chromium-driver",
    "fonts-droid-fallback",
    // metrics, alert rules and dashboard
    "prometheus",
    // events in a journal, and in a file that is rotated
    "systemd",
    "logrotate",
];

/// Packages for virtual machines, and what only the tests in them use.
const VM: &[&str] = &[
    "qemu-system-x86",
    // the first file system: its programs, its archive, its modules
    "busybox-static",
    "cpio",
    "kmod",
    "xz-utils",
    // PPPoE server and client
    "pppoe",
    "ppp",
    // NAT and flow offload
    "nftables",
];

/// Packages for `cargo xtask dist`: to strip the program and keep its symbols, to find the packages that it depends on, to
/// sign the sums, and to look at the packages.
const DIST: &[&str] = &["binutils", "dpkg-dev", "openssl", "lintian"];

/// Packages for the benchmarks: what opb is measured against, and what makes traffic.
const BENCH: &[&str] = &[
    // sets of intervals at the netdev hook
    "nftables",
    // the raw table, with sets beside it
    "iptables",
    "ipset",
    // xdp-filter
    "xdp-tools",
    // bulk transfers through a gateway
    "iperf3",
];

/// The lab starts mail servers of its own. The package's stays off the network.
const POSTFIX_LOCAL: &str =
    "echo 'postfix postfix/main_mailer_type select Local only' | debconf-set-selections";

/// Everything, for people.
pub(crate) fn all() -> Result<()> {
    build()?;
    lab()?;
    if has_dpkg() {
        vm()?;
    }
    eprintln!("xtask: set up: compiler, bpf-linker, lab and virtual machines are here");
    Ok(())
}

/// What `cargo build` and `cargo xtask lint` need.
pub(crate) fn build() -> Result<()> {
    let linker = linker_version();
    let packages = missing(BUILD);
    if !packages.is_empty() && linker.is_some() && bpf::nightly_has_rust_src() {
        // Not our way to set up, but one that works.
        return Ok(());
    }
    install(&packages).with_context(|| {
        format!(
            "cannot set up from Debian packages; elsewhere install LLVM {LLVM} with its development files, then run\n  \
             rustup toolchain install nightly --component rust-src --component clippy\n  \
             LLVM_PREFIX=DIRECTORY cargo {}\nbecause",
            bpf_linker_args()
        )
    })?;
    if linker.as_deref() == Some(BPF_LINKER) {
        return Ok(());
    }
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(bpf_linker_args().split(' ')).env("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM}"));
    if let Some(home) = bpf::cargo_home() {
        // Where bpf::linker() looks first, whatever cargo's configuration says.
        cargo.arg("--root").arg(home);
    }
    exec(&mut cargo)
}

/// What the demo and the kernel tests need.
pub(crate) fn lab() -> Result<()> {
    if !has_dpkg() {
        eprintln!("xtask: not a Debian system, so not checked: {}", LAB.join(" "));
        return Ok(());
    }
    install(&missing(LAB)).context("the lab lacks programs")
}

/// What `cargo xtask vm` needs beside the lab.
pub(crate) fn vm() -> Result<()> {
    if !has_dpkg() {
        bail!("virtual machines boot Debian's kernel packages, and this is not a Debian system");
    }
    install(&missing(VM)).context("cannot prepare virtual machines")
}

/// What `cargo xtask dist` needs beside what it takes to build.
pub(crate) fn dist() -> Result<()> {
    if !has_dpkg() {
        bail!("Debian packages are made by Debian's tools, and this is not a Debian system");
    }
    install(&missing(DIST)).context("cannot prepare for packages")
}

/// What `cargo xtask bench` needs beside the lab.
pub(crate) fn bench() -> Result<()> {
    if !has_dpkg() {
        eprintln!("xtask: not a Debian system, so not checked: {}", BENCH.join(" "));
        return Ok(());
    }
    install(&missing(BENCH)).context("the benchmarks lack programs")
}

fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if !has_dpkg() {
        bail!("not a Debian system");
    }
    if !is_root()? {
        let packages = packages.join(" ");
        bail!("not root, who should run: apt-get install --no-install-recommends {packages}");
    }

    eprintln!("xtask: installing from Debian: {}", packages.join(" "));
    if let Err(error) = update() {
        // Go on if a third-party source does not answer; stop if a package is not found.
        eprintln!("xtask: warning: {error:#}");
    }
    if packages.contains(&"postfix") {
        exec(Command::new("sh").args(["-c", POSTFIX_LOCAL]))?;
    }
    exec(apt_get("install").args(["--yes", "--no-install-recommends"]).args(packages))
}

/// Fetches the lists of Debian's packages.
pub(crate) fn update() -> Result<()> {
    exec(&mut apt_get("update"))
}

fn apt_get(subcommand: &str) -> Command {
    wait_for_other_apt();
    let mut cmd = Command::new("apt-get");
    cmd.args(["-o", "DPkg::Lock::Timeout=300", subcommand]);
    cmd.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    cmd
}

/// apt-get has a timeout for dpkg's lock but gives up at once on the two of its own.
fn wait_for_other_apt() {
    let held = |file: &&str| {
        let Ok(meta) = fs::metadata(file) else { return false };
        // 1: POSIX  ADVISORY  WRITE 25695 fe:00:1048 0 EOF
        let inode = format!(":{} ", meta.ino());
        fs::read_to_string("/proc/locks").is_ok_and(|locks| locks.contains(&inode))
    };
    for second in 0..300 {
        let Some(lock) =
            ["/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock"].into_iter().find(held)
        else {
            break;
        };
        if second == 0 {
            eprintln!("xtask: waiting for another apt that holds {lock}");
        }
        thread::sleep(Duration::from_secs(1));
    }
}

fn missing(packages: &[&'static str]) -> Vec<&'static str> {
    // Exits 1 when it does not know one of them, and does not list that one.
    let query = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\\n"])
        .args(packages)
        .output();
    let listed = query
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let installed: HashSet<_> =
        listed.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    packages.iter().copied().filter(|package| !installed.contains(package)).collect()
}

fn bpf_linker_args() -> String {
    format!(
        "install bpf-linker --locked --version {BPF_LINKER} --no-default-features --features llvm-{LLVM}"
    )
}

fn linker_version() -> Option<String> {
    let output = Command::new(bpf::linker()?).arg("--version").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    Some(version.trim().strip_prefix("bpf-linker ")?.to_owned())
}

fn has_dpkg() -> bool {
    Path::new("/usr/bin/dpkg-query").exists()
}

pub(crate) fn is_root() -> Result<bool> {
    Ok(fs::metadata("/proc/self").context("cannot tell who runs this")?.uid() == 0)
}
