//! Files, logs and threads that hang: one function is gone, and says so.

use std::{
    fs::{File, OpenOptions},
    io::{Error, Write as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{bail, ensure};
use nix::{
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        signal::{self, Signal},
        stat::Mode,
    },
    unistd::mkfifo,
};
use opb_lab::process::wait_until;

use super::*;
use crate::{
    node::{LIMIT, Node},
    prober::{ends, probe},
};

/// A file system whose server never answers, as NFS without its server.
pub(crate) struct Hanging {
    path: PathBuf,
    server: Option<File>,
}

impl Hanging {
    pub(crate) fn mount(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        let server = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("opb-hang"), path, Some("fuse"), flags, Some(options.as_str()))?;
        Ok(Self { path: path.to_owned(), server: Some(server) })
    }

    /// Everybody who waits gets an error, and finds what was there before.
    pub(crate) fn end(&mut self) -> Result<()> {
        umount2(&self.path, MntFlags::MNT_DETACH)?;
        drop(self.server.take());
        Ok(())
    }
}

/// In reverse order of what was made: a directory under it cannot be removed before.
impl Drop for Hanging {
    fn drop(&mut self) {
        if self.server.is_some() {
            let _ = self.end();
        }
    }
}

/// How long a command that must succeed takes.
fn time(node: &Node, arguments: &[&str]) -> Result<Duration> {
    let start = Instant::now();
    node.ask(arguments)?;
    Ok(start.elapsed())
}

fn stops_within_a_second(node: &mut Node) -> Result<()> {
    let start = Instant::now();
    node.stop()?;
    let elapsed = start.elapsed();
    ensure!(elapsed < Duration::from_millis(1500), "it took {elapsed:?} to stop\n{}", node.said());
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_fifo_among_the_files_is_an_error_like_any_other() -> Result<()> {
    let mut node = Node::start("")?;
    fs::remove_file(node.path("policy.yaml"))?;
    mkfifo(&node.path("policy.yaml"), Mode::S_IRWXU)?;
    let reload = node.opb(&["reload"])?;
    assert_eq!(reload.status.code(), Some(2), "{}{}", reload.stdout, reload.stderr);
    assert!(reload.stderr.contains("is a FIFO, not a file"), "{}", reload.stderr);
    node.ask(&["subscriber", "add", "203.0.113.9", "--exempt"])?;
    node.signal(Signal::SIGHUP)?;
    stops_within_a_second(&mut node)
}

/// Reload, addition and stop, while the list of prefixes is on a file system that hangs.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_file_system_that_hangs_stops_reloads_alone() -> Result<()> {
    let node = Node::prepare("")?;
    fs::create_dir(node.path("lists"))?;
    fs::write(node.path("lists/a.txt"), "203.0.113.0/24\n")?;
    let policy = "version: 1\ngroups:\n  dyn: {prefixes-file: lists/a.txt}\n";
    node.write("policy.yaml", policy)?;
    let mut node = node;
    node.run()?;

    let mut hanging = Hanging::mount(&node.path("lists"))?;
    node.wait_status("it says that the files hang", |status| {
        let files = |check: &&Value| check["name"] == "files" && check["ok"] == false;
        status["state"] == "degraded"
            && status["checks"].as_array().is_some_and(|checks| checks.iter().find(files).is_some())
    })?;
    let reload = node.opb(&["reload"])?;
    assert_eq!(reload.status.code(), Some(2), "{}{}", reload.stdout, reload.stderr);
    assert!(reload.stderr.contains("the files cannot be read"), "{}", reload.stderr);
    for number in 1..10 {
        let address = format!("198.51.100.{number}");
        let took = time(&node, &["subscriber", "add", &address, "--group", "dyn"])?;
        ensure!(took < Duration::from_secs(1), "an addition took {took:?}");
    }
    assert_eq!(node.verdict("198.51.100.1", "198.18.0.25")?, "drop policy");

    hanging.end()?;
    node.wait_status("it recovers", |status| status["state"] == "enforcing")?;
    fs::write(node.path("lists/a.txt"), "203.0.113.0/25\n")?;
    node.ask(&["reload"])?;

    let mut hanging = Hanging::mount(&node.path("lists"))?;
    node.signal(Signal::SIGHUP)?;
    let mut asks = node.command(&["reload"]).spawn()?;
    thread::sleep(Duration::from_millis(300));
    let result = stops_within_a_second(&mut node);
    // Before somebody tidies up there.
    hanging.end()?;
    asks.wait()?;
    result
}

/// After a reboot, for example: what was in force is on the disk of the node.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_start_does_not_need_files_that_hang() -> Result<()> {
    let mut node = Node::prepare("")?;
    fs::create_dir(node.path("lists"))?;
    fs::write(node.path("lists/a.txt"), "203.0.113.0/24\n")?;
    node.write("policy.yaml", "version: 1\ngroups:\n  dyn: {prefixes-file: lists/a.txt}\n")?;
    node.run()?;
    node.stop()?;
    let mut hanging = Hanging::mount(&node.path("lists"))?;
    let mut command = node.command(&["run"]);
    let mut daemon =
        opb_lab::process::Process::spawn("opb run", &mut command, &node.path("opb.log"))?;
    // It waits 30 seconds for the files.
    let ready = daemon.wait_ready(Duration::from_secs(60), || Ok(node.state()?.is_some()));
    let verdict = ready.and_then(|()| node.verdict("203.0.113.9", "198.18.0.25"));
    let state = node.state();
    hanging.end()?;
    assert_eq!(verdict?, "drop policy");
    assert_eq!(state?.as_deref(), Some("degraded"));
    // What hung answers now, with an error.
    node.wait_status("it recovers", |status| {
        status["state"] == "enforcing" && status["files"] == "invalid"
    })?;
    daemon.stop()?;
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_node_file_that_hangs_can_be_interrupted() -> Result<()> {
    let node = Node::prepare("")?;
    let mut hanging = Hanging::mount(&node.path("lists"))?;
    let mut command = node.command(&["run", "--config"]);
    command.arg(node.path("lists/opb.yaml"));
    let mut daemon =
        opb_lab::process::Process::spawn("opb run", &mut command, &node.path("opb.log"))?;
    thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    let status = daemon.stop();
    let elapsed = start.elapsed();
    hanging.end()?;
    let status = status?;
    ensure!(status.success(), "{status}\n{}", node.said());
    ensure!(elapsed < Duration::from_millis(1500), "{elapsed:?}");
    Ok(())
}

/// Where events are written, there is a FIFO from now on: they are lost, and counted, and nothing waits.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_event_log_that_nobody_reads_loses_events_alone() -> Result<()> {
    let node = Node::prepare("")?;
    let path = node.path("events");
    let text = fs::read_to_string(node.path("opb.yaml"))?;
    node.write("opb.yaml", &format!("{text}events: {}\n", path.display()))?;
    let mut node = node;
    node.run()?;
    let (receiver, sender) = ends(&node)?;
    probe(&receiver, &sender)?;
    let written =
        wait_until(LIMIT, || Ok(fs::metadata(&path).is_ok_and(|it| it.len() > 0).then_some(())))?;
    written.context("events are written")?;
    fs::remove_file(&path)?;
    mkfifo(&path, Mode::S_IRWXU)?;
    let fails = |status: &Value| {
        let log = |check: &&Value| check["name"] == "event-log" && check["ok"] == false;
        status["checks"].as_array().is_some_and(|checks| checks.iter().find(log).is_some())
    };
    let said = wait_until(LIMIT, || {
        probe(&receiver, &sender)?;
        Ok(fails(&node.status()?).then_some(()))
    })?;
    said.with_context(|| format!("{:?}\n{}", node.status(), node.said()))?;
    let took = time(&node, &["subscriber", "add", "203.0.113.10", "--exempt"])?;
    ensure!(took < Duration::from_secs(1), "an addition took {took:?}");

    // Without another event.
    fs::remove_file(&path)?;
    node.wait_status("it could write again", |status| !fails(status))?;
    stops_within_a_second(&mut node)
}

/// The file system of the events hangs, and there are none to write: the node says so all the same.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn an_event_log_on_a_file_system_that_hangs_is_told() -> Result<()> {
    let node = Node::prepare("")?;
    let path = node.path("logs/events");
    fs::create_dir(node.path("logs"))?;
    let text = fs::read_to_string(node.path("opb.yaml"))?;
    node.write("opb.yaml", &format!("{text}events: {}\n", path.display()))?;
    let mut node = node;
    node.run()?;
    let mut hanging = Hanging::mount(&node.path("logs"))?;
    node.wait_status("it says that the event log hangs", |status| {
        status["state"] == "degraded"
            && status["problems"]
                .to_string()
                .contains("the thread that writes the events has not responded")
    })?;
    let took = time(&node, &["subscriber", "add", "203.0.113.10", "--exempt"])?;
    ensure!(took < Duration::from_secs(1), "an addition took {took:?}");
    hanging.end()?;
    node.wait_status("it is over", |status| status["state"] == "enforcing")?;
    stops_within_a_second(&mut node)
}

/// One thread of the daemon, stopped by a debugger.
pub(crate) struct Stopped(libc::pid_t);

impl Stopped {
    pub(crate) fn stop(pid: u32, name: &str) -> Result<Self> {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?;
            if fs::read_to_string(task.path().join("comm"))?.trim() == name {
                let id: libc::pid_t = task.file_name().to_string_lossy().parse()?;
                for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
                    // SAFETY: neither request takes memory.
                    if unsafe { libc::ptrace(request, id, 0, 0) } != 0 {
                        return Err(Error::last_os_error()).context("ptrace");
                    }
                }
                return Ok(Self(id));
            }
        }
        bail!("no thread {name}")
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: as above; a thread has to be waited for before it is let go.
        unsafe {
            libc::waitpid(self.0, std::ptr::null_mut(), libc::__WALL);
            libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0);
        }
    }
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_thread_that_does_not_move_is_not_believed() -> Result<()> {
    let node = Node::start("")?;
    let stopped = Stopped::stop(node.pid()?, "kernel")?;
    node.wait_status("it says so", |status| {
        let problems = status["problems"].to_string();
        status["state"] == "degraded"
            && problems.contains("the thread that talks to the kernel has not responded")
    })?;
    assert_eq!(node.opb(&["status"])?.status.code(), Some(1));
    drop(stopped);
    node.wait_status("it moves again", |status| status["state"] == "enforcing")?;
    // A process with a debugger is gone only when the debugger has seen the end of each thread.
    let stopped = Stopped::stop(node.pid()?, "kernel")?;
    let mut waits = node.command(&["subscriber", "list"]).spawn()?;
    thread::sleep(Duration::from_millis(300));
    let (start, pid) = (Instant::now(), node.pid()?);
    node.signal(Signal::SIGTERM)?;
    let gone = wait_until(LIMIT, || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Ok(stat.contains(") Z ").then_some(()))
    })?;
    gone.context("it stops")?;
    ensure!(start.elapsed() < Duration::from_millis(1500), "it took {:?}", start.elapsed());
    drop(stopped);
    waits.wait()?;
    Ok(())
}

/// The reader of the log lines has stopped reading.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn log_lines_that_nobody_reads_stop_nothing() -> Result<()> {
    let node = Node::prepare("")?;
    let (reader, mut writer) = std::io::pipe()?;
    let mut command = node.command(&["run", "--config"]);
    command.arg(node.path("opb.yaml")).env("OPB_LOG", "info");
    command.stderr(writer.try_clone()?);
    let mut daemon = command.spawn()?;
    let enforces = || Ok(node.opb(&["status"]).is_ok_and(|it| it.status.success()).then_some(()));
    let result = (|| {
        wait_until(LIMIT, enforces)?.context("it enforces")?;
        // Until there is no room left.
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        while writer.write(&[b'\n'; 4096]).is_ok() {}
        while writer.write(b"\n").is_ok() {}
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))?;
        for _ in 0..20 {
            let took = time(&node, &["reload"])?;
            ensure!(took < Duration::from_secs(1), "a reload took {took:?}");
        }
        signal::kill(nix::unistd::Pid::from_raw(daemon.id() as i32), Signal::SIGTERM)?;
        let gone = wait_until(Duration::from_millis(1500), || Ok(daemon.try_wait()?))?;
        gone.context("it stops")?;
        Ok(())
    })();
    let _ = daemon.kill();
    daemon.wait()?;
    drop(reader);
    result
}
