//! Stub of the kernel module: keeps everything in memory, attaches to anything. To be overwritten.
use std::path::{Path, PathBuf};

use opb_common::{
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

impl Error {
    pub fn hint(&self) -> Option<String> {
        None
    }
}

pub type Logs = aya_log::EbpfLogger<&'static dyn log::Log>;

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

#[derive(Debug)]
pub struct Refused {
    pub wanted: Wanted,
    pub error: Error,
}

#[derive(Clone, Debug)]
pub struct Attached {
    pub interface: String,
    pub index: u32,
    pub direction: &'static str,
    pub hook: Hook,
    pub warning: Option<String>,
}

#[derive(serde::Serialize)]
pub struct CounterRow {
    pub group: Option<String>,
    pub direction: &'static str,
    pub verdict: &'static str,
    pub reason: &'static str,
    pub packets: u64,
    pub bytes: u64,
}

impl Kernel {
    pub fn open(pins: &Path, _log: Option<tracing::Level>) -> Result<Self, Error> {
        Ok(Self { _pins: pins.to_owned(), live: None, attached: vec![] })
    }
    pub fn live(&self) -> Result<Option<Image>, Error> {
        Ok(self.live.clone())
    }
    pub fn publish(&mut self, image: &Image) -> Result<(), Error> {
        self.live = Some(image.clone());
        Ok(())
    }
    pub fn attach(&mut self, wanted: &[Wanted]) -> Vec<Result<Attached, Refused>> {
        self.attached.extend_from_slice(wanted);
        let attached = |wanted: &Wanted| {
            Ok(Attached {
                interface: wanted.interface.clone(),
                index: wanted.index,
                direction: wanted.direction.name(),
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
    pub fn logs(&mut self) -> Result<Vec<Logs>, Error> {
        Ok(vec![])
    }
}

pub fn detach(_pins: &Path) -> Result<Vec<String>, Error> {
    Ok(vec![])
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayHook {
    Xdp,
    Tc,
}

pub struct Replay;

impl Replay {
    pub fn new(_image: &Image, _settings: Settings, _hook: ReplayHook) -> Result<Self, Error> {
        Err(Error::Stub)
    }
    pub fn run(&mut self, _frame: &[u8]) -> Result<Outcome, Error> {
        Err(Error::Stub)
    }
}
