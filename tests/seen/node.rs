//! A gateway with one subscriber behind each of two interfaces, and `opb run` on it.

use std::{
    fs,
    net::Ipv4Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use opb_lab::{
    bpffs::Bpffs,
    frames::{Ethernet, Ipv4, Tcp},
    netns::{Netns, veth},
    process::{self, Process, wait_until},
    workdir::Workdir,
};
use serde_json::Value;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const INTERFACES: [&str; 2] = ["sub0", "sub1"];

const POLICY: &str = "\
version: 1
relays:
  isp: {addresses: [198.51.100.25, \"2001:db8:25::/64\"]}
groups:
  dynamic:
    prefixes: [203.0.113.0/25, 10.0.0.0/8, \"2001:db8:1000::/36\"]
    relays: [isp]
  watched: {prefixes: [203.0.113.128/26], relays: [isp], action: monitor}
  served: {prefixes: [203.0.113.192/26], relays: [isp], downstream: drop}
exemptions:
  - {prefix: 203.0.113.77/32, reason: fixed address}
";

pub(crate) struct Node {
    daemon: Option<Process>,
    pub(crate) gateway: Netns,
    /// The subscribers' ends, `far0` and `far1`.
    pub(crate) subscribers: Netns,
    bpffs: Bpffs,
    work: Workdir,
}

impl Node {
    /// `extra` is added to the node file.
    pub(crate) fn start(hook: &str, extra: &str) -> Result<Self> {
        let mut node = Self::prepare(hook, extra)?;
        node.launch(node.daemon())?;
        Ok(node)
    }

    /// Namespaces, cables and files; nothing runs.
    pub(crate) fn prepare(hook: &str, extra: &str) -> Result<Self> {
        let (gateway, subscribers) = (Netns::new("gateway")?, Netns::new("subscribers")?);
        for (near, far) in INTERFACES.iter().zip(["far0", "far1"]) {
            veth((&gateway, near), (&subscribers, far))?;
        }
        let (bpffs, work) = (Bpffs::mount()?, Workdir::new("seen")?);
        let path = |name: &str| work.path().join(name).display().to_string();
        fs::write(path("policy.yaml"), POLICY)?;
        let interfaces: String = INTERFACES
            .iter()
            .map(|name| format!("  - {{name: {name}, role: subscriber, hook: {hook}}}\n"))
            .collect();
        let config = format!(
            "version: 1\npolicy: {}\ninterfaces:\n{interfaces}state: {}\ncontrol: {}\npins: {}\n{extra}",
            path("policy.yaml"),
            path("state"),
            path("opb.sock"),
            bpffs.path().join("opb").display(),
        );
        fs::write(path("opb.yaml"), config)?;
        Ok(Self { daemon: None, gateway, subscribers, bpffs, work })
    }

    /// The command that [`Node::launch`] usually starts.
    pub(crate) fn daemon(&self) -> Command {
        let mut command = self.opb(&["run"]);
        command.arg("--config").arg(self.path("opb.yaml"));
        command
    }

    /// Starts the daemon by a command that becomes it.
    pub(crate) fn launch(&mut self, mut command: Command) -> Result<()> {
        let mut daemon = Process::spawn("opb run", &mut command, &self.path("opb.log"))?;
        daemon.wait_ready(LIMIT, || {
            Ok(self.run(&["status", "--json"])?.status.success() && self.get("/healthz").is_ok())
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        let status = daemon.stop()?;
        if !status.success() {
            bail!("opb run: {status}\n{}", daemon.said()?);
        }
        Ok(())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    pub(crate) fn directory(&self) -> &Path {
        self.work.path()
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        Ok(self.daemon.as_ref().context("the daemon runs")?.id())
    }

    pub(crate) fn opb(&self, arguments: &[&str]) -> Command {
        let mut command = self.gateway.command(env!("CARGO_BIN_EXE_opb"));
        command.args(arguments).env_remove("OPB_CONFIG").env("OPB_CONTROL", self.path("opb.sock"));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Result<process::Output> {
        process::run(&mut self.opb(arguments), LIMIT)
    }

    /// The JSON lines of a command.
    pub(crate) fn rows(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let output = self.run(arguments)?;
        if !output.status.success() {
            bail!("opb {arguments:?}: {}", output.stderr);
        }
        output.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Compares JSON with a schema of `docs/openapi.yaml`.
    pub(crate) fn conforms(schema: &str, found: &Value) -> Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.yaml");
        let mut document: Value = serde_yaml::from_str(&fs::read_to_string(path)?)?;
        document["$ref"] = format!("#/components/schemas/{schema}").into();
        let validator = jsonschema::draft202012::new(&document)?;
        let errors: Vec<_> = validator.iter_errors(found).map(|error| error.to_string()).collect();
        ensure!(errors.is_empty(), "{schema}: {errors:?}\n{found:#}");
        Ok(())
    }

    /// A page of the read-only listener.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        let url = format!("http://127.0.0.1:9625{path}");
        process::check(self.gateway.command("curl").args(["-sS", "--fail", "-m", "10", &url]))
    }

    /// Packets counted as `verdict`.
    pub(crate) fn counted(&self, verdict: &str) -> Result<u64> {
        let rows = self.rows(&["counters", "--json"])?;
        let rows = rows.iter().filter(|row| row["verdict"] == verdict);
        Ok(rows.filter_map(|row| row["packets"].as_u64()).sum())
    }

    /// The value of a metric without labels.
    pub(crate) fn metric(&self, name: &str) -> Result<u64> {
        let text = self.get("/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no {name} in {text}"))?.parse::<f64>()? as u64)
    }

    /// Waits until `ready` gives something.
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        mut ready: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let found = wait_until(LIMIT, || {
            let found = ready()?;
            if found.is_none() {
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(found)
        })?;
        found.with_context(|| {
            let log = fs::read_to_string(self.path("opb.log")).unwrap_or_default();
            format!("not within {LIMIT:?}: {what}\n{log}")
        })
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.bpffs.path().join("opb")
    }

    /// Detaches; what is left after that would be a fault.
    pub(crate) fn end(mut self) -> Result<()> {
        self.stop()?;
        process::check(self.opb(&["detach"]).arg("--config").arg(self.path("opb.yaml")))?;
        let left = self.bpffs.pins()?;
        if !left.is_empty() {
            bail!("still pinned: {left:?}");
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            drop(daemon);
            let _ = process::run(
                self.opb(&["detach"]).arg("--config").arg(self.path("opb.yaml")),
                LIMIT,
            );
        }
    }
}

/// Puts frames on a cable.
pub(crate) struct Wire(OwnedFd);

impl Wire {
    pub(crate) fn open(netns: &Netns, interface: &str) -> Result<Self> {
        netns.enter(|| {
            let wire = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            let index = nix::net::if_::if_nametoindex(interface)?;
            let address = libc::sockaddr_ll {
                sll_family: libc::AF_PACKET as u16,
                sll_protocol: 0,
                sll_ifindex: index as i32,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            // SAFETY: a system call on our socket, with an address of the size that is given.
            let bound = unsafe {
                libc::bind(
                    wire.as_raw_fd(),
                    (&raw const address).cast(),
                    size_of::<libc::sockaddr_ll>() as u32,
                )
            };
            nix::errno::Errno::result(bound)?;
            // SAFETY: the descriptor is ours alone, and changes hands.
            Ok(Self(unsafe { OwnedFd::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(wire)) }))
        })
    }

    /// Again if the cable's queue was full, so that every frame arrives once.
    pub(crate) fn send(&self, frame: &[u8]) -> Result<()> {
        loop {
            match nix::unistd::write(&self.0, frame) {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::ENOBUFS | nix::errno::Errno::EAGAIN) => {
                    std::thread::yield_now();
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a frame that may be dropped on the way out: Linux then says that there is no room.
    pub(crate) fn send_out(&self, frame: &[u8]) -> Result<()> {
        match nix::unistd::write(&self.0, frame) {
            Ok(_) | Err(nix::errno::Errno::ENOBUFS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A SYN to port 25 outside.
pub(crate) fn syn(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    Ethernet::new().carrying(&Ipv4::new(source, destination).carrying(Tcp::syn_to(25)))
}

pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 25);
