//! The pin guard: the running process holds descriptors of everything that is pinned. If the bpffs
//! is unmounted or pins are removed, the filter stays, and the guard pins everything again.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use super::{Error, descriptors, links::LinkName, pins::Pins, sys};

/// Descriptors of everything that is pinned.
pub(super) struct PinGuard {
    /// Every map of [`Pins::maps`], with the path of its pin.
    maps: Vec<(PathBuf, OwnedFd)>,
    /// By the name of the pin.
    links: BTreeMap<String, Link>,
}

/// A pinned link, or the pinned program of a filter on clsact.
struct Link {
    object: OwnedFd,
    /// The id of the program when the link was pinned. `None` on clsact.
    program: Option<u32>,
}

impl Link {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let object = sys::open_pin(&path).map_err(Error::path("open", path))?;
        let program = sys::link_target(object.as_fd()).ok().map(|target| target.program);
        Ok(Self { object, program })
    }
}

/// What [`PinGuard::repair`] did.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    NotNeeded,
    Done,
}

impl PinGuard {
    pub(super) fn new(pins: &Pins) -> Result<Self, Error> {
        // One descriptor a link: a node with thousands of sessions needs more than the usual soft
        // limit of 1024.
        descriptors::raise_limit();
        let open = |(_, path): (_, PathBuf)| match sys::open_pin(&path) {
            Ok(map) => Ok((path, map)),
            Err(error) => Err(Error::path("open", path)(error)),
        };
        let maps = pins.maps().into_iter().map(open).collect::<Result<_, _>>()?;
        let mut guard = Self { maps, links: BTreeMap::new() };
        guard.follow(pins, &[])?;
        Ok(guard)
    }

    /// Holds what is pinned now. Links of the interfaces in `new` are opened again: another link
    /// may have the same name.
    pub(super) fn follow(&mut self, pins: &Pins, new: &[u32]) -> Result<(), Error> {
        let pinned = pins.links()?;
        let is_new =
            |name: &str| LinkName::parse(name).is_some_and(|name| new.contains(&name.index));
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

    /// Whether the link with that name is on interface `index`, with the program that was attached.
    /// One system call.
    pub(super) fn is_attached(&self, name: &str, index: u32) -> Result<bool, Error> {
        let Some(link) = self.links.get(name) else { return Ok(false) };
        let target = sys::link_target(link.object.as_fd())
            .map_err(Error::call("to say where a link is attached"))?;
        Ok(target.interface == index && Some(target.program) == link.program)
    }

    /// Pins again what is no longer pinned.
    pub(super) fn repair(&self, pins: &mut Pins) -> Result<Repair, Error> {
        if pins.are_there(self.links.len()) {
            return Ok(Repair::NotNeeded);
        }
        pins.renew()?;
        let maps = self.maps.iter().map(|(path, map)| (path.clone(), map));
        let links = self.links.iter().map(|(name, link)| (pins.link(name), &link.object));
        for (path, object) in maps.chain(links).filter(|(path, _)| !path.exists()) {
            sys::pin(object.as_fd(), &path).map_err(Error::path("pin", path))?;
        }
        Ok(Repair::Done)
    }
}
