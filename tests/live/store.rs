//! A disk that is full, a clock that jumps, and a store that loses what it held.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use opb_lab::process::{Output, wait_until};

use super::*;
use crate::node::{LIMIT, Node};

const MX: &str = "198.18.0.25";
const DENIED: &str = "drop policy";
const EXEMPT: &str = "pass exempt";
const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 86400);

const REMOUNT: MsFlags = MsFlags::MS_REMOUNT;

/// `state` on a file system of its own.
pub(crate) struct Small(std::path::PathBuf);

impl Small {
    pub(crate) fn mount(node: &Node, size: &str) -> Result<Self> {
        let path = node.path("state");
        fs::create_dir(&path)?;
        let options = format!("size={size},mode=0700");
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
        Ok(Self(path))
    }

    pub(crate) fn grow(&self, size: &str) -> Result<()> {
        let options = format!("size={size}");
        Ok(mount(None::<&str>, &self.0, None::<&str>, REMOUNT, Some(options.as_str()))?)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Imports a thousand exemptions that nothing else has.
fn import(node: &Node, thousand: usize) -> Result<Output> {
    node.write("list", &self::thousand(thousand))?;
    node.opb(&["subscriber", "import", "list", "--exempt", "--reason", "a contract of some length"])
}

fn thousand(number: usize) -> String {
    let line = |host| format!("100.{}.{}.{}\n", 64 + number, host / 250, host % 250);
    (0..1000).map(line).collect()
}

fn count(node: &Node) -> Result<u64> {
    node.status()?["entries"]["count"].as_u64().context("a count")
}

fn is_degraded_by(status: &Value, text: &str) -> bool {
    let store = &status["store"];
    let is_told = if text == "lost" { store["lost"] == true } else { store["writable"] == false };
    status["state"] == "degraded" && status["problems"].to_string().contains(text) && is_told
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_full_disk_is_told_and_got_over() -> Result<()> {
    let mut node = Node::prepare("watch: off\n")?;
    let small = Small::mount(&node, "3m")?;
    node.run()?;
    let mut kept = 0;
    let refused = (0..60).find_map(|thousand| match import(&node, thousand) {
        Ok(ended) if ended.status.success() => {
            kept += 1000;
            None
        }
        ended => Some(ended),
    });
    let refused = refused.context("the disk is never full")??;
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("No space left"), "{}", refused.stderr);
    assert!(kept > 0, "nothing was ever kept");

    node.wait_status("it is told", |status| is_degraded_by(status, "cannot be written"))?;
    let add = ["subscriber", "add", "203.0.113.9", "--exempt"];
    let refused = node.opb(&add)?;
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("No space left"), "{}", refused.stderr);
    assert_eq!(node.verdict("203.0.113.9", MX)?, DENIED);
    assert_eq!(count(&node)?, kept, "what was refused is not in force");
    // Still so after some of the daemon's attempts.
    thread::sleep(Duration::from_secs(3));
    assert!(is_degraded_by(&node.status()?, "cannot be written"));
    assert_eq!(count(&node)?, kept);

    small.grow("64m")?;
    node.wait_status("it is over", |status| status["state"] == "enforcing")?;
    node.ask(&add)?;
    assert_eq!(node.verdict("203.0.113.9", MX)?, EXEMPT);
    node.kill()?;
    node.run()?;
    assert_eq!(count(&node)?, kept + 1, "what was acknowledged is there");
    assert_eq!(node.status()?["state"], "enforcing");
    assert_eq!(node.verdict("203.0.113.9", MX)?, EXEMPT);
    node.stop()
}

/// The status reports that changes are impossible before anybody tries one.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_disk_that_somebody_else_filled_is_told() -> Result<()> {
    let mut node = Node::prepare("watch: off\n")?;
    let _small = Small::mount(&node, "6m")?;
    node.run()?;
    // Until nothing goes in any more.
    let filled = fs::write(node.path("state/filler"), vec![0; 16 << 20]);
    assert!(filled.is_err());
    node.wait_status("it is told", |status| is_degraded_by(status, "disk"))?;
    fs::remove_file(node.path("state/filler"))?;
    node.wait_status("it is over", |status| status["state"] == "enforcing")?;
    node.stop()
}

/// What was acknowledged is not in a file that ends with the daemon.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_store_that_somebody_removes_is_written_again() -> Result<()> {
    let mut node = Node::start("watch: off\n")?;
    assert!(import(&node, 0)?.status.success());
    for path in ["state/entries.redb", "state/entries.mark"] {
        fs::remove_file(node.path(path))?;
    }
    node.ask(&["subscriber", "add", "203.0.113.77", "--exempt"])?;
    let is_there = || Ok(node.path("state/entries.mark").exists().then_some(()));
    wait_until(LIMIT, is_there)?.context("it is written again")?;
    node.ask(&["subscriber", "add", "203.0.113.78", "--exempt"])?;
    assert!(node.said().contains("was removed or replaced"), "{}", node.said());
    node.kill()?;
    node.run()?;
    assert_eq!(count(&node)?, 1002);
    node.stop()
}

/// As after a reboot: nothing of the daemon before is left in the kernel.
fn reboot(node: &mut Node) -> Result<()> {
    node.kill()?;
    node.ask(&["detach", "--config", "opb.yaml"]).map(drop)
}

/// The disk is full, or read-only, when the machine starts. What can be read is in force.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_disk_that_takes_nothing_at_the_start_keeps_nobody_from_filtering() -> Result<()> {
    let mut node = Node::prepare("watch: off\n")?;
    let small = Small::mount(&node, "3m")?;
    node.run()?;
    node.ask(&["subscriber", "add", "203.0.113.77", "--exempt"])?;
    let full = (0..60).any(|thousand| !import(&node, thousand).is_ok_and(|it| it.status.success()));
    assert!(full, "the disk is never full");
    let kept = count(&node)?;

    for restart in ["full", "read-only"] {
        reboot(&mut node)?;
        if restart == "read-only" {
            mount(
                None::<&str>,
                &small.0,
                None::<&str>,
                REMOUNT | MsFlags::MS_RDONLY,
                None::<&str>,
            )?;
        }
        node.run_degraded().context(restart)?;
        let status = node.status()?;
        assert!(is_degraded_by(&status, "the store"), "{restart}: {status}");
        assert_eq!(count(&node)?, kept, "{restart}");
        assert_eq!(node.verdict("203.0.113.77", MX)?, EXEMPT, "{restart}");
        assert_eq!(node.verdict("203.0.113.10", MX)?, DENIED, "{restart}");
        storms::filters(&node).context(restart)?;
    }
    assert!(is_degraded_by(&node.status()?, "cannot be written"), "{}", node.said());
    let add = node.opb(&["subscriber", "add", "203.0.113.10", "--exempt"])?;
    assert_eq!(add.status.code(), Some(1), "{}", add.stderr);
    small.grow("64m")?;
    node.wait_status("it is over", |status| status["state"] == "enforcing")?;
    node.ask(&["subscriber", "add", "203.0.113.10", "--exempt"])?;
    node.kill()?;
    node.run()?;
    assert_eq!(count(&node)?, kept + 1, "what was acknowledged is there");
    node.stop()
}

/// A node that has never run, on a disk without room for a store.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_first_start_on_a_full_disk_filters() -> Result<()> {
    let mut node = Node::prepare("watch: off\n")?;
    let _small = Small::mount(&node, "3m")?;
    // A name of the state directory that is not the store's.
    assert!(fs::write(node.path("state/lost+found"), vec![0; 16 << 20]).is_err());
    node.run_degraded()?;
    assert!(is_degraded_by(&node.status()?, "cannot be written"), "{}", node.said());
    storms::filters(&node)?;
    fs::remove_file(node.path("state/lost+found"))?;
    node.wait_status("it is over", |status| status["state"] == "enforcing")?;
    node.ask(&["subscriber", "add", "203.0.113.77", "--exempt"])?;
    node.kill()?;
    node.run()?;
    assert_eq!(node.verdict("203.0.113.77", MX)?, EXEMPT);
    node.stop()
}

fn all(node: &Node, sources: &[String], verdict: &str) -> Result<()> {
    sources.iter().try_for_each(|source| node.wait_verdict(source, MX, verdict).map(drop))
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_clock_that_jumps_for_three_seconds_costs_no_entry() -> Result<()> {
    let mut node = Node::prepare("watch: off\n")?;
    node.set_clock(Duration::ZERO)?;
    node.run()?;
    let sources: Vec<_> = (1..=5).map(|host| format!("203.0.113.{host}")).collect();
    for source in &sources {
        node.ask(&["subscriber", "add", source, "--exempt", "--for", "30d"])?;
    }
    node.ask(&["subscriber", "add", "203.0.113.6", "--exempt"])?;
    all(&node, &sources, EXEMPT)?;

    node.set_clock(TEN_YEARS)?;
    all(&node, &sources, DENIED)?;
    assert_eq!(count(&node)?, 1, "those that are in force");
    thread::sleep(Duration::from_secs(3));
    node.set_clock(Duration::ZERO)?;
    all(&node, &sources, EXEMPT)?;
    assert_eq!(count(&node)?, 6);
    let list = node.ask(&["subscriber", "list"])?;
    assert!(sources.iter().all(|source| list.contains(source)), "{list}");

    // The same with a daemon that starts under the wrong clock.
    node.kill()?;
    node.set_clock(TEN_YEARS)?;
    node.run()?;
    all(&node, &sources, DENIED)?;
    node.set_clock(Duration::ZERO)?;
    all(&node, &sources, EXEMPT)?;
    node.kill()?;
    node.run()?;
    all(&node, &sources, EXEMPT)?;
    assert_eq!(count(&node)?, 6);

    // What runs out in earnest is out of force, and an operator sees it no more.
    node.ask(&["subscriber", "add", "203.0.113.7", "--exempt", "--for", "2s"])?;
    node.wait_verdict("203.0.113.7", MX, DENIED)?;
    assert_eq!(count(&node)?, 6);
    node.ask(&["subscriber", "add", "203.0.113.7", "--exempt"])?;
    node.wait_verdict("203.0.113.7", MX, EXEMPT)?;
    assert_eq!(count(&node)?, 7);
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_import_is_rolled_back_in_time_whatever_the_clock_says() -> Result<()> {
    let mut node = Node::prepare("watch: off\n")?;
    node.set_clock(Duration::ZERO)?;
    node.run()?;
    node.write("list", "203.0.113.9\n")?;
    let import = ["subscriber", "import", "list", "--exempt", "--confirm"];
    // Forth: it is not over before its time.
    node.ask(&[&import[..], &["20s"]].concat())?;
    let start = std::time::Instant::now();
    node.set_clock(TEN_YEARS)?;
    thread::sleep(Duration::from_secs(3));
    assert_eq!(node.verdict("203.0.113.9", MX)?, EXEMPT);
    node.wait_verdict("203.0.113.9", MX, DENIED)?;
    assert!(start.elapsed() >= Duration::from_secs(19), "{:?}", start.elapsed());
    // And back: it does not last for ten years.
    node.ask(&[&import[..], &["3s"]].concat())?;
    assert_eq!(node.verdict("203.0.113.9", MX)?, EXEMPT);
    node.set_clock(Duration::ZERO)?;
    node.wait_verdict("203.0.113.9", MX, DENIED)?;
    node.stop()
}

/// Puts another store in the place of the node's, and starts the daemon.
fn run_with(node: &mut Node, store: Option<&[u8]>) -> Result<()> {
    let path = node.path("state/entries.redb");
    match store {
        Some(bytes) => fs::write(path, bytes)?,
        None => fs::remove_file(path)?,
    }
    node.run_degraded()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_store_that_lost_entries_is_told_until_somebody_says_so() -> Result<()> {
    let mut node = Node::start("watch: off\n")?;
    assert!(import(&node, 0)?.status.success());
    node.stop()?;
    let earlier = fs::read(node.path("state/entries.redb"))?;
    node.run()?;
    for thousand in 1..3 {
        assert!(import(&node, thousand)?.status.success());
    }
    let told = |node: &Node| -> Result<()> {
        let status = node.status()?;
        assert!(is_degraded_by(&status, "lost"), "{status}");
        Ok(())
    };
    // An older one, one of no length, and none.
    for (store, left) in [(Some(&earlier[..]), 1000), (Some(&[][..]), 0), (None, 0)] {
        node.stop()?;
        run_with(&mut node, store)?;
        told(&node)?;
        assert_eq!(count(&node)?, left);
        assert!(node.said().contains("lost"), "{}", node.said());
        // Another start makes nothing good.
        node.kill()?;
        node.run_degraded()?;
        told(&node)?;
        // Restored, and acknowledged.
        for thousand in 0..3 {
            assert!(import(&node, thousand)?.status.success());
        }
        told(&node)?;
        fs::remove_file(node.path("state/entries.lost"))?;
        node.wait_status("it is acknowledged", |status| status["state"] == "enforcing")?;
        assert_eq!(count(&node)?, 3000);
    }
    node.stop()?;
    node.run()?;
    assert_eq!(node.status()?["state"], "enforcing");
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn flipped_bits_are_never_a_fresh_store() -> Result<()> {
    let mut node = Node::start("watch: off\n")?;
    // One commit has them all.
    node.write("list", &(0..3).map(thousand).collect::<String>())?;
    node.ask(&["subscriber", "import", "list", "--exempt"])?;
    node.kill()?;
    let whole = fs::read(node.path("state/entries.redb"))?;
    let mark = fs::read(node.path("state/entries.mark"))?;
    let mut random = fastrand::Rng::with_seed(10);
    let mut lost = 0;
    for round in 0..25 {
        let mut bytes = whole.clone();
        // Behind the header, in what holds data.
        let used = bytes.iter().rposition(|byte| *byte != 0).context("an empty file")?;
        bytes[random.usize(4096..used)] ^= 1 << random.u8(..8);
        fs::write(node.path("state/entries.mark"), &mark)?;
        drop(fs::remove_file(node.path("state/entries.lost")));
        if let Err(refused) = run_with(&mut node, Some(&bytes)) {
            // Neither is a daemon that says that it cannot read its store.
            assert!(format!("{refused:#}").contains("the store"), "round {round}: {refused:#}");
            continue;
        }
        let status = node.status()?;
        let count = status["entries"]["count"].as_u64().context("a count")?;
        if count < 3000 {
            lost += 1;
            assert!(is_degraded_by(&status, "lost"), "round {round}, {count} entries: {status}");
        }
        node.kill()?;
    }
    assert!(lost > 0, "no damage cost entries, so nothing is proved");
    fs::write(node.path("state/entries.redb"), &whole)?;
    drop(fs::remove_file(node.path("state/entries.lost")));
    fs::write(node.path("state/entries.mark"), &mark)?;
    node.run()?;
    assert_eq!(node.status()?["state"], "enforcing", "{}", node.said());
    wait_until(LIMIT, || Ok((count(&node)? == 3000).then_some(())))?.context("all are there")?;
    node.stop()
}
