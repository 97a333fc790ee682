//! Stub of the kernel module: keeps everything in memory, attaches to anything. To be overwritten.
use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
};

use opb_common::{
    image::Node,
    outcome::{Direction, Outcome},
    settings::Settings,
};

use crate::{
    image::{Image, Slots},
    node,
};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("stub")]
    Stub,
}

pub struct Kernel {
    _pins: PathBuf,
    live: Option<Image>,
    attached: Vec<Wanted>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Xdp,
    XdpGeneric,
    Tcx,
    Clsact,
}

impl Hook {
    pub fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub interface: String,
    pub index: u32,
    pub role: node::Role,
    pub direction: Direction,
    pub hook: node::Hook,
    pub unknown_drop: bool,
}

#[derive(Clone, Debug)]
pub struct Attached {
    pub interface: String,
    pub index: u32,
    pub role: node::Role,
    pub direction: Direction,
    pub hook: Hook,
    pub warning: Option<String>,
}

pub struct CounterRow {
    pub group: String,
    pub direction: Direction,
    pub verdict: opb_common::outcome::Verdict,
    pub reason: opb_common::outcome::Reason,
    pub packets: u64,
    pub bytes: u64,
}

pub struct LiveImage(Image);

impl LiveImage {
    pub fn nodes(&self) -> &[Node] {
        self.0.nodes()
    }
    pub fn generation(&self) -> u64 {
        self.0.generation()
    }
    pub fn digest(&self) -> [u8; 16] {
        self.0.digest()
    }
    pub fn slots(&self) -> &Slots {
        self.0.slots()
    }
}

impl Kernel {
    pub fn open(pins: &Path, _log: Option<tracing::Level>) -> Result<Self, Error> {
        Ok(Self { _pins: pins.to_owned(), live: None, attached: vec![] })
    }
    pub fn live(&self) -> Result<Option<LiveImage>, Error> {
        Ok(self.live.clone().map(LiveImage))
    }
    pub fn publish(&mut self, image: &Image) -> Result<(), Error> {
        self.live = Some(image.clone());
        Ok(())
    }
    pub fn attach(&mut self, wanted: &[Wanted]) -> Vec<Result<Attached, (Wanted, Error)>> {
        self.attached.extend_from_slice(wanted);
        let attached = |wanted: &Wanted| {
            Ok(Attached {
                interface: wanted.interface.clone(),
                index: wanted.index,
                role: wanted.role,
                direction: wanted.direction,
                hook: Hook::Tcx,
                warning: None,
            })
        };
        wanted.iter().map(attached).collect()
    }
    pub fn detach_unwanted(&mut self, wanted: &[Wanted]) -> Result<Vec<String>, Error> {
        let gone = self.attached.extract_if(.., |attached| !wanted.contains(attached));
        Ok(gone.map(|wanted| wanted.interface).collect())
    }
    pub fn counters(&self, _slots: &Slots) -> Result<Vec<CounterRow>, Error> {
        Ok(vec![])
    }
    pub fn forward_logs(&mut self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        None
    }
}

pub fn detach(_pins: &Path) -> Result<Vec<String>, Error> {
    Ok(vec![])
}

pub struct Replay;

impl Replay {
    pub fn new(_image: &Image, _settings: Settings, _hook: Hook) -> Result<Self, Error> {
        Err(Error::Stub)
    }
    pub fn run(&mut self, _frame: &[u8]) -> Result<Outcome, Error> {
        Err(Error::Stub)
    }
}
