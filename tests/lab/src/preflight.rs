//! What the lab needs of the machine, checked at once and before anything is built.

use std::{env, fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Result, bail};

use crate::{
    bpffs::Bpffs,
    netns::{self, Netns},
};

/// A program, and the Debian package that brings it.
const PROGRAMS: [(&str, &str); 10] = [
    ("postfix", "postfix"),
    ("postsuper", "postfix"),
    ("swaks", "swaks"),
    ("openssl", "openssl"),
    ("curl", "curl"),
    ("python3", "python3"),
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("bpftool", "bpftool"),
    ("umount", "mount"),
];

/// Fails with everything that is missing, not only with the first thing: a machine is set up once.
pub fn preflight() -> Result<()> {
    let mut missing = Vec::new();
    let root = nix::unistd::geteuid().is_root();
    if !root {
        missing.push("root: namespaces, bpffs and port 25 need it".to_owned());
    }
    for (program, package) in PROGRAMS {
        if !on_path(program) {
            missing.push(format!("the program {program} on the PATH (Debian package {package})"));
        }
    }
    if on_path("swaks") && !swaks_speaks_ipv6() {
        missing.push("IPv6 for swaks (Debian package libio-socket-inet6-perl)".to_owned());
    }
    if !Path::new("/proc/sys/net/ipv6").exists() {
        missing.push("IPv6 in the kernel".to_owned());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        missing.push("the kernel's BTF (CONFIG_DEBUG_INFO_BTF)".to_owned());
    }
    if root {
        if let Err(error) = Bpffs::mount().and_then(Bpffs::unmount) {
            missing.push(format!("a bpffs of our own: {error:#}"));
        }
        if on_path("ip")
            && on_path("ethtool")
            && let Err(error) = cable()
        {
            missing.push(format!("network namespaces and veth: {error:#}"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this machine cannot run the lab; missing:\n  - {}", missing.join("\n  - "));
}

fn cable() -> Result<()> {
    let (left, right) = (Netns::new("preflight")?, Netns::new("preflight")?);
    netns::veth((&left, "left"), (&right, "right"))
}

fn on_path(program: &str) -> bool {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|dir| {
        fs::metadata(dir.join(program))
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    })
}

fn swaks_speaks_ipv6() -> bool {
    std::process::Command::new("swaks")
        .arg("--support")
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("IPv6 supported"))
}
