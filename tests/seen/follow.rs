//! Events as they happen, and reports of a suspect.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use anyhow::{Context, Result, ensure};
use opb_lab::process::Process;
use serde_json::Value;

use crate::node::{LIMIT, Node, OUTSIDE, Wire, syn};

const BOT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn events_follow_and_a_suspect_runs_the_command() -> Result<()> {
    let hook = tempfile::tempdir()?;
    let (command, told) = (hook.path().join("tell"), hook.path().join("told"));
    fs::write(&command, format!("#!/bin/sh\ncat > {}\n", told.display()))?;
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755))?;
    let suspect = format!("suspect: {{per-minute: 20, command: {}}}\n", command.display());
    let node = Node::start("auto", &suspect)?;
    let log = node.path("events.log");
    let mut follow = node.command(&["events", "--follow", "--json", "--group", "dynamic"]);
    let mut follow = Process::spawn("opb events", &mut follow, &log)?;
    let wire = Wire::open(&node.subscribers, "far0")?;
    // One of another group first: it must not be shown.
    wire.send(&syn([203, 0, 113, 130].into(), OUTSIDE))?;
    for _ in 0..30 {
        wire.send(&syn(BOT, OUTSIDE))?;
    }
    let events = node.wait("a suspect among the events", || {
        let text = fs::read_to_string(&log)?;
        Ok(text.contains("\"suspect\"").then_some(text))
    })?;
    let events: Vec<Value> = events
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .with_context(|| events.clone())?;
    events.iter().try_for_each(|event| Node::conforms("Event", event))?;
    for (command, schema) in [("counters", "Counter"), ("top", "Talker")] {
        let rows = node.rows(&[command, "--json"])?;
        ensure!(!rows.is_empty(), "{command}");
        rows.iter().try_for_each(|row| Node::conforms(schema, row))?;
    }
    let denied: Vec<_> = events.iter().filter(|event| event["kind"] == "denied").collect();
    // The burst of one source; one more if the machine was slow enough for a second to pass.
    ensure!((5..=8).contains(&denied.len()), "{denied:?}");
    for event in &denied {
        ensure!(event["group"] == "dynamic" && event["subscriber"] == "203.0.113.9", "{event}");
        ensure!(event["peer"] == "192.0.2.25" && event["port"] == 25, "{event}");
        ensure!(event["interface"] == "sub0" && event["bytes"] == 54, "{event}");
    }
    let told = node.wait("the command", || {
        Ok(fs::read_to_string(&told).ok().filter(|text| text.ends_with('}')))
    })?;
    let told: Value = serde_json::from_str(&told)?;
    ensure!(told["subscriber"] == "203.0.113.9" && told["packets"] == 30, "{told}");

    // Rates: what was added between two looks.
    let mut watch =
        node.command(&["counters", "--watch", "--interval", "1", "--count", "3", "--json"]);
    let watched = node.path("watch.log");
    let mut watch = Process::spawn("opb counters", &mut watch, &watched)?;
    node.wait("a row that moved", || {
        wire.send(&syn(BOT, OUTSIDE))?;
        Ok(fs::read_to_string(&watched)?.contains("\"added_packets\":").then_some(()))
    })?;
    watch.wait_success(LIMIT)?;
    for line in fs::read_to_string(&watched)?.lines() {
        let row: Value = serde_json::from_str(line)?;
        let number = |name: &str| row[name].as_f64().with_context(|| format!("{name} of {row}"));
        let (added, rate) = (number("added_packets")?, number("packets_per_second")?);
        // At least a second between two looks, and not many.
        ensure!(rate > added / 10.0 && rate <= added, "{row}");
    }
    // A daemon that stops does not wait for those that follow.
    follow.kill()?;
    node.end()
}

/// Head and body of one request.
fn request(stream: &mut TcpStream) -> Result<(String, Value)> {
    let mut bytes = Vec::new();
    loop {
        let mut more = [0; 4096];
        let count = stream.read(&mut more)?;
        ensure!(count > 0, "broke off after {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&more[..count]);
        let text = String::from_utf8_lossy(&bytes);
        // The body is one object, and the only thing in braces.
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str(body)
        {
            return Ok((head.to_lowercase(), body));
        }
    }
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn suspects_are_posted_to_a_webhook_whatever_it_does() -> Result<()> {
    let suspect = "suspect: {per-minute: 20, webhook: \"http://127.0.0.1:8025/hook?key=s3cret\"}\n";
    let mut node = Node::prepare("auto", suspect)?;
    let listener = node.gateway.enter(|| Ok(TcpListener::bind("127.0.0.1:8025")?))?;
    node.run()?;
    let (say, hear) = mpsc::channel();
    thread::spawn(move || -> Result<()> {
        // The first never gets an answer, the second a bad one.
        let failure = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";
        let mut open = Vec::new();
        for answer in ["", failure, "HTTP/1.1 204 No Content\r\n\r\n"] {
            let (mut stream, _) = listener.accept()?;
            say.send(request(&mut stream)?)?;
            stream.write_all(answer.as_bytes())?;
            open.push(stream);
        }
        Ok(())
    });
    let wire = Wire::open(&node.subscribers, "far0")?;
    for last in [9, 10, 11] {
        (0..30).try_for_each(|_| wire.send(&syn([203, 0, 113, last].into(), OUTSIDE)))?;
    }
    let mut told = Vec::new();
    for _ in 0..3 {
        let (head, body) = hear.recv_timeout(LIMIT)?;
        ensure!(head.starts_with("post /hook?key=s3cret http/1.1\r\n"), "{head}");
        ensure!(head.contains("host: 127.0.0.1:8025"), "{head}");
        ensure!(head.contains("content-type: application/json"), "{head}");
        ensure!(body["kind"] == "suspect" && body["packets"] == 30, "{body}");
        told.push(body["subscriber"].as_str().unwrap_or_default().to_owned());
    }
    told.sort();
    ensure!(told == ["203.0.113.10", "203.0.113.11", "203.0.113.9"], "{told:?}");
    let log = node.wait("both failures in the log", || {
        let log = fs::read_to_string(node.path("opb.log"))?;
        let all = log.contains("timed out after 10s") && log.contains("the answer is 500");
        Ok(all.then_some(log))
    })?;
    ensure!(log.contains("webhook http://127.0.0.1:8025: a report of a suspect failed: "), "{log}");
    ensure!(!log.contains("s3cret"), "a secret in the log: {log}");
    node.end()
}

/// A webhook that takes what it is sent and answers nothing until it is `open`. By subscriber, whom it has heard of, and whether
/// it answered.
fn hear(
    listener: &TcpListener,
    open: &AtomicBool,
    heard: &Mutex<Vec<(String, bool)>>,
) -> Result<()> {
    let mut held = Vec::new();
    loop {
        let (mut stream, _) = listener.accept()?;
        let (_, body) = request(&mut stream)?;
        let subscriber = body["subscriber"].as_str().unwrap_or_default().to_owned();
        let answers = open.load(Ordering::SeqCst);
        heard.lock().expect("no panic").push((subscriber, answers));
        if answers {
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
        } else {
            held.push(stream);
        }
    }
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn suspects_that_nobody_is_told_of_are_counted() -> Result<()> {
    /// More than wait for one that is slow.
    const SUSPECTS: u32 = 600;
    const ROOM: u64 = 512;
    let hook = tempfile::tempdir()?;
    let (command, told) = (hook.path().join("tell"), hook.path().join("told"));
    fs::write(&command, format!("#!/bin/sh\necho >> {}\n", told.display()))?;
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755))?;
    let suspect = format!(
        "suspect: {{per-minute: 5, webhook: \"http://127.0.0.1:8025/\", command: {}}}\n",
        command.display()
    );
    let mut node = Node::prepare("auto", &suspect)?;
    let listener = node.gateway.enter(|| Ok(TcpListener::bind("127.0.0.1:8025")?))?;
    node.run()?;
    let (open, heard) = Box::leak(Box::new((AtomicBool::new(false), Mutex::new(Vec::new())))) as &_;
    thread::spawn(move || hear(&listener, open, heard));
    let wire = Wire::open(&node.subscribers, "far0")?;
    for number in 0..SUSPECTS {
        let source = Ipv4Addr::from(0x0a00_0000 + number);
        (0..6).try_for_each(|_| wire.send(&syn(source, OUTSIDE)))?;
    }
    node.wait("all of the suspects", || {
        Ok((node.metric("opb_suspects_total")? == u64::from(SUSPECTS)).then_some(()))
    })?;

    // They are events, and the node does what it did, while the one says nothing and the other is told.
    let alarm = |to: &str| -> Result<Value> {
        let status = node.rows(&["status", "--json"])?;
        let alarms = status[0]["alarms"].as_array().context("alarms")?;
        Ok(alarms.iter().find(|alarm| alarm["to"] == to).context("an alarm")?.clone())
    };
    let number = |alarm: &Value, key: &str| alarm[key].as_u64().context("a number");
    let denied = node.counted("drop")?;
    wire.send(&syn(BOT, OUTSIDE))?;
    node.wait("one more", || Ok((node.counted("drop")? == denied + 1).then_some(())))?;
    ensure!(node.opb(&["reload"])?.stdout.contains("unchanged"));
    let webhook = alarm("webhook")?;
    ensure!(number(&webhook, "delivered")? == 0 && number(&webhook, "dropped")? > 0, "{webhook}");
    ensure!(number(&alarm("command")?, "delivered")? > 0, "one holds up the other");

    // From then on it answers. The one that waits for an answer runs out of time.
    open.store(true, Ordering::SeqCst);
    let webhook = node
        .wait("nobody to wait", || Ok(Some(alarm("webhook")?).filter(|it| it["waiting"] == 0)))?;
    let heard = heard.lock().expect("no panic");
    let answered = heard.iter().filter(|(_, answered)| *answered).count() as u64;
    let failed = heard.len() as u64 - answered;
    let dropped = u64::from(SUSPECTS) - heard.len() as u64;
    for (key, expected) in [("delivered", answered), ("failed", failed), ("dropped", dropped)] {
        ensure!(number(&webhook, key)? == expected, "{key}: {expected} expected: {webhook}");
        let metric = format!("opb_alarms_total{{outcome=\"{key}\",to=\"webhook\"}}");
        ensure!(node.metric(&metric)? == expected, "{metric}: {expected} expected");
    }
    ensure!(failed > 0 && heard.len() as u64 >= ROOM, "{failed} of {} failed", heard.len());
    let text = node.opb(&["status"])?.stdout;
    let line = format!(
        "suspects to webhook http://127.0.0.1:8025: {answered} delivered, {failed} failed, {dropped} dropped, \
         0 waiting\n"
    );
    ensure!(text.contains(&line), "{line}{text}");
    let log = fs::read_to_string(node.path("opb.log"))?;
    ensure!(log.contains(" reports of suspects dropped: its queue of "), "{log}");

    let command = node.wait("the command's queue to be empty", || {
        Ok(Some(alarm("command")?).filter(|it| it["waiting"] == 0))
    })?;
    let told = fs::read_to_string(&told)?.lines().count() as u64;
    ensure!(
        number(&command, "delivered")? == told && number(&command, "failed")? == 0,
        "{command}"
    );
    ensure!(number(&command, "dropped")? + told == u64::from(SUSPECTS), "{command}");
    node.end()
}
