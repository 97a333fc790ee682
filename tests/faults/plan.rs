//! Which call fails, how, and for how long: all of them, a sample of them, or one by name.

use std::{fmt, str::FromStr};

use anyhow::{Context as _, Error, Result, bail};
use nix::errno::Errno;

/// As far as a fault may be from the moment from which calls are counted.
pub(crate) const FARTHEST: u32 = 200;

/// A class of system calls, and what they are made on, because errors depend on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Open,
    ReadFile,
    ReadSocket,
    WriteFile,
    WriteSocket,
    Sync,
    Bpf,
    Socket,
    Accept,
    Clone,
}

impl Kind {
    pub(crate) const ALL: [Self; 10] = [
        Self::Open,
        Self::ReadFile,
        Self::ReadSocket,
        Self::WriteFile,
        Self::WriteSocket,
        Self::Sync,
        Self::Bpf,
        Self::Socket,
        Self::Accept,
        Self::Clone,
    ];

    /// Errors that the manual pages name and a healthy program can meet. Not those that are lies about the world or mistakes of
    /// the caller: a file that is there is never ENOENT, a good pointer never EFAULT; EAGAIN of a socket promises an event.
    pub(crate) const fn errors(self) -> &'static [Errno] {
        use Errno::*;
        match self {
            Self::Open => &[EACCES, EINTR, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC, EROFS],
            Self::ReadFile => &[EINTR, EIO, ENOMEM],
            Self::ReadSocket => &[ECONNRESET, EINTR, ENOBUFS, ENOMEM],
            Self::WriteFile => &[EDQUOT, EFBIG, EINTR, EIO, ENOSPC],
            Self::WriteSocket => &[ECONNRESET, EINTR, ENOBUFS, ENOMEM, EPIPE],
            Self::Sync => &[EDQUOT, EINTR, EIO, ENOSPC, EROFS],
            Self::Bpf => {
                &[E2BIG, EAGAIN, EBUSY, EINTR, EINVAL, EMFILE, ENFILE, ENOMEM, ENOSPC, EPERM]
            }
            Self::Socket => &[EACCES, EAFNOSUPPORT, EMFILE, ENFILE, ENOBUFS, ENOMEM],
            Self::Accept => &[ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM],
            Self::Clone => &[EAGAIN, ENOMEM],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lasts {
    OneCall,
    UntilItEnds,
}

/// From when on calls are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// The start of the process.
    Start,
    /// The daemon enforces.
    Up,
}

/// `KIND:ERROR:FIRST:LASTS:SINCE`, as in `Bpf:ENOMEM:17:OneCall:Start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) errno: Errno,
    /// The first call that fails, counted from 1.
    pub(crate) first: u32,
    pub(crate) lasts: Lasts,
    pub(crate) since: Since,
}

/// How many calls of each kind the daemon makes when nothing fails, from its start and from when it is up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Calls {
    pub(crate) start: [u32; Kind::ALL.len()],
    pub(crate) up: [u32; Kind::ALL.len()],
}

impl Calls {
    fn within_reach(&self, kind: Kind, since: Since) -> u32 {
        let counts = match since {
            Since::Start => &self.start,
            Since::Up => &self.up,
        };
        counts[kind as usize].min(FARTHEST)
    }
}

/// Each error of each kind, in every way, at every call that there is: the long form.
pub(crate) fn all(calls: &Calls) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (kind, errno) in pairs() {
        for lasts in lasting(errno) {
            for since in [Since::Start, Since::Up] {
                let numbers = 1..=calls.within_reach(kind, since);
                faults.extend(numbers.map(|first| Fault {
                    kind,
                    errno,
                    first,
                    lasts: *lasts,
                    since,
                }));
            }
        }
    }
    faults
}

/// Each error of each kind once, in one of its ways, at any call; and how many of them have to be tried, for each kind and each
/// error to be among them.
pub(crate) fn sample(calls: &Calls, random: &mut fastrand::Rng) -> (Vec<Fault>, usize) {
    let mut faults: Vec<_> = pairs().map(|pair| any(pair, calls, random)).collect();
    random.shuffle(&mut faults);
    let (mut first, mut rest) = (Vec::<Fault>::new(), Vec::new());
    for fault in faults {
        let known = first.iter().any(|it| it.kind == fault.kind)
            && first.iter().any(|it| it.errno == fault.errno);
        if known { rest.push(fault) } else { first.push(fault) }
    }
    let needed = first.len();
    first.append(&mut rest);
    (first, needed)
}

fn any((kind, errno): (Kind, Errno), calls: &Calls, random: &mut fastrand::Rng) -> Fault {
    let lasting = lasting(errno);
    let lasts = lasting[random.usize(..lasting.len())];
    let mut since = if random.bool() { Since::Start } else { Since::Up };
    if calls.within_reach(kind, since) == 0 {
        since = if since == Since::Up { Since::Start } else { Since::Up };
    }
    let first = random.u32(1..=calls.within_reach(kind, since).max(1));
    Fault { kind, errno, first, lasts, since }
}

fn pairs() -> impl Iterator<Item = (Kind, Errno)> {
    Kind::ALL.into_iter().flat_map(|kind| kind.errors().iter().map(move |errno| (kind, *errno)))
}

/// A signal does not interrupt every call from now on.
fn lasting(errno: Errno) -> &'static [Lasts] {
    if errno == Errno::EINTR { &[Lasts::OneCall] } else { &[Lasts::OneCall, Lasts::UntilItEnds] }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, errno, first, lasts, since } = self;
        write!(f, "{kind:?}:{errno:?}:{first}:{lasts:?}:{since:?}")
    }
}

impl FromStr for Fault {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<_> = text.split(':').collect();
        let [kind, errno, first, lasts, since] = parts[..] else {
            bail!("expected KIND:ERROR:FIRST:LASTS:SINCE");
        };
        let named = |known: &Kind| format!("{known:?}") == kind;
        let kind = Kind::ALL.into_iter().find(named).context("an unknown kind")?;
        let named = |known: &&Errno| format!("{known:?}") == errno;
        let errno = *kind.errors().iter().find(named).context("not an error of this kind")?;
        let named = |known: &Lasts| format!("{known:?}") == lasts;
        let lasts = [Lasts::OneCall, Lasts::UntilItEnds].into_iter().find(named);
        let named = |known: &Since| format!("{known:?}") == since;
        let since = [Since::Start, Since::Up].into_iter().find(named);
        Ok(Self {
            kind,
            errno,
            first: first.parse()?,
            lasts: lasts.context("neither OneCall nor UntilItEnds")?,
            since: since.context("neither Start nor Up")?,
        })
    }
}
