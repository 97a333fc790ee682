//! Questions to the daemon, over its commands, its socket and its listener.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{LIMIT, Node};
use crate::{
    counts::Counter,
    process::{self, Output, wait_until},
};

impl Node {
    /// Standard output of a command that must succeed.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let Output { status, stdout, stderr } = self.opb(arguments)?;
        if !status.success() {
            bail!("opb {arguments:?}: {status}\n{stdout}{stderr}\n{}", self.said());
        }
        Ok(stdout)
    }

    /// The one document that a command prints with `--json`, which is added here.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.ask(&[arguments, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("{arguments:?}: {text}"))
    }

    /// The JSON lines of a command, whose arguments ask for JSON.
    pub fn rows(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        self.ask(arguments)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// `opb status`, whatever the state is. Fails while no daemon answers.
    pub fn status(&self) -> Result<Value> {
        let Output { stdout, stderr, .. } = self.opb(&["status", "--json"])?;
        serde_json::from_str(&stdout).with_context(|| format!("{stdout}{stderr}\n{}", self.said()))
    }

    /// State of the daemon, or `None` while none answers.
    pub fn state(&self) -> Result<Option<String>> {
        let Output { stdout, .. } = self.opb(&["status", "--json"])?;
        let status: Option<Value> = serde_json::from_str(&stdout).ok();
        Ok(status.and_then(|status| Some(status.get("state")?.as_str()?.to_owned())))
    }

    /// The status as soon as `holds` is true of it.
    pub fn status_when(&self, mut holds: impl FnMut(&Value) -> bool) -> Result<Value> {
        let found = wait_until(LIMIT, || Ok(self.status().ok().filter(&mut holds)))?;
        found.with_context(|| {
            format!("the status never became what it should: {:?}\n{}", self.status(), self.said())
        })
    }

    /// Waits until `holds` is true of the status. `what` names the condition.
    pub fn wait_status(&self, what: &str, holds: impl FnMut(&Value) -> bool) -> Result<()> {
        self.status_when(holds).map(drop).with_context(|| what.to_owned())
    }

    /// Waits until `ready` gives something. `what` names it.
    pub fn wait<T>(&self, what: &str, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let found = wait_until(LIMIT, || {
            let found = ready()?;
            if found.is_none() {
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(found)
        })?;
        found.with_context(|| format!("not within {LIMIT:?}: {what}\n{}", self.said()))
    }

    /// Verdict and reason of the policy in force for a SYN to port 25.
    pub fn verdict(&self, src: &str, dst: &str) -> Result<String> {
        let explained = self.json(&["explain", "--src", src, "--dst", dst])?;
        let text = |key| explained.get(key).and_then(Value::as_str).unwrap_or_default();
        Ok(format!("{} {}", text("verdict"), text("reason")))
    }

    /// Waits until a verdict is what is expected. Returns how long it took.
    pub fn wait_verdict(&self, src: &str, dst: &str, expected: &str) -> Result<Duration> {
        let start = Instant::now();
        let reached =
            wait_until(LIMIT, || Ok((self.verdict(src, dst)? == expected).then_some(())))?;
        reached.with_context(|| {
            let found = self.verdict(src, dst);
            format!("{src} to {dst}: {found:?} and never {expected}\n{}", self.said())
        })?;
        Ok(start.elapsed())
    }

    pub fn counters(&self) -> Result<Vec<Counter>> {
        let text = self.ask(&["counters", "--json"])?;
        let row = |line| serde_json::from_str(line).with_context(|| format!("counters: {line}"));
        text.lines().map(row).collect()
    }

    /// Packets of all counters with this verdict.
    pub fn counted(&self, verdict: &str) -> Result<u64> {
        let rows = self.counters()?;
        Ok(rows.iter().filter(|row| row.verdict == verdict).map(|row| row.packets).sum())
    }

    /// A page of the read-only listener.
    pub fn get(&self, path: &str) -> Result<String> {
        let url = format!("http://127.0.0.1:9625{path}");
        process::check(self.gateway.command("curl").args(["-sS", "--fail", "-m", "10", &url]))
    }

    /// The value of a metric without labels.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let text = self.get("/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no {name} in {text}"))?.parse::<f64>()? as u64)
    }

    /// One request over the control socket: status code and body.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let mut stream = UnixStream::connect(self.path("opb.sock"))?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: opb\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        // A daemon that refuses answers before it has read all of a large body, and closes the connection.
        let written = stream.write_all(request.as_bytes());
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.is_empty() {
            written?;
        }
        let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP response")?;
        let code = head.split(' ').nth(1).context("a status code")?.parse()?;
        let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            body.split("\r\n").skip(1).step_by(2).collect()
        } else {
            body.to_owned()
        };
        let body =
            serde_json::from_str(&body).with_context(|| format!("{method} {path}: {answer}"))?;
        Ok((code, body))
    }

    /// Sends JSON to the control socket. A refusal is an error.
    pub fn post(&self, path: &str, body: &Value) -> Result<()> {
        let (code, answer) = self.call("POST", path, Some(body))?;
        ensure!(code == 200, "{path}: {code} {answer}");
        Ok(())
    }
}
