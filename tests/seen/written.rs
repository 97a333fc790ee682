//! Events outside of the daemon: in the journal, in syslog, in a file that is rotated.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use opb_lab::process::{self, Process};
use serde_json::Value;

use crate::node::{LIMIT, Node, OUTSIDE, Wire, syn};

/// A journal of its own, in the file systems of this process alone. `/dev/log` is the journal's, too.
const JOURNALD: &str = "\
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
mount -t tmpfs tmpfs /dev
mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/urandom c 1 9
ln -s /run/systemd/journal/dev-log /dev/log
exec /usr/lib/systemd/systemd-journald
";

struct Journal {
    journald: Process,
}

impl Journal {
    fn start(log: &Path) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", JOURNALD]);
        let mut journald = Process::spawn("systemd-journald", &mut command, log)?;
        let socket = format!("/proc/{}/root/run/systemd/journal/stdout", journald.id());
        journald.wait_ready(LIMIT, || Ok(Path::new(&socket).exists()))?;
        Ok(Self { journald })
    }

    /// A command among the file systems where the journal is.
    fn inside(&self, command: &mut Command) {
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.journald.id())).arg("--");
    }

    /// Everything that opb has written.
    fn messages(&self) -> Result<Vec<String>> {
        let mut command = Command::new("nsenter");
        self.inside(&mut command);
        let text =
            process::check(command.args(["journalctl", "--no-pager", "-o", "json", "-t", "opb"]))?;
        let message = |line: &str| -> Result<String> {
            let entry: Value = serde_json::from_str(line)?;
            Ok(entry["MESSAGE"].as_str().unwrap_or_default().to_owned())
        };
        text.lines().map(message).collect()
    }
}

/// One denied packet of a node with `events: WHERE` among the messages of a real journal.
fn journaled(events: &str) -> Result<()> {
    let mut node = Node::prepare("auto", &format!("events: {events}\n"))?;
    let journal = Journal::start(&node.path("journald.log"))?;
    let mut command = node.gateway.command("nsenter");
    journal.inside(&mut command);
    command.args(["systemd-cat", "-t", "opb", env!("CARGO_BIN_EXE_opb"), "run", "--config"]);
    command.arg(node.path("opb.yaml"));
    node.launch(command)?;
    Wire::open(&node.subscribers, "far0")?.send(&syn([203, 0, 113, 9].into(), OUTSIDE))?;
    let event = node.wait("the event in the journal", || {
        let messages = journal.messages()?;
        let json = messages.iter().filter_map(|it| it.find('{').map(|start| &it[start..]));
        let mut events = json.filter_map(|json| serde_json::from_str::<Value>(json).ok());
        Ok(events.find(|event| event["kind"] == "denied"))
    })?;
    ensure!(event["subscriber"] == "203.0.113.9" && event["reason"] == "policy", "{event}");
    ensure!(event["interface"] == "sub0" && event["group"] == "dynamic", "{event}");
    node.end()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn events_go_to_the_journal() -> Result<()> {
    journaled("journal")
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn events_go_to_syslog() -> Result<()> {
    journaled("syslog")
}

/// Subscribers of the events in a file.
fn written(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let subscriber = |line: &str| -> Result<String> {
        let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        Ok(event["subscriber"].as_str().unwrap_or_default().to_owned())
    };
    text.lines().map(subscriber).collect()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_event_file_may_be_rotated_at_any_time() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("events.json");
    let rotated = directory.path().join("events.json.1");
    let node = Node::start("auto", &format!("events: {}\n", file.display()))?;
    let wire = Wire::open(&node.subscribers, "far0")?;
    let event = |last: u8| {
        wire.send(&syn([203, 0, 113, last].into(), OUTSIDE))?;
        node.wait("an event in the file", || {
            let there = file.exists() && !written(&file)?.is_empty();
            Ok(there.then(|| written(&file)).transpose()?.filter(|it| {
                it.last().is_some_and(|subscriber| subscriber.ends_with(&format!(".{last}")))
            }))
        })
    };
    // By the configuration that we ship, with another path, and by copying, as some prefer.
    let shipped = include_str!("../../contrib/logrotate/opb");
    let shipped = shipped.replace("/var/log/opb/events.json", &file.display().to_string());
    ensure!(shipped.contains(&file.display().to_string()), "{shipped}");
    let copies = format!("{} {{\n  copytruncate\n  rotate 9\n}}\n", file.display());
    for (number, rules) in [shipped, copies].into_iter().enumerate() {
        let (before, after) = (10 + number as u8, 20 + number as u8);
        event(before)?;
        let configuration = node.path("logrotate.conf");
        fs::write(&configuration, &rules)?;
        let state = node.path("logrotate.state");
        let mut logrotate = Command::new("logrotate");
        logrotate.arg("--force").arg("--state").arg(&state).arg(&configuration);
        process::check(&mut logrotate)?;
        let kept = written(&rotated)?;
        ensure!(kept.last() == Some(&format!("203.0.113.{before}")), "{kept:?}");
        // No signal, no restart: the next event is in a file that has nothing else.
        ensure!(event(after)? == [format!("203.0.113.{after}")]);
        ensure!(written(&rotated)? == kept, "what was rotated stays as it is");
        fs::remove_file(&rotated)?;
    }
    node.end()
}
