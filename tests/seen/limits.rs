//! What both listeners refuse, and that everybody else is served meanwhile.

use std::{
    fs,
    io::{Read as _, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::node::{Node, OUTSIDE, Wire, syn};

/// Of the listeners, in docs/operations.md.
const CONNECTIONS: usize = 256;

fn descriptors() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(most > 9000, "this test needs more than 9000 descriptors, not {most}");
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

fn memory(node: &Node) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{}/status", node.pid()?))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.context("VmRSS")?.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

fn open_descriptors(node: &Node) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", node.pid()?))?.count())
}

/// Status, an addition and a removal do not wait for the others to be sent away, which takes ten seconds.
fn everybody_else_is_served(node: &Node) -> Result<()> {
    for arguments in [
        &["status"] as &[&str],
        &["subscriber", "add", "203.0.113.9", "--exempt"],
        &["subscriber", "remove", "203.0.113.9"],
    ] {
        let start = Instant::now();
        let output = node.opb(arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {}", output.stderr);
        ensure!(start.elapsed() < Duration::from_secs(9), "{arguments:?}: {:?}", start.elapsed());
    }
    Ok(())
}

fn refused(node: &Node, listener: &str, why: &str) -> Result<u64> {
    let text = node.get("/metrics")?;
    let name = format!("opb_http_refused_total{{listener=\"{listener}\",why=\"{why}\"}} ");
    Ok(text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0))
}

fn half<S: Write>(count: usize, connect: impl Fn() -> Result<S>, headers: usize) -> Result<Vec<S>> {
    let head = format!("GET /v1/status HTTP/1.1\r\nhost: localhost\r\nx: {}", "a".repeat(headers));
    let one = |_| {
        let mut stream = connect()?;
        // It may have been sent away already.
        let _ = stream.write_all(head.as_bytes());
        Ok(stream)
    };
    (0..count).map(one).collect()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn eight_thousand_half_requests_change_nothing() -> Result<()> {
    descriptors()?;
    let node = Node::start("auto", "")?;
    let before = memory(&node)?;
    let tcp = || -> Result<TcpStream> {
        let stream = TcpStream::connect("127.0.0.1:9625")?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        Ok(stream)
    };
    for headers in [10, 200_000] {
        let streams = node.gateway.enter(|| half(8000, tcp, headers))?;
        everybody_else_is_served(&node)?;
        // From the same address as the 8,000.
        ensure!(node.get("/metrics")?.contains("opb_enforcing 1"));
        let open = open_descriptors(&node)?;
        ensure!(open < CONNECTIONS + 150, "{open} descriptors");
        drop(streams);
    }
    ensure!(refused(&node, "http", "crowded")? > 7000);

    let control = || Ok(UnixStream::connect(node.path("opb.sock"))?);
    let streams = half(8000, control, 10)?;
    everybody_else_is_served(&node)?;
    let open = open_descriptors(&node)?;
    ensure!(open < 2 * CONNECTIONS + 150, "{open} descriptors");
    ensure!(refused(&node, "control", "crowded")? > 7000);
    drop(streams);
    let more = memory(&node)?.saturating_sub(before);
    ensure!(more < 64 << 20, "{more} bytes more than before");
    ensure!(!fs::read_to_string(node.path("opb.log"))?.contains("the pins were gone"));
    node.end()
}

/// The daemon may open 384 files at all: connections leave it what it needs.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn connections_leave_descriptors_for_everything_else() -> Result<()> {
    let mut node = Node::prepare("auto", "")?;
    let mut daemon = node.gateway.command("prlimit");
    daemon.arg("--nofile=384:384").arg(env!("CARGO_BIN_EXE_opb"));
    daemon.args(["run", "--config"]).arg(node.path("opb.yaml"));
    node.launch(daemon)?;
    let tcp = || Ok(TcpStream::connect("127.0.0.1:9625")?);
    let streams = node.gateway.enter(|| half(80, tcp, 10))?;
    everybody_else_is_served(&node)?;
    // Long enough for a few looks at the pins.
    std::thread::sleep(Duration::from_secs(3));
    ensure!(node.get("/healthz")? == "enforcing\n");
    drop(streams);
    let log = fs::read_to_string(node.path("opb.log"))?;
    ensure!(!log.contains("the pins were gone") && !log.contains("Too many open files"), "{log}");
    node.end()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn large_heads_and_slow_ones_are_refused() -> Result<()> {
    let node = Node::start("auto", "")?;
    let ask = |head: &str| -> Result<(String, Duration)> {
        let mut stream = node.gateway.enter(|| Ok(TcpStream::connect("127.0.0.1:9625")?))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(head.as_bytes())?;
        let start = Instant::now();
        let mut answer = String::new();
        // A reset is an answer, too.
        let _ = stream.read_to_string(&mut answer);
        Ok((answer, start.elapsed()))
    };
    let long =
        format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "a".repeat(20_000));
    let (answer, _) = ask(&long)?;
    ensure!(answer.starts_with("HTTP/1.1 431") || answer.is_empty(), "{answer}");
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100));
    let (answer, _) = ask(&many)?;
    ensure!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let (_, took) = ask("GET /healthz HTTP/1.1\r\nhost: lo")?;
    ensure!((8.0..15.0).contains(&took.as_secs_f64()), "{took:?}");
    ensure!(refused(&node, "http", "slow")? >= 1);
    ensure!(refused(&node, "http", "malformed")? >= 2);
    node.end()
}

/// The page's question is the only thing there that costs the enforcer anything.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn questions_have_a_rate() -> Result<()> {
    let node = Node::start("auto", "")?;
    let mut answers = [0, 0];
    node.gateway.enter(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9625")?;
        let mut reader = std::io::BufReader::new(stream.try_clone()?);
        for _ in 0..200 {
            write!(
                stream,
                "GET /?src=203.0.113.9&dst=192.0.2.25 HTTP/1.1\r\nhost: localhost\r\n\r\n"
            )?;
            match status(&mut reader)? {
                200 => answers[0] += 1,
                429 => answers[1] += 1,
                other => anyhow::bail!("{other}"),
            }
        }
        Ok(())
    })?;
    let [given, refusals] = answers;
    // Whatever others ask, and however often: what watches the node sees it.
    node.gateway.enter(|| {
        for path in ["/healthz", "/metrics"] {
            let mut stream = TcpStream::connect("127.0.0.1:9625")?;
            let mut reader = std::io::BufReader::new(stream.try_clone()?);
            for _ in 0..500 {
                write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
                ensure!(status(&mut reader)? == 200, "{path}");
            }
        }
        Ok(())
    })?;
    ensure!(given >= 40 && refusals >= 50, "{given} given, {refusals} refused");
    ensure!(refused(&node, "http", "rate")? == refusals as u64);
    node.end()
}

/// Reads one answer, and says how it begins.
fn status(reader: &mut impl std::io::BufRead) -> Result<u16> {
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse()?;
        }
    }
    reader.read_exact(&mut vec![0; length])?;
    Ok(first.split(' ').nth(1).context("a status")?.parse()?)
}

/// A hundred followers that never read what they asked for.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn followers_that_never_read_take_nothing_from_others() -> Result<()> {
    let node = Node::start("xdp", "")?;
    // Something to tell of: a page for each follower, and more than a socket holds.
    let wire = Wire::open(&node.subscribers, "far0")?;
    for host in 1..=200 {
        for _ in 0..20 {
            wire.send(&syn([203, 0, 113, host].into(), OUTSIDE))?;
        }
    }
    node.wait("events", || Ok((node.rows(&["events", "--json"])?.len() > 500).then_some(())))?;
    let before = memory(&node)?;
    let descriptors = open_descriptors(&node)?;
    let followers = (0..100).map(|_| -> Result<UnixStream> {
        let mut stream = UnixStream::connect(node.path("opb.sock"))?;
        for _ in 0..50 {
            // Refused once nothing more of it is read.
            let asked = stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: opb\r\n\r\n");
            if asked.is_err() {
                break;
            }
        }
        Ok(stream)
    });
    let followers = followers.collect::<Result<Vec<_>>>()?;
    std::thread::sleep(Duration::from_secs(2));
    everybody_else_is_served(&node)?;
    let more = memory(&node)?.saturating_sub(before);
    println!("{more} bytes more than before");
    ensure!(more < 64 << 20, "{more} bytes more than before");
    // After 30 seconds in which nothing is taken, they are sent away.
    node.wait("they are gone", || Ok((open_descriptors(&node)? < descriptors + 50).then_some(())))?;
    drop(followers);
    node.end()
}
