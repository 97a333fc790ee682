//! What a running daemon is seldom asked to bear, and bears.

use std::{
    io::Write as _,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Instant,
};

use nix::sys::signal::Signal;
use opb_lab::{attached::attached, process};

use super::*;
use crate::{
    node::{Node, POLICY},
    prober::{ends, probe},
};

/// A million lines take their time where nothing is optimised.
const LONG: Duration = Duration::from_secs(240);

/// Fails unless denied SYNs are stopped and allowed ones arrive.
pub(crate) fn filters(node: &Node) -> Result<()> {
    let (receiver, sender) = ends(node)?;
    let (sent, seen) = probe(&receiver, &sender)?;
    assert!(sent > 0, "nothing was sent");
    assert_eq!((seen.denied, seen.allowed), (0, sent));
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_thousand_hangups_are_one_reload_after_the_other() -> Result<()> {
    let mut node = Node::start("watch: off\n")?;
    let (receiver, sender) = ends(&node)?;
    let (stop, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    let seen = thread::scope(|scope| -> Result<_> {
        let receiving = scope.spawn(|| receiver.count(&stop, &sent));
        let sending = scope.spawn(|| sender.send(1000, &stop, &sent));
        for round in 0..1000 {
            // Every tenth has something to do.
            if round % 10 == 0 {
                let more = format!("  more{round}: {{prefixes: [100.64.0.0/16]}}\n");
                node.write("policy.yaml", &format!("{POLICY}{more}"))?;
            }
            node.signal(Signal::SIGHUP)?;
            thread::sleep(Duration::from_micros(500));
        }
        let start = Instant::now();
        node.ask(&["subscriber", "add", "100.64.0.9", "--exempt"])?;
        let answered = start.elapsed();
        stop.store(true, Ordering::SeqCst);
        sending.join().expect("no panic")?;
        Ok((receiving.join().expect("no panic")?, answered))
    });
    let (seen, answered) = seen?;
    assert_eq!((seen.denied, seen.allowed), (0, sent.into_inner()));
    eprintln!("a change was answered after {answered:?}");
    let last = node.json(&["reload"])?;
    assert_ne!(last["outcome"], "rejected");
    assert_eq!(node.status()?["state"], "enforcing");
    // Signals that come together are one.
    let reloads = node.said().matches("reload: ").count();
    assert!((2..=1002).contains(&reloads), "{reloads}");
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_interface_that_flaps_a_thousand_times_stays_covered() -> Result<()> {
    let mut node = Node::start("watch: off\n")?;
    let before = attached(&node.gateway, &["sub0"])?;
    let lines = "link set sub0 down\nlink set sub0 up\n".repeat(1000);
    interfaces::batch(&node, &lines)?;
    assert_eq!(attached(&node.gateway, &["sub0"])?, before, "the very same programs");
    let status = node.status()?;
    assert_eq!((&status["state"], &status["detachments"]), (&json!("enforcing"), &json!(0)));
    thread::sleep(Duration::from_millis(200));
    filters(&node)?;

    // And one that goes and comes.
    let lines = "tuntap add dev ses0 mode tun\ntuntap del dev ses0 mode tun\n".repeat(200);
    interfaces::batch(&node, &lines)?;
    assert_eq!(node.status()?["state"], "enforcing");
    let left = fs::read_dir(node.mount().join("opb/v1/links"))?.count();
    assert_eq!(left, before.len(), "pins of interfaces that are gone");
    filters(&node)?;
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_million_wrong_lines_change_nothing() -> Result<()> {
    let mut node = Node::start("watch: off\n")?;
    // Each is a prefix for the command, and none for the daemon: its group is unknown.
    let lines: String = (0..1_000_000u32)
        .map(|number| format!("{}\n", std::net::Ipv4Addr::from(0x6440_0000 + number)))
        .collect();
    node.write("list", &lines)?;
    let start = Instant::now();
    let ended = process::run(
        &mut node.command(&["subscriber", "import", "list", "--group", "nosuch"]),
        LONG,
    )?;
    let elapsed = start.elapsed();
    assert_ne!(ended.status.code(), Some(0));
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains("nosuch"), "{}", &said[..said.len().min(400)]);
    assert!(said.len() < 64 << 10, "{} bytes of errors", said.len());
    let memory = fs::read_to_string(format!("/proc/{}/status", node.pid()?))?;
    let peak = memory.lines().find(|line| line.starts_with("VmHWM")).context("VmHWM")?;
    eprintln!("refused after {elapsed:?}, {peak}");
    assert_eq!(node.status()?["entries"]["count"], 0);
    assert_eq!(node.status()?["state"], "enforcing");
    filters(&node)?;

    // And where the lines are none of addresses at all.
    node.write("list", &"neither an address nor a prefix\n".repeat(1_000_000))?;
    let ended =
        process::run(&mut node.command(&["subscriber", "import", "list", "--group", "dyn"]), LONG)?;
    assert_ne!(ended.status.code(), Some(0));
    assert!(ended.stderr.len() < 64 << 10, "{} bytes of errors", ended.stderr.len());
    assert_eq!(node.status()?["entries"]["count"], 0);
    node.stop()
}

/// An editor or a copy that takes its time: the file is a valid policy after each line, and a wrong one before the last.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_file_that_is_being_written_is_read_when_it_is_whole() -> Result<()> {
    let mut node = Node::start("watch: on\n")?;
    thread::sleep(Duration::from_secs(3));
    let generation = |node: &Node| -> Result<u64> {
        node.status()?["policy"]["generation"].as_u64().context("a generation")
    };
    let before = generation(&node)?;
    let mut file = fs::File::create(node.path("policy.yaml"))?;
    file.write_all(POLICY.as_bytes())?;
    for number in 0..20 {
        writeln!(file, "  more{number}: {{prefixes: [100.{}.0.0/16]}}", 64 + number)?;
        file.sync_all()?;
        thread::sleep(Duration::from_millis(200));
        assert_eq!(generation(&node)?, before, "after line {number}");
    }
    drop(file);
    node.wait_verdict("100.83.0.1", "198.18.0.25", "drop policy")?;
    assert_eq!(generation(&node)?, before + 1);

    // Cut anywhere: what is in force stays, or what is left is a policy of its own and is in force.
    let whole = fs::read(node.path("policy.yaml"))?;
    node.kill()?;
    let file = fs::read_to_string(node.path("opb.yaml"))?;
    node.write("opb.yaml", &file.replace("watch: on", "watch: off"))?;
    node.run()?;
    let mut rejected = 0;
    for length in (0..whole.len()).step_by(37) {
        fs::write(node.path("policy.yaml"), &whole[..length])?;
        rejected += u32::from(!node.opb(&["reload"])?.status.success());
        let status = node.status()?;
        assert_eq!(status["state"], "enforcing", "{length} bytes: {status}");
    }
    assert!(rejected > 3, "{rejected}");
    fs::write(node.path("policy.yaml"), &whole)?;
    node.json(&["reload"])?;
    filters(&node)?;
    node.stop()
}

/// The daemon may die of it. The filter may not.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_daemon_without_memory_leaves_the_filter() -> Result<()> {
    let mut node = Node::start("watch: off\n")?;
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid()?))?;
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).context("VmSize")?;
    let size: u64 = size.trim().trim_end_matches(" kB").parse()?;
    let limit = (size << 10) + (24 << 20);
    let mut command = std::process::Command::new("prlimit");
    let arguments = [format!("--pid={}", node.pid()?), format!("--as={limit}:{limit}")];
    process::check(command.args(arguments))?;
    let prefixes: String = (0..1_000_000u32)
        .map(|number| format!("{}/32, ", std::net::Ipv4Addr::from(0x6440_0000 + 2 * number)))
        .collect();
    node.write("policy.yaml", &format!("{POLICY}  big: {{prefixes: [{prefixes}]}}\n"))?;
    let reload = node.opb(&["reload"])?;
    assert!(!reload.status.success(), "there was enough memory, so nothing is proved");
    filters(&node)?;
    // Whether it has died or refused: the next one takes over.
    drop(node.kill());
    filters(&node)?;
    node.write("policy.yaml", POLICY)?;
    node.run()?;
    assert_eq!(node.status()?["state"], "enforcing");
    filters(&node)?;
    node.stop()
}

/// A control group with a limit of memory, of either version of the kernel's interface.
struct Group(std::path::PathBuf);

impl Group {
    fn with(pid: u32, limit: u64) -> Result<Self> {
        let root = std::path::Path::new("/sys/fs/cgroup");
        let name = format!("opb-test-{}", std::process::id());
        let (path, file) = if root.join("memory").is_dir() {
            (root.join("memory").join(name), "memory.limit_in_bytes")
        } else {
            // Refused where it is on already.
            drop(fs::write(root.join("cgroup.subtree_control"), "+memory"));
            (root.join(name), "memory.max")
        };
        fs::create_dir(&path).with_context(|| format!("a control group {}", path.display()))?;
        let group = Self(path);
        fs::write(group.0.join(file), limit.to_string()).context("the memory controller")?;
        fs::write(group.0.join("cgroup.procs"), pid.to_string())?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Once the last process is gone.
        let removed = process::wait_until(Duration::from_secs(5), || {
            Ok(fs::remove_dir(&self.0).is_ok().then_some(()))
        });
        if !matches!(removed, Ok(Some(()))) {
            eprintln!("{} is left", self.0.display());
        }
    }
}

/// The kernel kills a daemon that needs more memory than its control group has. The filter stays.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_daemon_that_is_killed_for_its_memory_leaves_the_filter() -> Result<()> {
    let mut node = Node::start("watch: off\n")?;
    // What the daemon has already is not counted.
    let group = Group::with(node.pid()?, 16 << 20)?;
    let prefixes =
        (0..600_000_u32).map(|number| std::net::Ipv4Addr::from(0x6440_0000 + 2 * number));
    node.write("large.txt", &prefixes.map(|prefix| format!("{prefix}\n")).collect::<String>())?;
    node.write("policy.yaml", &format!("{POLICY}  large: {{prefixes-file: large.txt}}\n"))?;
    let reload = node.opb(&["reload"])?;
    assert!(!reload.status.success(), "there was enough memory, so nothing is proved");
    filters(&node)?;
    drop(node.kill());
    drop(group);
    filters(&node)?;
    node.write("policy.yaml", POLICY)?;
    node.run()?;
    assert_eq!(node.status()?["state"], "enforcing");
    filters(&node)?;
    node.stop()
}
