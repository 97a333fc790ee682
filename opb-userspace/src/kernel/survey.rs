//! What the kernel says of itself, of devices and of what stands on their hooks: for [`crate::doctor`]. Nothing is
//! changed or locked, so that a daemon may run beside it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::MapType;
use aya::programs::{ProgramInfo, ProgramType, SchedClassifier, loaded_programs};
use aya::sys::{is_map_supported, is_program_supported};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::SockProtocol;
use opb_common::outcome::Direction;

use super::attach;
use super::hook::{Hook, Side, Wanted};
use super::link_type::{LinkType, Unreadable};
use super::netlink::{self, Attributes};
use super::redirects::{self, Redirector};
use super::{Error, pins, sys};

/// The system, and every device of this network namespace.
pub struct Survey {
    /// As `uname -r` says it.
    pub release: String,
    /// What this kernel lacks.
    pub lacks: Vec<Need>,
    /// Why the pin directory cannot be used, if that is so.
    pub pins: Option<Error>,
    pub memory: Memory,
    pub devices: Vec<Device>,
    pub flow_tables: Vec<FlowTable>,
    /// What of opb is pinned, and whether it is still where its pin says.
    pub ours: Vec<Place>,
}

/// What the programs need, or are better with.
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
    /// For people.
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

/// How much of the kernel's memory maps may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Before Linux 5.11, by `RLIMIT_MEMLOCK`: bytes.
    pub locked: Option<u64>,
    /// Since then, by memory cgroups: the tightest limit above the process, and bytes left below it.
    pub group: Option<(PathBuf, u64)>,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    pub index: u32,
    /// `vlan`, `bond`, `veth`, …; of physical ones nothing.
    pub kind: Option<String>,
    /// The device that it stands on.
    pub below: Option<u32>,
    /// The bridge or bond that it belongs to.
    pub master: Option<u32>,
    pub link: Result<LinkType, Unreadable>,
    pub xdp: Option<XdpProgram>,
}

/// A program on the XDP hook of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpProgram {
    pub id: u32,
    pub is_generic: bool,
}

/// What a device or its driver does with packets before anybody else sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// VLAN tags are taken out of the frame.
    pub rx_vlan: bool,
    pub lro: bool,
    /// GRO in hardware.
    pub gro_hw: bool,
}

/// An nftables flow table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowTable {
    pub table: String,
    pub name: String,
    pub devices: Vec<String>,
    /// `flags offload`: into the hardware.
    pub hardware: bool,
}

/// A program of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub hook: Hook,
    pub direction: Direction,
    pub index: u32,
    /// Its program, if it is still on the hook.
    pub program: Option<u32>,
}

/// Somebody else's program before ours, or in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    pub hook: &'static str,
    /// What names it.
    pub what: String,
}

impl Survey {
    /// `process` is the one whose memory counts: the daemon, or this one.
    pub fn take(pins: &Path, process: u32) -> Result<Self, Error> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease");
        let release = release.map_err(Error::call("to say its release"))?.trim().to_owned();
        let devices = devices().map_err(Error::call("to list devices"))?;
        Ok(Self {
            lacks: lacks(),
            pins: pins::check_bpffs(pins).err(),
            memory: Memory::of(&release, process),
            flow_tables: flow_tables().map_err(Error::call("to list flow tables"))?,
            ours: attach::places(pins, &devices)?,
            devices,
            release,
        })
    }

    #[must_use]
    pub fn device(&self, index: u32) -> Option<&Device> {
        self.devices.iter().find(|device| device.index == index)
    }

    /// Our program for `wanted`, if it is where it should be.
    #[must_use]
    pub fn place(&self, wanted: &Wanted) -> Option<&Place> {
        let fits = |place: &&Place| {
            (place.index, place.direction) == (wanted.index, wanted.direction)
                && place.program.is_some()
        };
        self.ours.iter().find(fits)
    }

    /// XDP programs of others on any device.
    #[must_use]
    pub fn redirectors(&self) -> Vec<Redirector> {
        let ours: Vec<u32> = self.ours.iter().filter_map(|place| place.program).collect();
        redirects::find(&self.devices, &ours)
    }

    /// Programs of others that see the packets of `wanted` before ours does.
    pub fn foreign(&self, wanted: &Wanted) -> Result<Vec<Foreign>, Error> {
        let side = wanted.side();
        let place = self.place(wanted);
        let ours: Vec<u32> = self.ours.iter().filter_map(|place| place.program).collect();
        let mut found = Vec::new();
        if side == Side::In
            && let Some(XdpProgram { id, .. }) =
                self.device(wanted.index).and_then(|device| device.xdp)
            && !ours.contains(&id)
        {
            found.push(Foreign { hook: "XDP", what: program(id) });
        }
        let Some(Place { hook: hook @ (Hook::Tcx | Hook::Clsact), program: Some(own), .. }) = place
        else {
            return Ok(found);
        };
        if !self.lacks.contains(&Need::Tcx) {
            let (_, before) = SchedClassifier::query_tcx(&wanted.interface, side.tc_type())
                .map_err(Error::program("of others"))?;
            let before = before.iter().take_while(|it| it.id() != *own);
            let before = before.filter(|it| !ours.contains(&it.id()));
            found.extend(before.map(|it| Foreign { hook: "TCX", what: named(it) }));
        }
        if *hook == Hook::Clsact {
            let filters = filters(wanted.index, side).map_err(Error::call("to list filters"))?;
            let before = filters.iter().take_while(|filter| filter.program != Some(*own));
            let before = before.filter(|it| it.program.is_none_or(|id| !ours.contains(&id)));
            found.extend(before.map(|filter| Foreign {
                hook: "clsact",
                what: match filter.program {
                    Some(id) => program(id),
                    None => format!("a `{}` filter of priority {}", filter.kind, filter.priority),
                },
            }));
        }
        Ok(found)
    }
}

impl Device {
    /// What its driver says that it does.
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

/// The tightest `memory.max` above a process (cgroup v2), and what is left below it.
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

/// What this kernel does not have. A probe that fails for another reason is taken for what it could not find.
fn lacks() -> Vec<Need> {
    // Where it cannot be switched off, there is nothing to read.
    let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable");
    let has = [
        (Need::XdpPrograms, is_program_supported(ProgramType::Xdp).unwrap_or(false)),
        (Need::TcPrograms, is_program_supported(ProgramType::SchedClassifier).unwrap_or(false)),
        (Need::MapsOfMaps, is_map_supported(MapType::ArrayOfMaps).unwrap_or(false)),
        (Need::RingBuffers, is_map_supported(MapType::RingBuf).unwrap_or(false)),
        (Need::Tcx, SchedClassifier::query_tcx("lo", Side::In.tc_type()).is_ok()),
        (Need::Jit, jit.map_or(true, |text| text.trim() != "0")),
        (Need::Btf, Path::new("/sys/kernel/btf/vmlinux").exists()),
    ];
    has.into_iter().filter_map(|(need, is_there)| (!is_there).then_some(need)).collect()
}

/// linux/if_link.h
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFLA_XDP: u16 = 43;
/// Those of the modes: driver, generic, hardware.
const IFLA_XDP_PROG_IDS: std::ops::RangeInclusive<u16> = 5..=7;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
/// Bytes of struct ifinfomsg: family and type, index, flags, change.
const IFINFOMSG: usize = 16;

fn devices() -> io::Result<Vec<Device>> {
    Ok(devices_from(netlink::list(SockProtocol::NetlinkRoute, libc::RTM_GETLINK, &all_devices())?))
}

/// All devices, for whoever asks again soon: one that comes or goes at the moment may be among them or not.
pub fn devices_now() -> io::Result<Vec<Device>> {
    let request = all_devices();
    Ok(devices_from(netlink::list_now(SockProtocol::NetlinkRoute, libc::RTM_GETLINK, &request)?))
}

fn all_devices() -> Vec<u8> {
    let mut request = vec![0; IFINFOMSG];
    request.extend(8u16.to_ne_bytes());
    request.extend(IFLA_EXT_MASK.to_ne_bytes());
    request.extend(RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    request
}

fn devices_from(answers: Vec<Vec<u8>>) -> Vec<Device> {
    answers.iter().filter_map(|answer| device(answer)).collect()
}

fn device(message: &[u8]) -> Option<Device> {
    let attributes = Attributes(message.get(IFINFOMSG..)?);
    let number = u16::from_ne_bytes(*message.get(2..)?.first_chunk()?);
    let info = attributes.within(IFLA_LINKINFO);
    let kind = info.text(IFLA_INFO_KIND);
    Some(Device {
        name: attributes.text(IFLA_IFNAME)?,
        index: u32::from_ne_bytes(*message.get(4..)?.first_chunk()?),
        below: attributes.number(IFLA_LINK),
        master: attributes.number(IFLA_MASTER),
        link: LinkType::of(number, kind.as_deref(), info.within(IFLA_INFO_DATA)),
        kind,
        xdp: xdp(attributes),
    })
}

fn xdp(attributes: Attributes<'_>) -> Option<XdpProgram> {
    let mut programs = attributes.within(IFLA_XDP);
    let (kind, id) = programs.find(|(kind, _)| IFLA_XDP_PROG_IDS.contains(kind))?;
    let id = u32::from_ne_bytes(id.try_into().ok()?);
    Some(XdpProgram { id, is_generic: kind == IFLA_XDP_SKB_PROG_ID })
}

/// The interface of this network namespace with that number.
pub(super) fn device_of(interface: u32) -> io::Result<Device> {
    let request = [[0; 4], interface.to_ne_bytes(), [0; 4], [0; 4]].concat();
    let answer = netlink::get(SockProtocol::NetlinkRoute, libc::RTM_GETLINK, &request)?;
    device(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The program on the XDP hook of an interface of this network namespace, with or without a link: bpf(2) would
/// tell of links in all namespaces, where the same number is another interface.
pub(super) fn xdp_program(interface: u32) -> io::Result<Option<XdpProgram>> {
    Ok(device_of(interface)?.xdp)
}

/// A filter on a clsact hook.
pub(super) struct ClsactFilter {
    pub(super) priority: u16,
    pub(super) handle: u32,
    pub(super) kind: String,
    /// Of a `bpf` filter.
    pub(super) program: Option<u32>,
}

/// The filters on one side of an interface, in the order in which packets meet them; none without a clsact.
pub(super) fn filters(interface: u32, side: Side) -> io::Result<Vec<ClsactFilter>> {
    /// Bytes of struct tcmsg: family, index, handle, parent, priority and protocol (linux/rtnetlink.h).
    const TCMSG: usize = 20;
    const TCA_KIND: u16 = 1;
    const TCA_OPTIONS: u16 = 2;
    const TCA_BPF_ID: u16 = 11;
    // TC_H_CLSACT with TC_H_MIN_INGRESS or TC_H_MIN_EGRESS (linux/pkt_sched.h).
    let parent: u32 = match side {
        Side::In => 0xffff_fff2,
        Side::Out => 0xffff_fff3,
    };
    let words = [0, interface, 0, parent, 0];
    let request: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    let answers = netlink::list(SockProtocol::NetlinkRoute, libc::RTM_GETTFILTER, &request)?;
    let filter = |message: &Vec<u8>| {
        let word = |at| Some(u32::from_ne_bytes(*message.get(at..)?.first_chunk()?));
        let attributes = Attributes(message.get(TCMSG..)?);
        let kind = attributes.text(TCA_KIND)?;
        // Each kind has options of its own.
        let bpf = (kind == "bpf").then(|| attributes.within(TCA_OPTIONS));
        Some(ClsactFilter {
            handle: word(8)?,
            priority: (word(16)? >> 16) as u16,
            program: bpf.and_then(|options| options.number(TCA_BPF_ID)),
            kind,
        })
    };
    // Each priority is listed once by itself, with no handle.
    Ok(answers.iter().filter_map(filter).filter(|filter| filter.handle != 0).collect())
}

/// All flow tables of this network namespace; none where the kernel has no nftables.
fn flow_tables() -> io::Result<Vec<FlowTable>> {
    /// linux/netfilter/nfnetlink.h, nf_tables.h
    const NFNL_SUBSYS_NFTABLES: u16 = 10;
    const NFT_MSG_GETFLOWTABLE: u16 = 23;
    const NFTA_FLOWTABLE_TABLE: u16 = 1;
    const NFTA_FLOWTABLE_NAME: u16 = 2;
    const NFTA_FLOWTABLE_HOOK: u16 = 3;
    const NFTA_FLOWTABLE_HOOK_DEVS: u16 = 3;
    const NFTA_FLOWTABLE_FLAGS: u16 = 7;
    const NFT_FLOWTABLE_HW_OFFLOAD: u32 = 1;
    /// Bytes of struct nfgenmsg.
    const NFGENMSG: usize = 4;
    let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETFLOWTABLE;
    let answers = match netlink::list(SockProtocol::NetlinkNetFilter, kind, &[0; NFGENMSG]) {
        Ok(answers) => answers,
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EINVAL | libc::EPROTONOSUPPORT | libc::EOPNOTSUPP)
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let table = |message: &Vec<u8>| {
        let attributes = Attributes(message.get(NFGENMSG..)?);
        let devices = attributes.within(NFTA_FLOWTABLE_HOOK).within(NFTA_FLOWTABLE_HOOK_DEVS);
        let flags = attributes.get(NFTA_FLOWTABLE_FLAGS).and_then(<[u8]>::first_chunk);
        Some(FlowTable {
            table: attributes.text(NFTA_FLOWTABLE_TABLE)?,
            name: attributes.text(NFTA_FLOWTABLE_NAME)?,
            devices: devices.map(|(_, name)| netlink::text(name)).collect(),
            hardware: flags
                .is_some_and(|flags| u32::from_be_bytes(*flags) & NFT_FLOWTABLE_HW_OFFLOAD != 0),
        })
    };
    Ok(answers.iter().filter_map(table).collect())
}

/// The name of a program, for people.
pub(super) fn program(id: u32) -> String {
    let program = loaded_programs().flatten().find(|program| program.id() == id);
    program.map_or_else(|| format!("program {id}"), |program| named(&program))
}

fn named(program: &ProgramInfo) -> String {
    format!("program `{}` (id {})", program.name_as_str().unwrap_or_default(), program.id())
}
