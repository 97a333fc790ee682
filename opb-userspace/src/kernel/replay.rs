//! Single packets through the real program, for `opb replay` and for the tests.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use aya::programs::{TestRun, TestRunOptions};
use opb_common::{outcome::Outcome, settings::Settings};

use super::{
    Error, counters,
    pins::SightingPins,
    policy::PolicySlot,
    programs::{Instance, Kind, Ports},
    sighting, sys,
};
use crate::image::Image;

/// The hooks that a packet can be run at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayHook {
    Xdp,
    Tc,
}

/// A program instance, a policy and counters that nobody else sees, and that end with this value.
pub struct Replay {
    instance: Instance,
    /// Where policy and counters are pinned, for the programs to find them.
    _bpffs: OwnedFd,
}

impl Replay {
    pub fn new(image: &Image, settings: Settings, hook: ReplayHook) -> Result<Self, Error> {
        let bpffs = sys::detached_bpffs().map_err(Error::call("a BPF file system"))?;
        let root = PathBuf::from(format!("/proc/self/fd/{}", bpffs.as_raw_fd()));
        let (policy, counters) = (root.join("policy"), root.join("counters"));
        PolicySlot::open(&policy)?.publish(image)?;
        counters::open(&counters)?;
        let kind = match hook {
            ReplayHook::Xdp => Kind::Xdp,
            ReplayHook::Tc => Kind::Tc,
        };
        let mut maps = vec![("POLICY", policy), ("COUNTERS", counters)];
        if settings.has(Settings::SIGHT) {
            sighting::open(&SightingPins::below(&root))?;
            maps.extend(SightingPins::below(&root).maps());
        }
        let mut instance = Instance::load(kind, settings.with(Settings::TRACE), &maps, None)?;
        instance.set_ports(&Ports::of(image))?;
        Ok(Self { instance, _bpffs: bpffs })
    }

    /// The outcome of one frame of at least 14 bytes.
    pub fn run(&mut self, frame: &[u8]) -> Result<Outcome, Error> {
        let mut control = self.instance.control()?;
        let mut value = control.get(&0, 0)?;
        if value.0.last != 0 {
            value.0.last = 0;
            control.set(0, value, 0)?;
        }
        let forwards = self.test_run(frame, 1)?.0;
        let last = self.instance.control()?.get(&0, 0)?.0.last;
        let outcome = if last == 0 { Some(Outcome::OTHER) } else { Outcome::unpack(last as u32) };
        outcome.filter(|outcome| outcome.verdict.forwards() == forwards).ok_or_else(|| {
            Error::call("to say what it did")(io::Error::other(
                "no outcome for what the program returned",
            ))
        })
    }

    /// Instructions that the verifier walked to accept the program.
    pub fn verified_instructions(&mut self) -> Result<Option<u32>, Error> {
        let name = self.instance.name();
        let info = match name {
            super::programs::XDP_PROGRAM => self.instance.xdp()?.info(),
            _ => self.instance.tc()?.info(),
        };
        Ok(info.map_err(Error::program(name))?.verified_instruction_count())
    }

    /// Runs the program `repeat` times on one frame: whether it forwards, and nanoseconds a run.
    pub fn test_run(&mut self, frame: &[u8], repeat: u32) -> Result<(bool, f64), Error> {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        let name = self.instance.name();
        let (result, forwards): (_, fn(u32) -> bool) = match name {
            super::programs::XDP_PROGRAM => {
                (self.instance.xdp()?.test_run(options), |action| action == 2)
            }
            _ => (self.instance.tc()?.test_run(options), |action| action as i32 == -1),
        };
        let result = result.map_err(Error::program(name))?;
        Ok((forwards(result.return_value), result.duration.as_nanos() as f64))
    }
}
