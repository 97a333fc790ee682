//! A node whose daemon's calls can fail, and everything that is asked of it.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use opb_lab::{
    attached::attached,
    node::Site,
    process::{self, Process, wait_until},
};
use serde_json::Value;

use crate::{
    inject::Supervised,
    plan::{Fault, Kind},
    witness::passes,
};

/// In which a command must have its answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(8);
/// The same where the fault may be that there is none.
pub(crate) const SHORT: Duration = Duration::from_millis(1500);
/// In which the daemon must enforce by itself when nothing fails any more: it tries a hook again after ten seconds.
pub(crate) const RECOVERY: Duration = Duration::from_secs(20);
/// A second, and what a busy machine adds.
const STOP: Duration = Duration::from_millis(1500);
/// In which the daemon must have noticed an interface, or a hook: it looks each second.
const NOTICE: Duration = Duration::from_secs(4);
const HTTP: &str = "127.0.0.1:9625";
const PASSES_AT_FIRST: [u8; 4] = [192, 0, 2, 9];

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done(String),
    /// The daemon says no.
    Refused(String),
    /// The connection broke, or there was none: nobody knows.
    Broken(String),
    Late,
}

pub(crate) struct Field {
    /// What has a fault now and then; ended before the node tidies up.
    pub(crate) faulty: Option<Supervised>,
    pub(crate) node: Site,
    /// What is known of entries: in force and on the disk, or neither. `None`: one or the other.
    entries: BTreeMap<u8, Option<bool>>,
    /// Whether the second policy must be in force, if it is known.
    second: Option<bool>,
    appeared: Option<Instant>,
    /// For an answer to a command.
    pub(crate) patience: Duration,
}

impl Field {
    /// An earlier daemon was there, and is no more.
    pub(crate) fn new() -> Result<Self> {
        let interfaces = "{name: sub0, role: subscriber}, {name: \"ses*\", role: subscriber, filter: [upstream]}";
        let opb = Path::new(env!("CARGO_BIN_EXE_opb"));
        let node = Site::prepare(opb, interfaces, &format!("http: {HTTP}\n"))?;
        let (entries, second, appeared) = (BTreeMap::new(), Some(false), None);
        let mut field = Self { faulty: None, node, entries, second, appeared, patience: ANSWER };
        field.node.run()?;
        ensure!(field.sub0()?, "sub0 has no program");
        field.node.kill()?;
        Ok(field)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.node.path("faulty.log")
    }

    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    pub(crate) fn start(&mut self, kinds: &[Kind], fault: Option<Fault>) -> Result<()> {
        let _ = fs::remove_file(self.log());
        let mut command = self.node.command(&["run", "--config", "opb.yaml"]);
        command.env("RUST_BACKTRACE", "1");
        self.faulty = Some(Supervised::spawn(&mut command, &self.log(), kinds, fault)?);
        Ok(())
    }

    pub(crate) fn daemon(&mut self) -> Result<&mut Process> {
        Ok(self.faulty.as_mut().context("no daemon")?.process())
    }

    /// How the daemon ended by itself, if it did.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.daemon()?.ended()
    }

    /// Waits for an answer, or the end.
    pub(crate) fn wait_up(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if self.node.path("opb.sock").exists() && self.state()?.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(None)
    }

    /// Waits until it enforces.
    pub(crate) fn wait_enforcing(&mut self) -> Result<()> {
        let reached = wait_until(RECOVERY, || {
            if let Some(status) = self.ended()? {
                bail!("the daemon ended: {status}");
            }
            Ok((self.state()?.as_deref() == Some("enforcing")).then_some(()))
        })?;
        reached.with_context(|| format!("it does not enforce: {:?}", self.node.status()))
    }

    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<Answer> {
        let ended = match process::run(&mut self.node.command(arguments), self.patience) {
            Ok(ended) => ended,
            Err(error) if error.to_string().contains("was still running") => {
                return Ok(Answer::Late);
            }
            Err(error) => return Err(error),
        };
        let broken =
            ["no daemon answers", "closed the connection", "cannot parse the daemon's response"];
        Ok(match (ended.status.success(), ended.stderr) {
            (true, _) => Answer::Done(ended.stdout),
            (false, text) if broken.iter().any(|broken| text.contains(broken)) => {
                Answer::Broken(text)
            }
            // A state that is not `enforcing` is an answer, too.
            (false, _) if ended.stdout.starts_with('{') => Answer::Done(ended.stdout),
            (false, text) => Answer::Refused(text),
        })
    }

    /// What the daemon says of itself, if it says something.
    pub(crate) fn state(&self) -> Result<Option<String>> {
        let Answer::Done(text) = self.ask(&["status", "--json"])? else { return Ok(None) };
        let status: Value = serde_json::from_str(&text)?;
        Ok(status["state"].as_str().map(ToOwned::to_owned))
    }

    /// Whether `/healthz` says that all is well.
    fn is_healthy(&self) -> Result<bool> {
        self.node.gateway.enter(|| {
            let Ok(mut stream) = TcpStream::connect(HTTP) else { return Ok(false) };
            stream.set_read_timeout(Some(self.patience))?;
            let mut answer = String::new();
            let asked = stream.write_all(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n");
            let _ = asked.and_then(|()| stream.read_to_string(&mut answer));
            Ok(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"))
        })
    }

    fn sub0(&self) -> Result<bool> {
        let found = attached(&self.node.gateway, &["sub0"])?;
        Ok(found.iter().any(|it| it.hook == "driver") && found.len() == 2)
    }

    fn is_hooked(&self) -> Result<bool> {
        let ses = match self.appeared {
            Some(_) => !attached(&self.node.gateway, &["ses0"])?.is_empty(),
            None => true,
        };
        Ok(self.sub0()? && ses)
    }

    /// Nothing says that all is well while something is not on its hook, for longer than the daemon needs to notice.
    pub(crate) fn is_honest(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let hooked = self.is_hooked()?;
            if hooked {
                return Ok(());
            }
            let claims = [self.state()?.as_deref() == Some("enforcing"), self.is_healthy()?];
            let recent = self.appeared.is_some_and(|at| at.elapsed() < NOTICE);
            if claims == [false; 2] || self.is_hooked()? {
                if !recent {
                    return Ok(());
                }
            } else if start.elapsed() > NOTICE {
                bail!("it claims to enforce (status, healthz: {claims:?}) without its programs");
            }
            if !recent && start.elapsed() > 2 * NOTICE {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn add(&mut self, host: u8) -> Result<Answer> {
        let answer = self.ask(&["subscriber", "add", &address(host), "--exempt"])?;
        self.note(host, &answer, true);
        self.check(host)?;
        Ok(answer)
    }

    pub(crate) fn remove(&mut self, host: u8) -> Result<Answer> {
        let answer = self.ask(&["subscriber", "remove", &address(host)])?;
        self.note(host, &answer, false);
        self.check(host)?;
        Ok(answer)
    }

    fn note(&mut self, host: u8, answer: &Answer, wanted: bool) {
        let before = self.entries.get(&host).copied().unwrap_or(Some(false));
        let known = match answer {
            Answer::Done(_) => Some(wanted),
            Answer::Refused(_) => before,
            Answer::Broken(_) | Answer::Late if before == Some(wanted) => before,
            Answer::Broken(_) | Answer::Late => None,
        };
        self.entries.insert(host, known);
    }

    /// Packets tell whether an entry is in force.
    fn check(&self, host: u8) -> Result<()> {
        let Some(Some(expected)) = self.entries.get(&host).copied() else { return Ok(()) };
        let found = passes(&self.node, [203, 0, 113, host])?;
        ensure!(found == expected, "{}: exempt {expected}, passes {found}", address(host));
        Ok(())
    }

    /// Writes the other policy, and asks for it.
    pub(crate) fn reload(&mut self, second: bool) -> Result<Answer> {
        let drops = Site::POLICY.replace("action: monitor", "action: drop");
        self.node.write("policy.yaml", if second { &drops } else { Site::POLICY })?;
        let answer = self.ask(&["reload"])?;
        self.second = matches!(answer, Answer::Done(_)).then_some(second);
        self.check_policy()?;
        Ok(answer)
    }

    fn check_policy(&self) -> Result<()> {
        let Some(second) = self.second else { return Ok(()) };
        let found = passes(&self.node, PASSES_AT_FIRST)?;
        ensure!(found != second, "the policy that was acknowledged is not in force");
        Ok(())
    }

    /// An interface comes that the node file wants filtered.
    pub(crate) fn appear(&mut self) -> Result<()> {
        self.node.gateway.ip("tuntap add dev ses0 mode tun")?;
        self.appeared = Some(Instant::now());
        Ok(())
    }

    fn vanish(&mut self) -> Result<()> {
        if self.appeared.take().is_some() {
            self.node.gateway.ip("tuntap del dev ses0 mode tun")?;
        }
        Ok(())
    }

    /// All is as it was acknowledged: in the kernel, on the list, and for packets.
    pub(crate) fn is_right(&mut self) -> Result<()> {
        let hooked = wait_until(NOTICE, || Ok(self.is_hooked()?.then_some(())))?;
        hooked.context("it enforces without all of its programs")?;
        // The listener may have to try again for its socket.
        let healthy = wait_until(NOTICE, || Ok(self.is_healthy()?.then_some(())))?;
        healthy.context("it enforces, and /healthz does not say so")?;
        let Answer::Done(list) = self.ask(&["subscriber", "list", "--json"])? else {
            bail!("no list of entries");
        };
        for (host, known) in &mut self.entries {
            let listed = list.contains(&format!("\"{}", address(*host)));
            ensure!(
                known.is_none_or(|known| known == listed),
                "{}: {known:?}, listed: {listed}",
                address(*host)
            );
            *known = Some(listed);
        }
        let hosts: Vec<u8> = self.entries.keys().copied().collect();
        hosts.into_iter().try_for_each(|host| self.check(host))?;
        self.check_policy()
    }

    pub(crate) fn stops_in_time(&mut self) -> Result<()> {
        let start = Instant::now();
        self.daemon()?.signal(Signal::SIGTERM)?;
        let ended = wait_until(ANSWER, || self.ended())?;
        let took = start.elapsed();
        let status = ended.context("SIGTERM does not end it")?;
        ensure!(took < STOP, "it took {took:?} to end");
        ensure!(status.success() || status.code() == Some(1), "{status}");
        Ok(())
    }

    /// Another daemon, without a fault, finds what was acknowledged, and leaves everything as it was at first.
    pub(crate) fn restart(&mut self) -> Result<()> {
        (self.faulty, self.patience) = (None, ANSWER);
        self.start(&[], None)?;
        self.wait_enforcing()?;
        // The policy that was in force, as far as it is known.
        self.is_right()?;
        let text = fs::read_to_string(self.node.path("policy.yaml"))?;
        self.node.ask(&["reload"])?;
        self.second = Some(text.contains("action: drop"));
        self.is_right()?;
        self.vanish()?;
        let listed = self.entries.iter().filter(|(_, known)| **known == Some(true));
        for host in listed.map(|(host, _)| *host).collect::<Vec<_>>() {
            self.node.ask(&["subscriber", "remove", &address(host)])?;
        }
        self.entries.clear();
        self.faulty = None;
        Ok(())
    }

    /// After a failure: an attempt to go on with the next.
    pub(crate) fn tidy(&mut self) -> Result<()> {
        self.entries.values_mut().for_each(|known| *known = None);
        self.restart()
    }
}

fn address(host: u8) -> String {
    format!("203.0.113.{host}")
}
