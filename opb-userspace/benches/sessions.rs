//! Session changes of a daemon: their rate and their latency: `cargo xtask sessions`.
//!
//! Runs a real daemon in its own namespaces. The latency is the time from the request to the
//! answer, when the change is on disk and in force. It depends on the disk and the kernel's grace
//! periods.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use opb_lab::node::{Node, Site};
use serde_json::{Value, json};

/// Sizes of the policy.
const PREFIXES: [u32; 2] = [1000, 1_000_000];
/// Clients at once.
const CLIENTS: [u32; 4] = [1, 8, 64, 256];
/// The duration of each measurement.
const LENGTH: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    match PREFIXES.into_iter().try_for_each(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sessions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the table is what this is for")]
fn run(prefixes: u32) -> Result<()> {
    let opb = Path::new(env!("CARGO_BIN_EXE_opb"));
    let mut node = Site::prepare(opb, "{name: sub0, role: subscriber}", "watch: off\n")?;
    // Every second address, so that none merges with its neighbour.
    let pool: String = (0..prefixes)
        .map(|number| format!("{}/32\n", std::net::Ipv4Addr::from(0x0a00_0000 + 2 * number)))
        .collect();
    node.write("pool.txt", &pool)?;
    node.write("policy.yaml", &format!("{}  pool: {{prefixes-file: pool.txt}}\n", Site::POLICY))?;
    node.run()?;
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    println!("policy of {prefixes} prefixes, {build} build, {LENGTH:?} each");
    for clients in CLIENTS {
        let before = publications(&node)?;
        let times = storm(&node, clients)?;
        let publications = publications(&node)?.saturating_sub(before);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "  {clients:>3} clients: {:>6.0} changes a second; a change takes {:>6.1?} (median), \
             {:>6.1?} (99 %), {:>6.1?} (longest); {publications} overlays",
            times.len() as f64 / LENGTH.as_secs_f64(),
            at(0.5),
            at(0.99),
            at(1.0),
        );
    }
    node.stop()
}

/// Adds and removes sessions. Returns the latencies of all changes, sorted.
fn storm(node: &Node, clients: u32) -> Result<Vec<Duration>> {
    let start = Instant::now();
    let mut times = thread::scope(|scope| {
        let clients: Vec<_> = (0..clients)
            .map(|client| scope.spawn(move || sessions(node, client, start + LENGTH)))
            .collect();
        let times = clients.into_iter().map(|client| client.join().expect("no panic"));
        times.collect::<Result<Vec<_>>>()
    })?
    .concat();
    times.sort_unstable();
    ensure!(!times.is_empty(), "no change was made");
    Ok(times)
}

fn sessions(node: &Node, client: u32, end: Instant) -> Result<Vec<Duration>> {
    let mut connection = BufReader::new(UnixStream::connect(node.path("opb.sock"))?);
    let mut times = Vec::new();
    for number in (0..=255u32).cycle() {
        let prefix = format!("100.{}.{client}.{number}/32", 64 + client / 256);
        for (path, key, body) in [
            ("/v1/subscribers", "added", json!({"entries": [{"prefix": prefix, "group": "dyn"}]})),
            ("/v1/subscribers/remove", "removed", json!({"prefixes": [prefix]})),
        ] {
            let start = Instant::now();
            let answer = post(&mut connection, path, &body)?;
            ensure!(answer[key] == 1, "{path}: {answer}");
            times.push(start.elapsed());
        }
        if Instant::now() >= end {
            break;
        }
    }
    Ok(times)
}

/// Sends a request on a connection that stays open, as a session system does.
fn post(connection: &mut BufReader<UnixStream>, path: &str, body: &Value) -> Result<Value> {
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: opb\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.get_mut().write_all(request.as_bytes())?;
    let mut length = None;
    loop {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = Some(value.parse()?);
            }
            None if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    let mut answer = vec![0; length.context("an answer with a length")?];
    connection.read_exact(&mut answer)?;
    Ok(serde_json::from_slice(&answer)?)
}

fn publications(node: &Node) -> Result<u64> {
    node.status()?["policy"]["overlay"]["revision"].as_u64().context("a number")
}
