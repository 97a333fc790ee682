//! Network namespaces and the cables between them.
//!
//! A namespace here has no name in the file system: it is an open descriptor, and the kernel removes it
//! with the last process and descriptor that hold it. So nothing can be left behind, even by SIGKILL.
//! Entering one changes the network and nothing else. `ip netns exec` would also mount a fresh
//! `/sys`, in which pins made by one call are invisible to the next.

use std::{
    fs::{self, File},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::PathBuf,
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{process, workdir::unique};

#[derive(Debug, Clone)]
pub struct Netns {
    name: String,
    fd: Arc<OwnedFd>,
}

impl Netns {
    /// A new namespace with the loopback up. `label` is for messages; the name is unique.
    pub fn new(label: &str) -> Result<Self> {
        let fd = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot unshare the network")?;
            Ok(OwnedFd::from(File::open("/proc/thread-self/ns/net")?))
        })
        .and_then(|made| made)
        .with_context(|| format!("cannot make the network namespace {label}"))?;
        let netns = Self { name: unique(label), fd: Arc::new(fd) };
        // Duplicate address detection would hold every IPv6 address back for a second or two.
        netns.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        netns.sysctl("net/ipv6/conf/default/accept_ra", "0")?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// For `ip link … netns PATH` and `nsenter --net=PATH`, as long as this process lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd()))
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets that it opens stay in the
    /// namespace, wherever they are used afterwards.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_a_thread(|| {
            setns(&*self.fd, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter {}", self.name))?;
            work()
        })?
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let fd = Arc::clone(&self.fd);
        let mut command = Command::new(program);
        // SAFETY: setns is one system call on a descriptor that the closure keeps open. It neither
        // allocates nor locks, so it is sound between fork and exec.
        unsafe {
            command.pre_exec(move || Ok(setns(&*fd, CloneFlags::CLONE_NEWNET)?));
        }
        command
    }

    /// `ip ARGUMENTS`, split at blanks.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        process::check(self.command("ip").args(arguments.split_whitespace()))
            .with_context(|| format!("in namespace {}", self.name))?;
        Ok(())
    }

    /// Sets `/proc/sys/KEY`, which shows the network of the reading process.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{key}");
        self.enter(|| fs::write(&path, value).with_context(|| format!("cannot write {path}")))
    }

    pub fn forward(&self) -> Result<()> {
        self.sysctl("net/ipv4/ip_forward", "1")?;
        self.sysctl("net/ipv6/conf/all/forwarding", "1")
    }

    /// Gives `interface` an address such as `192.0.2.1/24` or `2001:db8::1/64`.
    pub fn address(&self, interface: &str, address: &str) -> Result<()> {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        self.ip(&format!("addr add {address} dev {interface}{nodad}"))
    }

    pub fn default_route(&self, via: std::net::IpAddr) -> Result<()> {
        let family = if via.is_ipv6() { "-6" } else { "-4" };
        self.ip(&format!("{family} route add default via {via}"))
    }

    /// Joins all of `ports` to one switch.
    pub fn bridge(&self, name: &str, ports: &[&str]) -> Result<()> {
        // Without a querier, snooping may hold back the neighbour discovery that IPv6 lives on.
        self.ip(&format!("link add name {name} type bridge forward_delay 0 mcast_snooping 0"))?;
        for port in ports {
            self.ip(&format!("link set dev {port} master {name} up"))?;
        }
        self.ip(&format!("link set dev {name} up"))
    }

    /// The processes that still live in the namespace. Sound because we hold the namespace: its
    /// inode number cannot have passed to another one meanwhile.
    pub fn inhabitants(&self) -> Result<Vec<String>> {
        let ours = nix::sys::stat::fstat(&*self.fd)?.st_ino;
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let pid = entry.file_name().to_string_lossy().into_owned();
            if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            // Processes end while we look: what cannot be read any more lives nowhere.
            let Ok(theirs) = fs::metadata(entry.path().join("ns/net")) else { continue };
            if theirs.ino() == ours {
                let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                found.push(format!("{} ({pid})", name.trim()));
            }
        }
        Ok(found)
    }
}

/// Lays a cable between two namespaces and switches both ends on.
///
/// Checksum offload is off at both ends, and segmentation offload with it: frames then look as they
/// would on a wire, with whole checksums, which is what an XDP program may rely on.
pub fn veth((left, left_name): (&Netns, &str), (right, right_name): (&Netns, &str)) -> Result<()> {
    left.ip(&format!(
        "link add name {left_name} type veth peer name {right_name} netns {}",
        right.path().display()
    ))?;
    for (netns, name) in [(left, left_name), (right, right_name)] {
        process::check(netns.command("ethtool").args(["-K", name, "tx", "off"]))
            .with_context(|| format!("on {name} in {}", netns.name()))?;
        netns.ip(&format!("link set dev {name} up"))?;
    }
    Ok(())
}

/// A thread cannot leave a namespace that it entered, so the thread must end afterwards.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => Ok(value),
        Err(panic) => match panic.downcast_ref::<&str>() {
            Some(message) => bail!("panicked: {message}"),
            None => std::panic::resume_unwind(panic),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "root: cargo xtask test --lane kernel"]
    fn a_cable_carries_both_families() -> Result<()> {
        let (left, right) = (Netns::new("left")?, Netns::new("right")?);
        veth((&left, "left"), (&right, "right"))?;
        left.address("left", "192.0.2.1/24")?;
        right.address("right", "192.0.2.2/24")?;
        left.address("left", "2001:db8::1/64")?;
        right.address("right", "2001:db8::2/64")?;
        for (listen, target) in [("0.0.0.0", "192.0.2.2"), ("::", "2001:db8::2")] {
            let listener = right.enter(|| Ok(std::net::TcpListener::bind((listen, 4000))?))?;
            left.enter(|| Ok(std::net::TcpStream::connect((target, 4000))?))?;
            listener.accept()?;
        }
        Ok(())
    }

    #[test]
    #[ignore = "root: cargo xtask test --lane kernel"]
    fn inhabitants_are_seen_until_they_are_gone() -> Result<()> {
        let netns = Netns::new("home")?;
        assert_eq!(netns.inhabitants()?, Vec::<String>::new());
        let mut child = netns.command("sleep").arg("60").spawn()?;
        assert_eq!(netns.inhabitants()?, [format!("sleep ({})", child.id())]);
        child.kill()?;
        child.wait()?;
        assert_eq!(netns.inhabitants()?, Vec::<String>::new());
        Ok(())
    }
}
