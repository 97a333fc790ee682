//! Loading the BPF programs.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, MapData, MapError},
    programs::{ProgramError, SchedClassifier, Xdp},
};
use aya_log::EbpfLogger;
use opb_common::settings::{Control, PortSet, Settings};
use tracing::Level;

use super::Error;
use crate::image::{Image, port_set};

/// The object that the build script made of opb-ebpf.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/opb-ebpf"));

/// Names of the programs, by which they are recognised.
pub(super) const XDP_PROGRAM: &str = "opb_xdp";
pub(super) const TC_PROGRAM: &str = "opb_tc";

/// Debug lines of one program.
pub type Logs = EbpfLogger<&'static dyn log::Log>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Xdp,
    Tc,
}

/// The ports whose packets the programs judge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ports {
    upstream: Vec<u16>,
    downstream: Vec<u16>,
}

impl Ports {
    pub(super) fn of(image: &Image) -> Self {
        Self {
            upstream: image.upstream_ports().to_vec(),
            downstream: image.downstream_ports().to_vec(),
        }
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        let both = |a: &[u16], b: &[u16]| [a, b].concat();
        Self {
            upstream: both(&self.upstream, &other.upstream),
            downstream: both(&self.downstream, &other.downstream),
        }
    }

    fn control(&self) -> ControlBytes {
        let set = |ports: &[u16]| -> PortSet { *port_set(ports) };
        ControlBytes(Control {
            zero: 0,
            upstream: set(&self.upstream),
            downstream: set(&self.downstream),
        })
    }
}

/// [`Control`] for aya, whose `Pod` cannot be implemented for a foreign type.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct ControlBytes(pub(super) Control);

// SAFETY: `Control` is plain old data (it is `bytemuck::Pod`).
unsafe impl Pod for ControlBytes {}

/// One instance of the object, with its one program loaded.
pub(super) struct Instance {
    ebpf: Ebpf,
    kind: Kind,
    /// Whether its source of debug lines has been handed out.
    is_read: bool,
}

impl Instance {
    pub(super) fn load(
        kind: Kind,
        settings: Settings,
        maps: &[(&'static str, PathBuf)],
        log: Option<Level>,
    ) -> Result<Self, Error> {
        let level = log.map_or(0u8, |level| match level {
            Level::ERROR => 1,
            Level::WARN => 2,
            Level::INFO => 3,
            Level::DEBUG => 4,
            Level::TRACE => 5,
        });
        let mut loader = EbpfLoader::new();
        for (name, pin) in maps {
            loader.map_pin_path(name, pin);
        }
        let ebpf = loader
            .override_global("SETTINGS", &settings.0, true)
            .override_global(aya_log::LEVEL, &level, true)
            .load(OBJECT)
            .map_err(|error| Error::Load(Box::new(error)))?;
        let mut instance = Self { ebpf, kind, is_read: false };
        match kind {
            Kind::Xdp => instance.xdp()?.load(),
            Kind::Tc => instance.tc()?.load(),
        }
        .map_err(Error::program(instance.name()))?;
        Ok(instance)
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Xdp => XDP_PROGRAM,
            Kind::Tc => TC_PROGRAM,
        }
    }

    pub(super) fn xdp(&mut self) -> Result<&mut Xdp, Error> {
        self.program(XDP_PROGRAM)
    }

    pub(super) fn tc(&mut self) -> Result<&mut SchedClassifier, Error> {
        self.program(TC_PROGRAM)
    }

    fn program<'a, P>(&'a mut self, name: &'static str) -> Result<&'a mut P, Error>
    where
        &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
    {
        let program = self.ebpf.program_mut(name).map(TryInto::try_into);
        program.unwrap_or(Err(ProgramError::NotLoaded)).map_err(Error::program(name))
    }

    /// The writable data of the instance.
    pub(super) fn control(&mut self) -> Result<Array<&mut MapData, ControlBytes>, Error> {
        self.section(".data.control")
    }

    /// Where it stores the outcome of the last packet, if its settings say so.
    pub(super) fn last(&mut self) -> Result<Array<&mut MapData, u64>, Error> {
        self.section(".data.trace")
    }

    fn section<T: Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, T>, Error> {
        let map = self.ebpf.map_mut(name).ok_or(MapError::KeyNotFound)?;
        Ok(map.try_into()?)
    }

    pub(super) fn set_ports(&mut self, ports: &Ports) -> Result<(), Error> {
        Ok(self.control()?.set(0, ports.control(), 0)?)
    }
}

/// The loaded instances: one for each kind and settings, shared by all interfaces that need the
/// same.
pub(super) struct Programs {
    maps: Vec<(&'static str, PathBuf)>,
    ports: Ports,
    log: Option<Level>,
    /// Settings that every instance gets in addition.
    pub(super) also: Settings,
    instances: HashMap<(Kind, u32), Instance>,
}

impl Programs {
    pub(super) fn new(
        maps: Vec<(&'static str, PathBuf)>,
        ports: Ports,
        log: Option<Level>,
    ) -> Self {
        Self { maps, ports, log, also: Settings::default(), instances: HashMap::new() }
    }

    pub(super) fn get(&mut self, kind: Kind, settings: Settings) -> Result<&mut Instance, Error> {
        use std::collections::hash_map::Entry;
        let settings = settings.with(self.also);
        match self.instances.entry((kind, settings.0)) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let mut instance = Instance::load(kind, settings, &self.maps, self.log)?;
                instance.set_ports(&self.ports)?;
                Ok(entry.insert(instance))
            }
        }
    }

    /// Loads the missing ones of `wanted` in parallel: the verifier takes about 25 ms for each.
    /// Returns the failures.
    pub(super) fn preload(&mut self, wanted: impl Iterator<Item = (Kind, Settings)>) -> Vec<Error> {
        let keys = wanted.map(|(kind, settings)| (kind, settings.with(self.also).0));
        let missing: BTreeSet<_> = keys.filter(|key| !self.instances.contains_key(key)).collect();
        let missing: Vec<_> = missing.into_iter().collect();
        let next = AtomicUsize::new(0);
        let work = || {
            let number = || next.fetch_add(1, Ordering::Relaxed);
            let keys = std::iter::from_fn(|| missing.get(number()).copied());
            let load = |(kind, settings)| {
                let result = Instance::load(kind, Settings(settings), &self.maps, self.log);
                ((kind, settings), result)
            };
            keys.map(load).collect::<Vec<_>>()
        };
        let loaded: Vec<_> = thread::scope(|scope| {
            let threads = thread::available_parallelism().map_or(1, usize::from);
            // If no thread can be started, this one does all of the work.
            let spawn =
                |_| thread::Builder::new().name("load".to_owned()).spawn_scoped(scope, work).ok();
            let others: Vec<_> = (1..threads.min(missing.len())).map_while(spawn).collect();
            let mut loaded = work();
            others.into_iter().for_each(|other| loaded.extend(other.join().unwrap_or_default()));
            loaded
        });
        let mut errors = Vec::new();
        for (key, result) in loaded {
            let ready = result.and_then(|mut instance| {
                instance.set_ports(&self.ports)?;
                Ok(instance)
            });
            match ready {
                Ok(instance) => drop(self.instances.insert(key, instance)),
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    pub(super) fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Sets the ports of every instance, and of later ones.
    pub(super) fn set_ports(&mut self, ports: &Ports) -> Result<(), Error> {
        for instance in self.instances.values_mut() {
            instance.set_ports(ports)?;
        }
        self.ports = ports.clone();
        Ok(())
    }

    pub(super) fn logs(&mut self) -> Result<Vec<Logs>, Error> {
        if self.log.is_none() {
            return Ok(Vec::new());
        }
        let unread = self.instances.values_mut().filter_map(|instance| {
            (!std::mem::replace(&mut instance.is_read, true)).then_some(&mut instance.ebpf)
        });
        unread.map(|ebpf| EbpfLogger::init(ebpf).map_err(Error::Log)).collect()
    }
}
