//! Clients that ask for too much, each on a thread of its own until it is stopped.

use std::{
    collections::VecDeque,
    io::{Read as _, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::{self, Scope, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Plan, Reloads};
use crate::node::Node;

/// How often everything was done.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    pub slow: AtomicU64,
    pub explained: AtomicU64,
    /// Explanations that the daemon had no time for, and said so.
    pub refused: AtomicU64,
    pub reloads: AtomicU64,
    pub followed: AtomicU64,
    pub packets: AtomicU64,
}

impl Clone for Counts {
    fn clone(&self) -> Self {
        let copy = |count: &AtomicU64| AtomicU64::new(count.load(Ordering::Relaxed));
        Self {
            slow: copy(&self.slow),
            explained: copy(&self.explained),
            refused: copy(&self.refused),
            reloads: copy(&self.reloads),
            followed: copy(&self.followed),
            packets: copy(&self.packets),
        }
    }
}

impl Counts {
    pub fn each(&self) -> [(&'static str, u64); 6] {
        [
            ("slow connection", &self.slow),
            ("explanation", &self.explained),
            ("refused explanation", &self.refused),
            ("reload", &self.reloads),
            ("question of a follower", &self.followed),
            ("denied packet", &self.packets),
        ]
        .map(|(what, count)| (what, count.load(Ordering::Relaxed)))
    }
}

/// Threads that ask for explanations, and how many each asks for in a second: 300 together.
const EXPLAINERS: u32 = 10;
const EACH_SECOND: u32 = 30;
/// After the first ones, a connection is added so often: as one that was sent away would come again.
const AGAIN: Duration = Duration::from_millis(5);

/// All of the load that goes through sockets.
#[derive(Clone, Copy)]
pub(super) struct Attack<'a> {
    pub(super) node: &'a Node,
    pub(super) directories: &'a [PathBuf; 2],
    pub(super) plan: &'a Plan,
    pub(super) reloads: Reloads,
    pub(super) size: usize,
}

impl<'a> Attack<'a> {
    pub(super) fn start<'scope>(
        self,
        scope: &'scope Scope<'scope, '_>,
        stop: &'scope AtomicBool,
        counts: &'scope Counts,
    ) -> Vec<ScopedJoinHandle<'scope, Result<()>>>
    where
        'a: 'scope,
    {
        let mut threads = vec![
            scope.spawn(move || {
                let connect = || Ok(TcpStream::connect("127.0.0.1:9625")?);
                self.node.gateway.enter(|| self.be_slow(connect, stop, counts))
            }),
            scope.spawn(move || {
                let connect = || Ok(UnixStream::connect(self.node.path("opb.sock"))?);
                self.be_slow(connect, stop, counts)
            }),
            scope.spawn(move || self.reload(stop, counts)),
            scope.spawn(move || self.follow(stop, counts)),
        ];
        threads.extend((0..EXPLAINERS).map(|_| scope.spawn(move || self.explain(stop, counts))));
        threads
    }

    /// Half of the connections that never come to the end of a request.
    fn be_slow<S: Write>(
        self,
        connect: impl Fn() -> Result<S>,
        stop: &AtomicBool,
        counts: &Counts,
    ) -> Result<()> {
        let most = self.plan.slow / 2;
        let mut streams = VecDeque::new();
        while !stop.load(Ordering::Relaxed) {
            let mut stream = connect()?;
            // It may have been sent away already.
            drop(stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: localhost\r\nx: a"));
            streams.push_back(stream);
            counts.slow.fetch_add(1, Ordering::Relaxed);
            if streams.len() > most {
                streams.pop_front();
                thread::sleep(AGAIN);
            }
        }
        Ok(())
    }

    /// At its rate, and later at once where the daemon was late.
    fn explain(self, stop: &AtomicBool, counts: &Counts) -> Result<()> {
        let (start, mut asked) = (Instant::now(), 0);
        while !stop.load(Ordering::Relaxed) {
            thread::sleep((start + Duration::from_secs(1) * asked / EACH_SECOND) - Instant::now());
            asked += 1;
            let path = "/v1/explain?src=198.18.0.9&dst=192.88.99.25";
            match ask(self.node, "GET", path)?.get(9..12) {
                Some("200") => counts.explained.fetch_add(1, Ordering::Relaxed),
                Some("429") => counts.refused.fetch_add(1, Ordering::Relaxed),
                // Sent away: it is crowded.
                None => 0,
                Some(other) => anyhow::bail!("an explanation is answered with {other}"),
            };
        }
        Ok(())
    }

    /// One after the other, without a pause.
    fn reload(self, stop: &AtomicBool, counts: &Counts) -> Result<()> {
        for directory in self.directories.iter().rev().cycle() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            if self.reloads == Reloads::Other {
                self.node.select(directory)?;
            }
            let answer = ask(self.node, "POST", "/v1/reload")?;
            let Some(status) = answer.get(9..12) else { continue };
            ensure!(status == "200", "a reload of {} prefixes: {answer}", self.size);
            counts.reloads.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Followers of events who ask and ask, and never read an answer.
    fn follow(self, stop: &AtomicBool, counts: &Counts) -> Result<()> {
        let connect = || -> Result<UnixStream> {
            let stream = UnixStream::connect(self.node.path("opb.sock"))?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        let mut streams =
            (0..self.plan.followers).map(|_| connect()).collect::<Result<Vec<_>>>()?;
        while !stop.load(Ordering::Relaxed) {
            for stream in &mut streams {
                match stream.write(b"GET /v1/events?after=0 HTTP/1.1\r\nhost: opb\r\n\r\n") {
                    Ok(_) => drop(counts.followed.fetch_add(1, Ordering::Relaxed)),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => *stream = connect()?,
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// The answer to a request on a connection of its own; nothing if it was sent away.
fn ask(node: &Node, method: &str, path: &str) -> Result<String> {
    let mut socket = UnixStream::connect(node.path("opb.sock")).context("the control socket")?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: opb\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    let mut answer = String::new();
    let asked = socket.write_all(head.as_bytes()).and_then(|()| socket.read_to_string(&mut answer));
    Ok(asked.map_or_else(|_| String::new(), |_| answer))
}
