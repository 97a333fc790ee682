//! What is pinned, held once more by the running process: a bpffs that is unmounted, or pins that somebody removes, must not
//! take the filter with them.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::LazyLock,
};

use nix::{
    errno::Errno,
    libc,
    sys::resource::{Resource, getrlimit, rlim_t, setrlimit},
    unistd::Pid,
};

use super::{Error, pins::Pins, sys};

/// How many descriptors this process might have when it started, and how many it may have at most. Programs that it starts
/// are to have no more.
pub fn descriptors_at_start() -> (rlim_t, rlim_t) {
    static LIMITS: LazyLock<(rlim_t, rlim_t)> =
        LazyLock::new(|| getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default());
    *LIMITS
}

/// Limits the descriptors of a process that this one has started.
pub fn limit_descriptors(pid: Pid, (soft, hard): (rlim_t, rlim_t)) -> io::Result<()> {
    let limits = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: reads one structure, and writes none.
    let result = unsafe {
        libc::prlimit(pid.as_raw(), libc::RLIMIT_NOFILE, &raw const limits, std::ptr::null_mut())
    };
    match Errno::result(result) {
        // It has ended already.
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Descriptors of everything that is pinned.
pub(super) struct Held {
    /// Every map of [`Pins::maps`], with the path of its pin.
    maps: Vec<(PathBuf, OwnedFd)>,
    /// By the names of the pins.
    links: BTreeMap<String, Link>,
}

/// A pinned link, or the program that stands for a filter on clsact.
struct Link {
    object: OwnedFd,
    /// The program that was on the hook when the link was put there. None on clsact.
    program: Option<u32>,
}

impl Link {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let object = sys::open_pin(&path).map_err(Error::path("open", path))?;
        let program = sys::link_target(object.as_fd()).ok().map(|target| target.program);
        Ok(Self { object, program })
    }
}

impl Held {
    pub(super) fn new(pins: &Pins) -> Result<Self, Error> {
        // One descriptor a link, of which a node with thousands of sessions has many: services start with room for 1024.
        let (_, most) = descriptors_at_start();
        if most > 0 {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
        }
        let open = |(_, path): (_, PathBuf)| match sys::open_pin(&path) {
            Ok(map) => Ok((path, map)),
            Err(error) => Err(Error::path("open", path)(error)),
        };
        let maps = pins.maps().into_iter().map(open).collect::<Result<_, _>>()?;
        let mut held = Self { maps, links: BTreeMap::new() };
        held.follow(pins, &[])?;
        Ok(held)
    }

    /// Holds what is pinned now. Of the interfaces in `new` the links may be other ones under the same name.
    pub(super) fn follow(&mut self, pins: &Pins, new: &[u32]) -> Result<(), Error> {
        let pinned = pins.links()?;
        let is_new = |name: &str| {
            let index = name.rsplit('~').next().and_then(|index| index.parse().ok());
            index.is_some_and(|index| new.contains(&index))
        };
        let mut before = std::mem::take(&mut self.links);
        for name in pinned {
            let known = before.remove(&name).filter(|_| !is_new(&name));
            let link = match known {
                Some(link) => link,
                None => Link::open(pins.link(&name))?,
            };
            self.links.insert(name, link);
        }
        Ok(())
    }

    /// Whether the link with that name is on interface `index` with the program that was put there. One system call.
    pub(super) fn is_attached(&self, name: &str, index: u32) -> Result<bool, Error> {
        let Some(link) = self.links.get(name) else { return Ok(false) };
        let target = sys::link_target(link.object.as_fd())
            .map_err(Error::call("to say where a link is attached"))?;
        Ok(target.interface == index && Some(target.program) == link.program)
    }

    /// Pins again what is not pinned any more. Whether there was anything.
    pub(super) fn repair(&self, pins: &mut Pins) -> Result<bool, Error> {
        if pins.are_there(self.links.len()) {
            return Ok(false);
        }
        pins.renew()?;
        let maps = self.maps.iter().map(|(path, map)| (path.clone(), map));
        let links = self.links.iter().map(|(name, link)| (pins.link(name), &link.object));
        for (path, object) in maps.chain(links).filter(|(path, _)| !path.exists()) {
            sys::pin(object.as_fd(), &path).map_err(Error::path("pin", path))?;
        }
        Ok(true)
    }
}
