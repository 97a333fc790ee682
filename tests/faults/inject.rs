//! A process whose system calls somebody else answers: each call of the classes in [`Kind`] waits for the supervisor, which lets
//! the kernel do it or answers with an error (seccomp user notification). All threads, from the dynamic loader on.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use nix::{errno::Errno, libc, poll};
use opb_lab::process::Process;

use crate::plan::{Fault, Kind, Lasts};

/// The number under which the child keeps its end until we have a copy: above all that it opens by itself.
const LISTENER: libc::c_int = 200;

const OPEN: &[libc::c_long] = &[libc::SYS_openat, libc::SYS_openat2];
const READ: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
];
const WRITE: &[libc::c_long] = &[
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
];
const SYNC: &[libc::c_long] = &[libc::SYS_fsync, libc::SYS_fdatasync];
const CLONE: &[libc::c_long] = &[libc::SYS_clone, libc::SYS_clone3];
const ACCEPT: &[libc::c_long] = &[libc::SYS_accept, libc::SYS_accept4];

/// What the supervisor does, and what it has seen.
#[derive(Default)]
struct Rules {
    fault: Mutex<Option<Fault>>,
    /// Calls of each kind since the fault was armed.
    counts: [AtomicU32; Kind::ALL.len()],
    /// Calls that were answered with the error.
    hits: AtomicU32,
}

/// The process, and the thread that answers its calls.
pub(crate) struct Supervised {
    // Ended before its supervisor, in this order.
    process: Process,
    rules: Arc<Rules>,
    supervisor: Option<JoinHandle<Result<()>>>,
}

impl Supervised {
    /// With a supervisor of calls of these kinds: each question costs time.
    pub(crate) fn spawn(
        command: &mut Command,
        log: &Path,
        kinds: &[Kind],
        fault: Option<Fault>,
    ) -> Result<Self> {
        install(command, kinds);
        let process = Process::spawn("opb run", command, log)?;
        let rules = Arc::new(Rules { fault: Mutex::new(fault), ..Rules::default() });
        let supervisor = Supervisor::of(process.id(), Arc::clone(&rules))?;
        let supervisor = Some(thread::spawn(move || supervisor.answer_all()));
        Ok(Self { process, rules, supervisor })
    }

    /// From now on, and counted from now on; `None` ends what there was.
    pub(crate) fn arm(&self, fault: Option<Fault>) {
        let mut armed = self.rules.fault.lock().unwrap_or_else(PoisonError::into_inner);
        self.rules.counts.iter().for_each(|count| count.store(0, Ordering::SeqCst));
        *armed = fault;
    }

    pub(crate) fn count(&self, kind: Kind) -> u32 {
        self.rules.counts[kind as usize].load(Ordering::SeqCst)
    }

    pub(crate) fn hits(&self) -> u32 {
        self.rules.hits.load(Ordering::SeqCst)
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // Or nobody would answer it, and nothing but SIGKILL would end it.
        let _ = self.process.kill();
        if let Some(Ok(Err(error))) = self.supervisor.take().map(JoinHandle::join) {
            eprintln!("the supervisor of system calls: {error:#}");
        }
    }
}

/// Puts the filter around what `command` will run.
fn install(command: &mut Command, kinds: &[Kind]) {
    let filter = filter(kinds);
    // SAFETY: two system calls on memory that the closure owns; they neither allocate nor lock.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog {
                len: filter.len() as libc::c_ushort,
                filter: filter.as_ptr().cast_mut(),
            };
            // A signal without end does not interrupt a call that we hold: it would be counted twice.
            let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
                | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
            let mode = libc::SECCOMP_SET_MODE_FILTER;
            let listener = libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program);
            let listener = Errno::result(listener)? as libc::c_int;
            // The copy survives exec.
            Errno::result(libc::dup2(listener, LISTENER))?;
            Ok(())
        });
    }
}

const fn calls(kind: Kind) -> &'static [libc::c_long] {
    match kind {
        Kind::Open => OPEN,
        Kind::ReadFile | Kind::ReadSocket => READ,
        Kind::WriteFile | Kind::WriteSocket => WRITE,
        Kind::Sync => SYNC,
        Kind::Clone => CLONE,
        Kind::Bpf => &[libc::SYS_bpf],
        Kind::Socket => &[libc::SYS_socket],
        Kind::Accept => ACCEPT,
    }
}

/// Asks the supervisor about calls of these kinds, and nobody about any other.
fn filter(kinds: &[Kind]) -> Vec<libc::sock_filter> {
    let calls: Vec<libc::c_long> = kinds.iter().flat_map(|kind| calls(*kind)).copied().collect();
    let step = |code: u32, k: u32, jt: u8| libc::sock_filter { code: code as u16, jt, jf: 0, k };
    // The number of the call is the first word.
    let mut steps = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    for (place, call) in calls.iter().enumerate() {
        // Over the comparisons that are left and the return behind them.
        let over = (calls.len() - place) as u8;
        steps.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, *call as u32, over));
    }
    steps.push(step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0));
    steps.push(step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_USER_NOTIF, 0));
    steps
}

struct Supervisor {
    listener: OwnedFd,
    child: OwnedFd,
    rules: Arc<Rules>,
}

impl Supervisor {
    fn of(pid: u32, rules: Arc<Rules>) -> Result<Self> {
        // SAFETY: a system call without pointers; the descriptor is new and ours.
        let child = unsafe { owned(libc::syscall(libc::SYS_pidfd_open, pid, 0)) };
        let child = child.context("pidfd_open")?;
        let listener = copy(&child, LISTENER).context("pidfd_getfd")?;
        Ok(Self { listener, child, rules })
    }

    /// Until the process has ended.
    fn answer_all(&self) -> Result<()> {
        loop {
            let ready = poll::PollFd::new(
                std::os::fd::AsFd::as_fd(&self.listener),
                poll::PollFlags::POLLIN,
            );
            let mut ready = [ready];
            poll::poll(&mut ready, poll::PollTimeout::NONE)?;
            let events = ready[0].revents().unwrap_or(poll::PollFlags::empty());
            if events.contains(poll::PollFlags::POLLHUP) {
                return Ok(());
            }
            match self.answer_one() {
                // The caller is dead.
                Ok(()) | Err(Errno::ENOENT | Errno::EINTR) => {}
                Err(error) => return Err(error).context("a notification"),
            }
        }
    }

    fn answer_one(&self) -> nix::Result<()> {
        // SAFETY: plain numbers, for which zero is a value, and the kernel wants to find zeros.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        let listener = self.listener.as_raw_fd();
        // SAFETY: the kernel writes one notification.
        Errno::result(unsafe {
            libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call)
        })?;
        let error = self.decide(&call);
        let mut answer = libc::seccomp_notif_resp {
            id: call.id,
            val: 0,
            error: error.map_or(0, |errno| -(errno as i32)),
            flags: if error.is_none() { libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32 } else { 0 },
        };
        // SAFETY: the kernel reads one answer.
        Errno::result(unsafe {
            libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer)
        })?;
        Ok(())
    }

    /// The error that the call gets, if any.
    fn decide(&self, call: &libc::seccomp_notif) -> Option<Errno> {
        let kind = self.kind(call)?;
        let fault = self.rules.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.rules.counts[kind as usize].fetch_add(1, Ordering::SeqCst) + 1;
        let fault = fault.filter(|fault| fault.kind == kind)?;
        let hit = match fault.lasts {
            Lasts::OneCall => number == fault.first,
            Lasts::UntilItEnds => number >= fault.first,
        };
        hit.then(|| {
            self.rules.hits.fetch_add(1, Ordering::SeqCst);
            fault.errno
        })
    }

    fn kind(&self, call: &libc::seccomp_notif) -> Option<Kind> {
        let number = libc::c_long::from(call.data.nr);
        let of = |kind: &Kind| calls(*kind).contains(&number);
        // Of the two that are read or written, the first: that of files.
        match Kind::ALL.into_iter().find(of)? {
            kind @ (Kind::ReadFile | Kind::WriteFile) => {
                let (file, socket) = if kind == Kind::ReadFile {
                    (kind, Kind::ReadSocket)
                } else {
                    (kind, Kind::WriteSocket)
                };
                let descriptor = call.data.args[0] as libc::c_int;
                let path = format!("/proc/{}/fd/{descriptor}", call.pid);
                let target = fs::read_link(path).ok()?;
                let target = target.to_string_lossy();
                if target.starts_with('/') {
                    Some(file)
                } else if target.starts_with("socket:") && self.has_a_name(descriptor) {
                    Some(socket)
                } else {
                    // Pipes, pairs and event counters of the runtime with itself: the kernel has no errors for them.
                    None
                }
            }
            kind => Some(kind),
        }
    }

    /// Whether a socket leads out of the process: one of a pair has no name.
    fn has_a_name(&self, descriptor: libc::c_int) -> bool {
        use nix::sys::socket::{SockaddrLike as _, SockaddrStorage, UnixAddr, getsockname};
        let Ok(socket) = copy(&self.child, descriptor) else { return false };
        match getsockname::<SockaddrStorage>(socket.as_raw_fd()) {
            Ok(name) if name.family() == Some(nix::sys::socket::AddressFamily::Unix) => {
                let name = getsockname::<UnixAddr>(socket.as_raw_fd());
                name.is_ok_and(|name| name.path().is_some() || name.as_abstract().is_some())
            }
            Ok(_) => true,
            Err(_) => false,
        }
    }
}

/// Our own copy of another process's descriptor.
fn copy(process: &OwnedFd, descriptor: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: a system call without pointers; the descriptor is new and ours.
    unsafe { owned(libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), descriptor, 0)) }
}

/// # Safety
///
/// A descriptor must be new, and nobody else's.
unsafe fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let raw = Errno::result(result)? as libc::c_int;
    // SAFETY: the caller says so.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
