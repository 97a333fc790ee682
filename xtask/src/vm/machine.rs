//! One virtual machine: its first file system, its run, and what its tests reported.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Payload, kernel::Unpacked};
use crate::exec::exec;

/// What the machine needs to reach the host's files, with what those need.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// NICs for `tests/access/nic.rs`: two of each kind, on a cable of their own.
const NICS: [&str; 3] = ["virtio-net-pci", "e1000", "vmxnet3"];

pub(crate) struct Machine {
    kernel: Unpacked,
    /// The first file system.
    initramfs: PathBuf,
    /// What the kernel says.
    console: PathBuf,
}

impl Machine {
    pub(crate) fn prepare(kernel: Unpacked, plan: &[Payload]) -> Result<Self> {
        let files = kernel.directory.join("initramfs");
        if files.exists() {
            fs::remove_dir_all(&files)?;
        }
        for directory in ["bin", "modules", "opb-vm", "proc", "dev", "host", "layer", "root"] {
            fs::create_dir_all(files.join(directory))?;
        }
        fs::copy("/bin/busybox", files.join("bin/busybox"))?;
        fs::write(files.join("init"), include_str!("init.sh"))?;
        fs::write(files.join("opb-vm/guest.sh"), include_str!("guest.sh"))?;
        let mut lines = String::new();
        for Payload { name, binary, filters } in plan {
            lines += &format!("{name} {} {ARGUMENTS}", binary.display());
            for filter in filters {
                lines += &format!(" {filter}");
            }
            lines.push('\n');
        }
        fs::write(files.join("opb-vm/plan"), lines)?;
        for (number, module) in modules(&kernel)?.iter().enumerate() {
            let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let to =
                files.join("modules").join(format!("{number:02}-{}", name.trim_end_matches(".xz")));
            if name.ends_with(".xz") {
                let plain =
                    Command::new("xz").arg("-dc").arg(module).output().context("cannot run xz")?;
                ensure!(plain.status.success(), "xz {}: {}", module.display(), plain.status);
                fs::write(to, plain.stdout)?;
            } else {
                fs::copy(module, to)?;
            }
        }
        let initramfs = kernel.directory.join("initramfs.cpio");
        let script = r#"chmod 755 init && find . | cpio -o -H newc --quiet >"$1""#;
        exec(Command::new("sh").args(["-ec", script, "sh"]).arg(&initramfs).current_dir(&files))?;
        let console = kernel.directory.join("console.log");
        Ok(Self { kernel, initramfs, console })
    }

    pub(crate) fn release(&self) -> &str {
        &self.kernel.release
    }

    /// Boots, runs the plan, and reads the results until the machine is off.
    pub(crate) fn run(&self, limit: Duration) -> Result<Report> {
        let release = self.release();
        eprintln!("xtask: booting Linux {release}; its console: {}", self.console.display());
        let modules = self.kernel.modules();
        let mut cmd = Command::new("qemu-system-x86_64");
        // One thread for both CPUs: with one for each, qemu 7.2 lets a CPU run a breakpoint that Linux has already
        // removed again while it patches its own text (static keys), and the guest panics with "Oops: int3".
        cmd.args(["-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "3G"])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(self.kernel.image())
            .arg("-initrd")
            .arg(&self.initramfs)
            .arg("-append")
            .arg(format!(
                "console=ttyS0 loglevel=5 oops=panic panic=-1 opb.modules={}",
                modules.display()
            ))
            .arg("-serial")
            .arg(format!("file:{}", self.console.display()))
            .args(["-serial", "stdio", "-virtfs"])
            .arg("local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        for (cable, device) in NICS.iter().enumerate() {
            for end in ["near", "far"] {
                let name = format!("{end}{cable}");
                cmd.args(["-netdev", &format!("hubport,id={name},hubid={cable}")]);
                // Without a ROM: nobody boots from it.
                cmd.args(["-device", &format!("{device},netdev={name},romfile=")]);
            }
        }
        let mut child = cmd.spawn().context("cannot run qemu-system-x86_64")?;
        let output = child.stdout.take().context("no output")?;

        let start = Instant::now();
        let (sender, receiver) = mpsc::channel();
        let name = release.to_owned();
        let reader = thread::spawn(move || {
            let mut report = Report::default();
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end_matches('\r');
                report.add(line);
                let _ = writeln!(stdout(), "{name} {:4} s | {line}", start.elapsed().as_secs());
            }
            let _ = sender.send(());
            report
        });
        let in_time = receiver.recv_timeout(limit).is_ok();
        if !in_time {
            child.kill().context("cannot end qemu")?;
        }
        child.wait().context("cannot wait for qemu")?;
        let mut report = reader.join().unwrap_or_default();
        eprintln!("xtask: Linux {release} was up for {} s", start.elapsed().as_secs());
        if !report.is_done {
            report.last_words = last_words(&self.console);
        }
        Ok(report)
    }
}

/// Runs the plan on the kernel of this machine.
pub(crate) fn run_here(release: &str, plan: &[Payload]) -> Result<Report> {
    let mut report = Report::default();
    for Payload { name, binary, filters } in plan {
        report.add(&format!("opb-vm: begin {name}"));
        let mut cmd = Command::new(binary);
        cmd.args(ARGUMENTS.split(' ')).args(filters).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = cmd.spawn().with_context(|| format!("cannot run {}", binary.display()))?;
        let output = child.stdout.take().context("no output")?;
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            report.add(&line);
            let _ = writeln!(stdout(), "{release} | {line}");
        }
        let status = child.wait()?;
        report.add(&format!("opb-vm: end {name} {}", status.code().unwrap_or(-1)));
    }
    report.add("opb-vm: done");
    Ok(report)
}

/// Of every test binary.
const ARGUMENTS: &str = "--ignored --test-threads=1 --show-output --color=never";

/// The modules to load, in order, with what they need before them.
fn modules(kernel: &Unpacked) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for module in MODULES {
        let output = Command::new("modprobe")
            .arg("-d")
            .arg(&kernel.directory)
            .args(["-S", &kernel.release, "--show-depends", module])
            .output()
            .context("cannot run modprobe")?;
        ensure!(output.status.success(), "{} has no module {module}", kernel.release);
        // insmod /…/virtio.ko
        // builtin virtio_pci
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Some(path) = line.strip_prefix("insmod ") else { continue };
            let path = PathBuf::from(path.trim());
            if !found.contains(&path) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

fn last_words(console: &Path) -> String {
    let said = fs::read(console).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n    ")
}

/// What the tests of one machine said.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// By binary and test: whether it passed.
    results: BTreeMap<String, bool>,
    /// How each binary ended.
    ends: BTreeMap<String, String>,
    /// Numbers that tests print as `fact: NAME | VALUE`.
    pub(crate) facts: BTreeMap<String, String>,
    is_done: bool,
    last_words: String,
    binary: String,
    pending: Option<String>,
}

impl Report {
    fn add(&mut self, line: &str) {
        if let Some(word) = line.strip_prefix("opb-vm: ") {
            let mut words = word.split(' ');
            match (words.next(), words.next(), words.next()) {
                (Some("begin"), Some(binary), None) => self.binary = binary.to_owned(),
                (Some("end"), Some(binary), Some(code)) => {
                    self.ends.insert(binary.to_owned(), code.to_owned());
                }
                (Some("done"), None, None) => self.is_done = true,
                _ => {}
            }
            return;
        }
        if let Some((name, value)) =
            line.strip_prefix("fact: ").and_then(|fact| fact.split_once(" | "))
        {
            self.facts.insert(name.to_owned(), value.to_owned());
            return;
        }
        // Something that the test started may speak between name and result.
        let result = match line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            Some((name, result)) => {
                self.pending = Some(format!("{}::{name}", self.binary));
                result
            }
            None => line,
        };
        let passed = match result {
            "ok" => true,
            "FAILED" => false,
            _ => return,
        };
        if let Some(name) = self.pending.take() {
            self.results.insert(name, passed);
        }
    }

    /// Whether the test passed, if it ran.
    pub(crate) fn passed(&self, test: &str) -> Option<bool> {
        self.results.get(test).copied()
    }

    /// What is wrong with it, if these are the tests that had to run.
    pub(crate) fn complaints(&self, expected: &BTreeSet<String>) -> Vec<String> {
        let mut wrong = Vec::new();
        for name in expected {
            match self.results.get(name) {
                Some(true) => {}
                Some(false) => wrong.push(format!("{name} failed")),
                None => wrong.push(format!("{name} did not report")),
            }
        }
        for (binary, code) in &self.ends {
            if code != "0" && wrong.is_empty() {
                wrong.push(format!("{binary} ended with {code}"));
            }
        }
        if !self.is_done {
            wrong.push(format!(
                "did not come to the end; last on its console:\n    {}",
                self.last_words
            ));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Report;

    fn report(lines: &[&str]) -> Report {
        let mut report = Report::default();
        lines.iter().for_each(|line| report.add(line));
        report
    }

    fn expected() -> BTreeSet<String> {
        ["access::vlan", "access::ppp"].map(String::from).into()
    }

    #[test]
    fn a_test_that_says_nothing_has_failed() {
        let lines =
            ["opb-vm: begin access", "test vlan ... ok", "opb-vm: end access 0", "opb-vm: done"];
        assert_eq!(report(&lines).complaints(&expected()), ["access::ppp did not report"]);
    }

    #[test]
    fn a_machine_that_stops_half_way_has_failed() {
        let lines = ["opb-vm: begin access", "test vlan ... ok", "test ppp ... noise", "ok"];
        let complaints = report(&lines).complaints(&expected());
        assert!(
            matches!(&complaints[..], [one] if one.starts_with("did not come to the end")),
            "{complaints:?}"
        );
    }

    #[test]
    fn all_that_passed_and_ended_is_well() {
        let lines = [
            "opb-vm: begin access",
            "test vlan ... ok",
            "test ppp ... ok",
            "opb-vm: end access 0",
            "opb-vm: done",
        ];
        assert_eq!(report(&lines).complaints(&expected()), Vec::<String>::new());
    }
}
