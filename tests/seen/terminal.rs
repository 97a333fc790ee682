//! `opb top` on a terminal of 80 × 24, as over ssh.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::Ipv4Addr,
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::pty::{Winsize, openpty};
use opb_lab::process::wait_until;

use crate::node::{LIMIT, Node, Wire, syn};

/// A program on a terminal, and what the screen shows.
struct Terminal {
    child: Child,
    keys: File,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    fn start(node: &Node, arguments: &[&str]) -> Result<Self> {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None)?;
        let end = || anyhow::Ok(Stdio::from(pty.slave.try_clone()?));
        let mut command = node.command(arguments);
        command.env("TERM", "xterm-256color").stdin(end()?).stdout(end()?).stderr(end()?);
        let child = command.spawn()?;
        let mut output = File::from(pty.master.try_clone()?);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(24, 80, 0)));
        let shown = Arc::clone(&screen);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Ends with an error when the program has closed its end.
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..count]);
            }
        });
        Ok(Self { child, keys: File::from(pty.master), screen })
    }

    fn lines(&self) -> Vec<String> {
        let parser = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        parser.screen().rows(0, 80).map(|line| line.trim_end().to_owned()).collect()
    }

    /// Presses keys, and waits until the screen is as it should be.
    fn press(&mut self, keys: &str, ready: impl Fn(&[String]) -> bool) -> Result<Vec<String>> {
        self.keys.write_all(keys.as_bytes())?;
        let shown = wait_until(LIMIT, || Ok(Some(self.lines()).filter(|lines| ready(lines))))?;
        shown.with_context(|| format!("after {keys:?} the screen is\n{}", self.lines().join("\n")))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first word of each row.
fn subscribers(lines: &[String]) -> Vec<&str> {
    lines[2..23].iter().filter_map(|line| line.split_whitespace().next()).collect()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn top_sorts_filters_pauses_and_quits() -> Result<()> {
    let node = Node::start("auto", "")?;
    let wire = Wire::open(&node.subscribers, "far0")?;
    let deny = |last: u8, count: u8| -> Result<()> {
        (0..count).try_for_each(|peer| {
            // The second has many packets, the third many peers.
            let peer = if last == 20 { peer } else { 25 };
            wire.send(&syn([203, 0, 113, last].into(), [192, 0, 2, peer].into()))
        })
    };
    for (last, count) in [(3, 5), (130, 40), (20, 20)] {
        deny(last, count)?;
        // Who was last is known to a tick of the kernel.
        thread::sleep(Duration::from_millis(20));
    }
    node.wait("three talkers", || {
        Ok((node.rows(&["top", "--once", "--json"])?.len() == 3).then_some(()))
    })?;

    let mut top = Terminal::start(&node, &["top"])?;
    let by_packets = ["203.0.113.130", "203.0.113.20", "203.0.113.3"];
    let lines = top.press("", |lines| subscribers(lines) == by_packets)?;
    ensure!(lines[0] == "opb top: 3 denied subscribers, group all, by packets", "{lines:?}");
    ensure!(lines[1].starts_with("SUBSCRIBER") && lines[1].ends_with("LAST"), "{lines:?}");
    let row: Vec<_> = lines[2].split_whitespace().collect();
    ensure!(row[1..4] == ["watched", "up", "40"], "{lines:?}");
    ensure!(lines[23].starts_with("sort p r d l s"), "{lines:?}");

    let by_peers = ["203.0.113.20", "203.0.113.130", "203.0.113.3"];
    top.press("d", |lines| subscribers(lines)[..1] == by_peers[..1])?;
    top.press("s", |lines| subscribers(lines) == ["203.0.113.130", "203.0.113.20", "203.0.113.3"])?;
    top.press("l", |lines| {
        lines[0].ends_with("by last") && subscribers(lines)[0] == "203.0.113.20"
    })?;
    top.press("gwatched\r", |lines| {
        lines[0].contains("group watched") && subscribers(lines) == ["203.0.113.130"]
    })?;
    top.press("g\r", |lines| lines[0].contains("group all") && subscribers(lines).len() == 3)?;

    // While it is paused, nothing that is new is shown; the scroll keys work.
    top.press("p ", |lines| lines[0].ends_with("PAUSED"))?;
    deny(99, 60)?;
    node.wait("a fourth talker", || {
        Ok((node.rows(&["top", "--once", "--json"])?.len() == 4).then_some(()))
    })?;
    top.press("\x1b[B", |lines| subscribers(lines) == by_packets[1..])?;
    top.press("\x1b[A", |lines| subscribers(lines) == by_packets)?;
    top.press(" ", |lines| subscribers(lines)[0] == "203.0.113.99")?;

    top.keys.write_all(b"q")?;
    let status = wait_until(LIMIT, || Ok(top.child.try_wait()?))?.context("q ends it")?;
    ensure!(status.success(), "{status}");
    // The screen of before is back.
    ensure!(!top.lines().join("").contains("203.0.113"), "{:?}", top.lines());
    node.end()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_import_shows_how_far_it_is() -> Result<()> {
    const ENTRIES: u32 = 30_000;
    let node = Node::start("auto", "")?;
    let list = node.path("list.txt");
    let address = |number| Ipv4Addr::from(0x6440_0000 + number);
    fs::write(
        &list,
        (0..ENTRIES).map(|number| format!("{}\n", address(number))).collect::<String>(),
    )?;
    let list = list.display().to_string();
    let import = ["subscriber", "import", &list, "--group", "dynamic"];
    let mut import = Terminal::start(&node, &import)?;
    // What is sent, of how much; then the bar is gone, and the outcome stands there alone.
    import.press("", |lines| lines.iter().any(|line| line.contains(" sent, ")))?;
    let lines = import.press("", |lines| lines.iter().any(|line| line.starts_with("added: ")))?;
    ensure!(lines[0] == format!("added: {ENTRIES}"), "{lines:?}");
    ensure!(lines[1..].iter().all(String::is_empty), "{lines:?}");
    let status = wait_until(LIMIT, || Ok(import.child.try_wait()?))?.context("it ends")?;
    ensure!(status.success(), "{status}");
    node.end()
}
