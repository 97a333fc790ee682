//! Single packets through the real program, for `opb replay` and for the tests.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use aya::programs::{ProgramFd, TestRun, TestRunOptions};
use opb_common::{bypass::Entry, outcome::Outcome, settings::Settings};

use super::{
    CounterRow, Error,
    bypass::{self, Bypasses},
    counters::Counters,
    observation,
    pins::{self, ObservationPins, PolicyPins},
    policy::{PolicyMaps, Staged},
    programs::{Instance, Kind, Ports},
    sys,
};
use crate::image::{GroupIds, Image};

/// The hooks for which a packet can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayHook {
    Xdp,
    Tc,
}

/// A program instance, a policy and counters of its own. They end with this value.
pub struct Replay {
    instance: Instance,
    counters: Counters,
    bypasses: Bypasses,
    /// Where policy and counters are pinned, so that the programs find them.
    _bpffs: OwnedFd,
}

impl Replay {
    pub fn new(image: &Image, settings: Settings, hook: ReplayHook) -> Result<Self, Error> {
        let (replay, mut policy) = Self::load(image, settings.with(Settings::TRACE), hook)?;
        policy.publish(Staged::new(image.nodes())?)?;
        Ok(replay)
    }

    /// The same program as on an interface, for benchmarks. It stores no outcome, so
    /// [`Replay::run`] does not work.
    pub fn untraced(image: &Image, settings: Settings, hook: ReplayHook) -> Result<Self, Error> {
        let (replay, mut policy) = Self::load(image, settings, hook)?;
        policy.publish(Staged::new(image.nodes())?)?;
        Ok(replay)
    }

    /// Like [`Replay::new`], but before a policy is published. The ports are those of `image`.
    pub fn without_policy(
        image: &Image,
        settings: Settings,
        hook: ReplayHook,
    ) -> Result<Self, Error> {
        Ok(Self::load(image, settings.with(Settings::TRACE), hook)?.0)
    }

    fn load(
        image: &Image,
        settings: Settings,
        hook: ReplayHook,
    ) -> Result<(Self, PolicyMaps), Error> {
        let bpffs = sys::detached_bpffs().map_err(Error::call("a BPF file system"))?;
        let root = PathBuf::from(format!("/proc/self/fd/{}", bpffs.as_raw_fd()));
        let counters = root.join("counters");
        let policy = PolicyMaps::open(&PolicyPins::below(&root))?;
        let read = Counters::open(&counters)?;
        let kind = match hook {
            ReplayHook::Xdp => Kind::Xdp,
            ReplayHook::Tc => Kind::Tc,
        };
        let pin = pins::bypass(&root);
        let bypasses = Bypasses::open(&pin)?;
        let mut maps = vec![("COUNTERS", counters), ("BYPASS", pin)];
        maps.extend(PolicyPins::below(&root).maps());
        if settings.has(Settings::OBSERVE) {
            observation::open(&ObservationPins::below(&root))?;
            maps.extend(ObservationPins::below(&root).maps());
        }
        let mut instance = Instance::load(kind, settings, &maps, None)?;
        instance.set_ports(&Ports::of(image))?;
        Ok((Self { instance, counters: read, bypasses, _bpffs: bpffs }, policy))
    }

    /// The counters of the frames so far. `groups` has the names of the groups.
    #[must_use]
    pub fn counters(&self, groups: &GroupIds) -> Vec<CounterRow> {
        self.counters.by_group(groups)
    }

    /// Starts a bypass of a group id, 0 for everybody, that ends after `period`; a period of zero
    /// is over at once.
    pub fn bypass(&self, group: u16, period: Duration) {
        let until = bypass::now().saturating_add(period.as_nanos() as u64);
        self.bypasses.write(group.into(), Entry { until, ..Entry::NONE });
    }

    /// The program, so that another one can call it.
    pub fn program(&mut self) -> Result<&ProgramFd, Error> {
        let name = self.instance.name();
        let fd = match self.instance.kind() {
            Kind::Xdp => self.instance.xdp()?.fd(),
            Kind::Tc => self.instance.tc()?.fd(),
        };
        fd.map_err(Error::program(name))
    }

    /// The program as the kernel runs it, before it is compiled: 8 bytes an instruction.
    pub fn translated(&mut self) -> Result<Vec<u8>, Error> {
        let fd = self.program()?.as_fd();
        sys::translated(fd).map_err(Error::call("to show a program"))
    }

    /// The outcome of one frame of at least 14 bytes.
    pub fn run(&mut self, frame: &[u8]) -> Result<Outcome, Error> {
        let forwards = self.test_run(frame, 1)?.0;
        let mut trace = self.instance.last()?;
        let last = trace.get(&0, 0)?;
        if last != 0 {
            trace.set(0, 0, 0)?;
        }
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
        let info = match self.instance.kind() {
            Kind::Xdp => self.instance.xdp()?.info(),
            Kind::Tc => self.instance.tc()?.info(),
        };
        Ok(info.map_err(Error::program(name))?.verified_instruction_count())
    }

    /// Runs the program `repeat` times on one frame: whether it forwards, and nanoseconds a run.
    pub fn test_run(&mut self, frame: &[u8], repeat: u32) -> Result<(bool, f64), Error> {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        let name = self.instance.name();
        let (result, forwards): (_, fn(u32) -> bool) = match self.instance.kind() {
            Kind::Xdp => (self.instance.xdp()?.test_run(options), |action| action == 2),
            Kind::Tc => (self.instance.tc()?.test_run(options), |action| action as i32 == -1),
        };
        let result = result.map_err(Error::program(name))?;
        Ok((forwards(result.return_value), result.duration.as_nanos() as f64))
    }
}
