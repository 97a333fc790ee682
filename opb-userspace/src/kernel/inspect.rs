//! The state of the kernel, of devices and of their hooks, for `opb doctor`. Changes nothing and
//! takes no lock, so a daemon may run at the same time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::MapType;
use aya::programs::{ProgramType, SchedClassifier};
use aya::sys::{is_map_supported, is_program_supported};
use nix::sys::resource::{Resource, getrlimit};

use super::{
    Error,
    flow_tables::{self, FlowTable},
    hook::{Hook, HookDirection, Wanted},
    links::{self, Attachment},
    loaded, pins,
    redirects::{self, Redirector},
    rtnetlink::{self, Device, XdpProgram},
    sys,
};

/// The state of the system and of every device in this network namespace.
pub struct Inspection {
    /// The kernel release, as in `uname -r`.
    pub release: String,
    /// Features that this kernel lacks.
    pub lacks: Vec<Need>,
    /// Why the pin directory cannot be used, if it cannot.
    pub pins: Option<Error>,
    pub memory: Memory,
    pub devices: Vec<Device>,
    pub flow_tables: Vec<FlowTable>,
    /// Programs of ours that are pinned.
    pub ours: Vec<Attachment>,
}

/// A kernel feature that the programs need or profit from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    XdpPrograms,
    TcPrograms,
    MapsOfMaps,
    RingBuffers,
    Tcx,
    Jit,
    Btf,
}

impl Need {
    /// The feature with its verb, as messages need it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::XdpPrograms => "XDP programs are",
            Self::TcPrograms => "TC programs are",
            Self::MapsOfMaps => "maps of maps are",
            Self::RingBuffers => "ring buffers (BPF_MAP_TYPE_RINGBUF) are",
            Self::Tcx => "TCX (Linux 6.6) is",
            Self::Jit => "the BPF compiler (JIT) is",
            Self::Btf => "the kernel's own type information (BTF) is",
        }
    }
}

/// Limits of the memory that maps may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Before Linux 5.11: `RLIMIT_MEMLOCK`, in bytes.
    pub locked: Option<u64>,
    /// Since Linux 5.11: the file of the tightest memory cgroup above the process, and the bytes
    /// left in it.
    pub group: Option<(PathBuf, u64)>,
}

/// What a device or its driver does with packets before a program sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// VLAN tags are taken out of the frame.
    pub rx_vlan: bool,
    pub lro: bool,
    /// GRO in hardware.
    pub gro_hw: bool,
}

/// A program of others that sees packets before ours, or is on the hook instead of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    pub hook: &'static str,
    /// The program as messages name it.
    pub what: String,
}

impl Inspection {
    /// Inspects the system. `process` is the process whose memory limits count: the daemon, or this
    /// one.
    pub fn take(pins: &Path, process: u32) -> Result<Self, Error> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease");
        let release = release.map_err(Error::call("to say its release"))?.trim().to_owned();
        let devices = rtnetlink::devices().map_err(Error::call("to list devices"))?;
        Ok(Self {
            lacks: lacks(),
            pins: pins::check_bpffs(pins).err(),
            memory: Memory::of(&release, process),
            flow_tables: flow_tables::list().map_err(Error::call("to list flow tables"))?,
            ours: links::attachments(pins, &devices)?,
            devices,
            release,
        })
    }

    #[must_use]
    pub fn device(&self, index: u32) -> Option<&Device> {
        self.devices.iter().find(|device| device.index == index)
    }

    /// Our program for `wanted`, if it is on its hook.
    #[must_use]
    pub fn attachment(&self, wanted: &Wanted) -> Option<&Attachment> {
        let fits = |ours: &&Attachment| {
            (ours.index, ours.direction) == (wanted.index, wanted.direction)
                && ours.program.is_some()
        };
        self.ours.iter().find(fits)
    }

    /// XDP programs of others on any device.
    #[must_use]
    pub fn redirectors(&self) -> Vec<Redirector> {
        redirects::find(&self.devices, &self.our_programs())
    }

    fn our_programs(&self) -> Vec<u32> {
        self.ours.iter().filter_map(|ours| ours.program).collect()
    }

    /// Programs of others that see the packets of `wanted` before ours does.
    pub fn foreign(&self, wanted: &Wanted) -> Result<Vec<Foreign>, Error> {
        let ours = self.our_programs();
        let mut found = Vec::new();
        if wanted.is_ingress()
            && let Some(XdpProgram { id, .. }) =
                self.device(wanted.index).and_then(|device| device.xdp)
            && !ours.contains(&id)
        {
            found.push(Foreign { hook: "XDP", what: loaded::name_of(id) });
        }
        let Some(Attachment {
            hook: hook @ (Hook::Tcx | Hook::Clsact), program: Some(own), ..
        }) = self.attachment(wanted)
        else {
            return Ok(found);
        };
        let direction = wanted.hook_direction();
        if !self.lacks.contains(&Need::Tcx) {
            let (_, before) = SchedClassifier::query_tcx(&wanted.interface, direction.tc_type())
                .map_err(Error::program("of others"))?;
            let before = before.iter().take_while(|it| it.id() != *own);
            let before = before.filter(|it| !ours.contains(&it.id()));
            found.extend(before.map(|it| Foreign { hook: "TCX", what: loaded::name(it) }));
        }
        if *hook == Hook::Clsact {
            let filters = rtnetlink::filters(wanted.index, direction);
            let filters = filters.map_err(Error::call("to list filters"))?;
            let before = filters.iter().take_while(|filter| filter.program != Some(*own));
            let before = before.filter(|it| it.program.is_none_or(|id| !ours.contains(&id)));
            found.extend(before.map(|filter| Foreign {
                hook: "clsact",
                what: match filter.program {
                    Some(id) => loaded::name_of(id),
                    None => format!("a `{}` filter of priority {}", filter.kind, filter.priority),
                },
            }));
        }
        Ok(found)
    }
}

impl Device {
    /// The offloads that are on, by its driver.
    pub fn offloads(&self) -> io::Result<Offloads> {
        let active = sys::active_features(&self.name)?;
        let has = |name| active.iter().any(|active| active == name);
        Ok(Offloads {
            rx_vlan: has("rx-vlan-hw-parse"),
            lro: has("rx-lro"),
            gro_hw: has("rx-gro-hw"),
        })
    }
}

impl Memory {
    fn of(release: &str, process: u32) -> Self {
        let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version >= (5, 11) {
            return Self { locked: None, group: group_limit(process) };
        }
        let limit = getrlimit(Resource::RLIMIT_MEMLOCK).ok().map(|(soft, _)| soft);
        Self { locked: limit, group: None }
    }
}

/// The file of the tightest `memory.max` above a process (cgroup v2), and the bytes left in it.
fn group_limit(process: u32) -> Option<(PathBuf, u64)> {
    const ROOT: &str = "/sys/fs/cgroup";
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let path = Path::new(ROOT).join(group);
    let groups = path.ancestors().take_while(|group| group.starts_with(ROOT));
    let left = groups.filter_map(|group| {
        let limit = number(group.join("memory.max"))?; // "max" for none
        let used = number(group.join("memory.current")).unwrap_or(0);
        Some((group.join("memory.max"), limit.saturating_sub(used)))
    });
    left.min_by_key(|(_, left)| *left)
}

/// Features that this kernel lacks. A probe that fails for another reason counts as a missing
/// feature.
fn lacks() -> Vec<Need> {
    // There is no such file where the compiler cannot be switched off.
    let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable");
    let has = [
        (Need::XdpPrograms, is_program_supported(ProgramType::Xdp).unwrap_or(false)),
        (Need::TcPrograms, is_program_supported(ProgramType::SchedClassifier).unwrap_or(false)),
        (Need::MapsOfMaps, is_map_supported(MapType::ArrayOfMaps).unwrap_or(false)),
        (Need::RingBuffers, is_map_supported(MapType::RingBuf).unwrap_or(false)),
        (Need::Tcx, SchedClassifier::query_tcx("lo", HookDirection::Ingress.tc_type()).is_ok()),
        (Need::Jit, jit.map_or(true, |text| text.trim() != "0")),
        (Need::Btf, Path::new("/sys/kernel/btf/vmlinux").exists()),
    ];
    has.into_iter().filter_map(|(need, is_there)| (!is_there).then_some(need)).collect()
}
