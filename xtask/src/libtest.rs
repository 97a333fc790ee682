//! Runs `cargo test`, passes its output through, and reads in it which tests ran and which failed.
//!
//! cargo-nextest would do it, but a fresh machine would have to compile it for minutes, and the vm lane reads libtest's
//! output all the same.

use std::io::{self, BufRead, BufReader, Write, stdout};
use std::process::{Command, ExitStatus};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::exec::announce;

/// What the output of test binaries says.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Output {
    pub(crate) ran: u64,
    pub(crate) ignored: u64,
    /// How many of the ignored are for virtual machines.
    pub(crate) for_vm: u64,
    /// The tests that failed, by suite and name.
    pub(crate) failed: Vec<(String, String)>,
    /// How many failed by the sums of the binaries.
    failures: u64,
    /// The suite of the binary that runs, as in `tests/SUITE/main.rs`; empty for other binaries.
    suite: String,
    /// How many binaries started, less those that printed a result.
    without_result: u64,
}

impl Output {
    /// Adds one line, if it is one that counts:
    /// `     Running ../tests/seen/main.rs (target/debug/deps/seen-8cd9f0de77075e39)`
    /// `test alarms::a_command_hangs ... FAILED`
    /// `test vm::vlan ... ignored, vm: cargo xtask test --lane vm`
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s`
    fn add(&mut self, line: &str) {
        if let Some(binary) = line.trim_start().strip_prefix("Running ") {
            let path = binary.split_whitespace().next().unwrap_or_default();
            let suite =
                path.strip_prefix("../tests/").and_then(|path| path.strip_suffix("/main.rs"));
            self.suite = suite.unwrap_or_default().to_owned();
            self.without_result += 1;
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.without_result = self.without_result.saturating_sub(1);
            for part in result.split(['.', ';']) {
                let Some((n, of)) = part.trim().split_once(' ') else { continue };
                let n = n.parse().unwrap_or(0);
                match of {
                    "passed" => self.ran += n,
                    "failed" => (self.ran, self.failures) = (self.ran + n, self.failures + n),
                    "ignored" => self.ignored += n,
                    _ => {}
                }
            }
        } else if let Some((name, result)) =
            line.strip_prefix("test ").and_then(|test| test.split_once(" ... "))
        {
            if result.starts_with("ignored, vm: ") {
                self.for_vm += 1;
            }
            if result.ends_with("FAILED") {
                self.failed.push((self.suite.clone(), name.to_owned()));
            }
        }
    }

    /// Whether [`Output::failed`] is all that went wrong: no binary died, and none failed without naming a test.
    fn names_all_failures(&self) -> bool {
        self.without_result == 0
            && !self.failed.is_empty()
            && self.failures == self.failed.len() as u64
    }
}

/// When to print the output of a command.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Show {
    AtOnce,
    /// Another command prints meanwhile.
    AtTheEnd,
}

/// Runs `cargo test`. It is an error if it ran no test, or if something went wrong that no failed test accounts for.
pub(crate) fn run(cmd: Command, show: Show) -> Result<Output> {
    let (line, status, output) = pass_through(cmd, show)?;
    ensure!(status.success() || output.names_all_failures(), "{line}: {status}");
    ensure!(output.ran > 0, "{line}: ran no test");
    Ok(output)
}

fn pass_through(mut cmd: Command, show: Show) -> Result<(String, ExitStatus, Output)> {
    let line = announce(&cmd);
    // One pipe for both, or the results and cargo's headings come in any order.
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    cmd.stdout(writer.try_clone()?).stderr(writer);
    let mut child = cmd.spawn().with_context(|| format!("cannot run {line}"))?;
    // Closes our writing ends, so that the output ends with the last process that has one.
    drop(cmd);

    let (done, read) = mpsc::channel();
    thread::spawn(move || {
        let mut output = Output::default();
        let mut kept = String::new();
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            output.add(&line);
            match show {
                // Our reader may be gone: go on counting.
                Show::AtOnce => drop(writeln!(stdout(), "{line}")),
                Show::AtTheEnd => kept += &format!("{line}\n"),
            }
        }
        let _ = stdout().write_all(kept.as_bytes());
        let _ = done.send(output);
    });

    let status = child.wait().with_context(|| format!("cannot wait for {line}"))?;
    let Ok(output) = read.recv_timeout(Duration::from_secs(10)) else {
        bail!("{line}: over, but something that it started still runs and holds its output");
    };
    Ok((line, status, output))
}

#[cfg(test)]
mod tests {
    use super::Output;

    fn read(lines: &[&str]) -> Output {
        let mut output = Output::default();
        lines.iter().for_each(|line| output.add(line));
        output
    }

    #[test]
    fn counts_add_up_over_test_binaries() {
        let output = read(&[
            "running 4 tests",
            "test blocks ... ignored, root: cargo xtask test --lane kernel",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test vm::vlan ... ignored, vm: cargo xtask test --lane vm",
            "test result: FAILED. 1 passed; 2 failed; 4 ignored; 0 measured; 9 filtered out; finished in 12.34s",
        ]);
        assert_eq!((output.ran, output.ignored, output.for_vm), (6, 5, 1));
        assert!(!output.names_all_failures(), "two failed, and no line names them");
    }

    #[test]
    fn failed_tests_have_their_suite() {
        let lines = [
            "     Running unittests src/lib.rs (target/debug/deps/opb_userspace-d91e77df823f582b)",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "     Running ../tests/seen/main.rs (target/debug/deps/seen-8cd9f0de77075e39)",
            "test alarms::one ... FAILED",
            "test alarms::two ... ok",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
        ];
        let output = read(&lines);
        assert_eq!(output.failed, [("seen".to_owned(), "alarms::one".to_owned())]);
        assert!(output.names_all_failures());
        assert!(!read(&lines[..5]).names_all_failures(), "the binary died before its result");
    }
}
