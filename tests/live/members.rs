//! What a hostile member of the group `opb` can do to everybody else's daemon: little.

use std::{
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    thread::ScopedJoinHandle,
    time::Instant,
};

use opb_lab::process::wait_until;

use super::*;
use crate::{
    hangs::{Hanging, Stopped},
    node::{LIMIT, Node, POLICY},
    ownership::{as_nobody, open_house},
};

/// Of the control socket, in docs/operations.md.
const CONNECTIONS: usize = 256;

/// A node whose socket is open to `nobody`, who stands for a member of the group.
fn node() -> Result<Node> {
    let node = Node::start("watch: off\n")?;
    open_house(&node)?;
    fs::set_permissions(node.path("opb.sock"), fs::Permissions::from_mode(0o666))?;
    Ok(node)
}

fn send(node: &Node, head: &str, body: &str) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(node.path("opb.sock"))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let length = if head.contains("content-length") {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    let json = "content-type: application/json\r\nconnection: close\r\n";
    write!(stream, "{head}host: opb\r\n{json}{length}\r\n{body}")?;
    Ok(stream)
}

fn memory(node: &Node, what: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{}/status", node.pid()?))?;
    let line = text.lines().find_map(|line| line.strip_prefix(what)).context("memory")?;
    Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// A policy that takes a moment to read.
fn write_large(node: &Node, prefixes: u32) -> Result<()> {
    let lines = (0..prefixes).map(|number| std::net::Ipv4Addr::from(0x6440_0000 + 2 * number));
    let lines: String = lines.map(|address| format!("{address}\n")).collect();
    node.write("large.txt", &lines)?;
    node.write("policy.yaml", &format!("{POLICY}  large: {{prefixes-file: large.txt}}\n"))
}

fn is_told_of_files(status: &Value) -> bool {
    status["problems"].to_string().contains("the files cannot be read")
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn root_finds_a_seat_whatever_others_do() -> Result<()> {
    let mut node = node()?;
    let head = "GET /v1/events?after=999999999&wait=30 HTTP/1.1\r\n";
    let held = as_nobody(&node, || {
        // Some are refused.
        (0..CONNECTIONS + 50).filter_map(|_| send(&node, head, "").ok()).collect::<Vec<_>>()
    })?;
    thread::sleep(Duration::from_millis(500));
    node.ask(&["status"])?;
    node.ask(&["subscriber", "add", "203.0.113.9", "--exempt"])?;
    assert!(held.len() > CONNECTIONS / 2, "{} connections: the attack is none", held.len());
    drop(held);
    node.stop()
}

/// A large request of a member has its turn only as long as it comes in.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_body_that_does_not_come_keeps_nobody_waiting() -> Result<()> {
    let mut node = node()?;
    let head = "POST /v1/subscribers HTTP/1.1\r\ncontent-length: 100000000\r\n";
    let held = as_nobody(&node, || send(&node, head, "{\"entries\":["))??;
    thread::sleep(Duration::from_millis(500));
    let entry = |host| format!("{{\"prefix\":\"{}\",\"exempt\":true}}", line(host));
    let entries: Vec<_> = (0..3000).map(entry).collect();
    let body = format!("{{\"entries\":[{}]}}", entries.join(","));
    let start = Instant::now();
    let mut answer = String::new();
    let mut other = as_nobody(&node, || send(&node, "POST /v1/subscribers HTTP/1.1\r\n", &body))??;
    other.read_to_string(&mut answer)?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let took = start.elapsed();
    assert!(took > Duration::from_secs(5), "after {took:?}: the attack is none");
    assert!(took < Duration::from_secs(40), "{took:?}");
    drop(held);
    node.stop()
}

/// A client that asks for a reload and hangs up does not stop it, and does not make the node report
/// that its files hang.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_reload_that_nobody_waits_for_goes_on() -> Result<()> {
    let mut node = node()?;
    let generation = |status: &Value| status["policy"]["generation"].as_u64();
    let before = generation(&node.status()?).context("a generation")?;
    write_large(&node, 100_000)?;
    for round in 0..6 {
        let stream = as_nobody(&node, || send(&node, "POST /v1/reload HTTP/1.1\r\n", ""))??;
        thread::sleep(Duration::from_millis(100));
        drop(stream);
        for _ in 0..3 {
            let status = node.status()?;
            assert!(!is_told_of_files(&status), "round {round}: {status}");
            thread::sleep(Duration::from_millis(50));
        }
    }
    node.wait_status("the first of them is in force", |status| {
        generation(status) > Some(before) && status["last_reload"]["success"] == true
    })?;
    let last = node.json(&["reload"])?;
    assert_eq!(last["outcome"], "unchanged");
    assert_eq!(node.status()?["state"], "enforcing");
    node.stop()
}

/// A refusal for want of a turn is counted for what it is.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn reloads_without_a_turn_are_counted_as_such() -> Result<()> {
    let mut node = Node::prepare("watch: off\nhttp: 127.0.0.1:9625\n")?;
    fs::create_dir(node.path("lists"))?;
    fs::write(node.path("lists/a.txt"), "203.0.113.0/24\n")?;
    node.write("policy.yaml", "version: 1\ngroups:\n  dyn: {prefixes-file: lists/a.txt}\n")?;
    node.run()?;
    open_house(&node)?;
    fs::set_permissions(node.path("opb.sock"), fs::Permissions::from_mode(0o666))?;
    let mut hanging = Hanging::mount(&node.path("lists"))?;
    let reload = || send(&node, "POST /v1/reload HTTP/1.1\r\n", "");
    let waiting = (0..6).map(|_| as_nobody(&node, reload)?).collect::<Result<Vec<_>>>()?;
    let counted = |why: &str| -> Result<u64> {
        let name = format!("opb_http_refused_total{{listener=\"control\",why=\"{why}\"}} ");
        let page = node.get("/metrics")?;
        let count = page.lines().find_map(|line| line.strip_prefix(&*name));
        Ok(count.with_context(|| format!("no {name} in {page}"))?.parse()?)
    };
    node.wait("a refusal", || Ok((counted("reloads")? > 0).then_some(())))?;
    assert_eq!(counted("lists")?, 0);
    hanging.end()?;
    drop(waiting);
    node.stop()
}

/// Each preview reads a whole policy: one after the other, or their memory adds up.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn previews_are_made_one_after_the_other() -> Result<()> {
    let mut node = node()?;
    write_large(&node, 60_000)?;
    let preview = || -> Result<()> {
        let mut answer = String::new();
        send(&node, "GET /v1/diff HTTP/1.1\r\n", "")?.read_to_string(&mut answer)?;
        anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{}", &answer[..answer.len().min(200)]);
        Ok(())
    };
    let at_rest = memory(&node, "VmRSS")?;
    preview()?;
    let one = memory(&node, "VmHWM")?.saturating_sub(at_rest);
    // Some of them hang up, and what they asked for goes on.
    for _ in 0..8 {
        let stream = send(&node, "GET /v1/diff HTTP/1.1\r\n", "")?;
        thread::sleep(Duration::from_millis(20));
        drop(stream);
    }
    thread::scope(|scope| {
        let all: Vec<ScopedJoinHandle<'_, _>> = (0..8).map(|_| scope.spawn(preview)).collect();
        all.into_iter().try_for_each(|one| one.join().expect("no panic"))
    })?;
    let all = memory(&node, "VmHWM")?.saturating_sub(at_rest);
    eprintln!("one preview: {one} bytes more than at rest; 16 of them: {all}");
    assert!(all < 2 * one + (32 << 20), "{all} bytes for all, {one} for one");
    assert!(!is_told_of_files(&node.status()?));
    node.stop()
}

/// Changes whose clients have hung up wait for the enforcer like any other: so many of them.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn changes_that_nobody_waits_for_take_little_memory() -> Result<()> {
    let mut node = node()?;
    let entry = |number: u32| {
        format!("{{\"prefix\":\"100.64.{}.{}\",\"exempt\":true}}", number / 250, number % 250)
    };
    let entries: Vec<_> = (0..1400).map(entry).collect();
    let body = format!("{{\"entries\":[{}]}}", entries.join(","));
    assert!(body.len() < 64 << 10, "{} bytes: it would be a large one", body.len());
    let before = memory(&node, "VmRSS")?;
    let stopped = Stopped::stop(node.pid()?, "kernel")?;
    let sent = as_nobody(&node, || {
        let head = "POST /v1/subscribers HTTP/1.1\r\n";
        (0..400).try_for_each(|_| {
            let stream = send(&node, head, &body)?;
            // Until it is read.
            thread::sleep(Duration::from_millis(40));
            drop(stream);
            anyhow::Ok(())
        })
    });
    let peak = memory(&node, "VmHWM")?;
    drop(stopped);
    sent??;
    let more = peak.saturating_sub(before);
    eprintln!("{more} bytes more than at rest");
    assert!(more < 48 << 20, "{more} bytes more than before");
    let reached =
        wait_until(LIMIT, || Ok((node.status()?["entries"]["count"] == 1400).then_some(())))?;
    reached.context("what was read is made")?;
    node.ask(&["subscriber", "add", "203.0.113.9", "--exempt"])?;
    node.stop()
}

/// Questions whose clients have hung up keep nobody waiting: a list of many entries takes a moment
/// to make.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn questions_that_nobody_waits_for_are_not_answered() -> Result<()> {
    const ASKED: usize = 3000;
    let mut node = node()?;
    let lines: String = (0..50_000).map(|number| format!("{}\n", line(number))).collect();
    node.write("entries.txt", &lines)?;
    let entries = node.path("entries.txt").display().to_string();
    node.ask(&["subscriber", "import", "--exempt", &entries])?;
    for path in ["/v1/subscribers", "/v1/counters"] {
        as_nobody(&node, || {
            let head = format!("GET {path} HTTP/1.1\r\n");
            (0..ASKED).try_for_each(|_| send(&node, &head, "").map(drop))
        })??;
        let start = Instant::now();
        node.ask(&["subscriber", "add", "203.0.113.9", "--exempt"])?;
        let took = start.elapsed();
        eprintln!("{path}: {took:?} for an entry");
        assert!(took < Duration::from_secs(5), "{path}: {took:?}");
    }
    node.stop()
}

/// The head of a request for the content of the large list.
fn list_of_a_commit(node: &Node) -> Result<String> {
    let commit = node.status()?["policy"]["commit"].as_u64().context("a number")?;
    let shown = node.json(&["history", "show", &commit.to_string()])?;
    let files = shown["files"].as_array().context("files")?;
    let is_list = |file: &Value| file["path"].as_str().is_some_and(|it| it.ends_with("large.txt"));
    let index = files.iter().position(is_list).context("the list")?;
    Ok(format!("GET /v1/commits/file?number={commit}&index={index} HTTP/1.1\r\n"))
}

/// Threads that read commits for clients that have hung up do not look like a file system that
/// hangs, which would keep root from a reload.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn files_of_commits_that_nobody_waits_for_stop_no_reload() -> Result<()> {
    let mut node = node()?;
    write_large(&node, 100_000)?;
    node.ask(&["reload"])?;
    let head = list_of_a_commit(&node)?;
    for round in 0..20 {
        as_nobody(&node, || {
            (0..20).try_for_each(|_| {
                let stream = send(&node, &head, "")?;
                // Until it is read.
                thread::sleep(Duration::from_millis(2));
                drop(stream);
                anyhow::Ok(())
            })
        })??;
        assert!(!is_told_of_files(&node.status()?), "round {round}");
        assert_eq!(node.json(&["reload"])?["outcome"], "unchanged", "round {round}");
    }
    node.stop()
}

/// Each answer is in memory until it is sent.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn files_of_commits_that_nobody_reads_are_few() -> Result<()> {
    let mut node = node()?;
    write_large(&node, 200_000)?;
    node.ask(&["reload"])?;
    let head = list_of_a_commit(&node)?;
    let peak = memory(&node, "VmHWM")?;
    let send_all = || (0..100).map(|_| send(&node, &head, "")).collect::<Result<Vec<_>>>();
    let held = as_nobody(&node, send_all)??;
    thread::sleep(Duration::from_secs(3));
    let more = memory(&node, "VmHWM")?.saturating_sub(peak);
    eprintln!("{more} bytes more than before");
    // 2.6 MB each, several times while it is made.
    assert!(more < 96 << 20, "{more} bytes more than before");
    let start = Instant::now();
    node.ask(&["history"])?;
    assert!(start.elapsed() < Duration::from_secs(5), "root has turns of its own");
    drop(held);
    node.stop()
}

/// A body that comes just fast enough takes a minute, and four of them take longer than a request
/// may wait. Root does not wait for them.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn slow_bodies_do_not_delay_root() -> Result<()> {
    let mut node = node()?;
    let head = "POST /v1/subscribers HTTP/1.1\r\ncontent-length: 200000000\r\n";
    let mut slow = as_nobody(&node, || send(&node, head, " "))??;
    let lines: String = (0..9000).map(|number| format!("{}\n", line(number))).collect();
    assert!(lines.len() > 64 << 10, "{} bytes: not a large one", lines.len());
    node.write("entries.txt", &lines)?;
    let entries = node.path("entries.txt").display().to_string();
    thread::scope(|scope| -> Result<()> {
        let sender = scope.spawn(move || {
            // 8 MiB a second: until the connection closes, or the node has ended.
            while slow.write_all(&[b' '; 80 << 10]).is_ok() {
                thread::sleep(Duration::from_millis(10));
            }
        });
        thread::sleep(Duration::from_secs(1));
        assert!(!sender.is_finished(), "the body is still being read");
        let start = Instant::now();
        node.ask(&["subscriber", "import", "--exempt", &entries])?;
        let took = start.elapsed();
        assert!(!sender.is_finished(), "the body is still being read");
        assert!(took < Duration::from_secs(8), "{took:?}");
        node.stop()
    })
}

fn line(number: u32) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from(0x6440_0000 + number)
}
