//! The smallest programs there are, without a compiler: they let everything pass. One gives a veth what it needs to
//! take in frames that XDP sends back; an empty program is also what a real one is measured against.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{libc, net::if_::if_nametoindex};

use crate::netns::Netns;

/// What kind of program, by its number in linux/bpf.h, and what it returns.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Xdp,
    Tc,
}

const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_LINK_CREATE: libc::c_long = 28;

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The name of the programs in the kernel.
pub const NAME: &str = "trivial";

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    returned: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context: [u64; 4],
}

#[repr(C)]
struct ObjectPin {
    path: u64,
    descriptor: u32,
    flags: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
}

#[repr(C)]
struct MapUpdate {
    map: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// A program that lets everything pass.
pub fn load(kind: Kind) -> Result<OwnedFd> {
    let (number, flags, pass) = match kind {
        Kind::Xdp => (6, 1 << 5, 2), // BPF_PROG_TYPE_XDP, BPF_F_XDP_HAS_FRAGS, XDP_PASS
        Kind::Tc => (3, 0, u32::MAX), // BPF_PROG_TYPE_SCHED_CLS, TC_ACT_UNSPEC
    };
    // r0 = pass; exit
    load_code(number, flags, &[u64::from(pass) << 32 | 0xb7, 0x95])
}

fn load_code(number: u32, flags: u32, code: &[u64]) -> Result<OwnedFd> {
    let mut load = ProgLoad {
        kind: number,
        instructions: code.len() as u32,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        flags,
        ..ProgLoad::default()
    };
    load.name[..NAME.len()].copy_from_slice(NAME.as_bytes());
    let program = bpf(BPF_PROG_LOAD, &mut load).context("cannot load a trivial program")?;
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

/// Pins a program on a bpffs.
pub fn pin(program: &OwnedFd, path: &Path) -> Result<()> {
    const BPF_OBJ_PIN: libc::c_long = 6;
    let name = CString::new(path.as_os_str().as_bytes())?;
    let descriptor = program.as_raw_fd() as u32;
    let mut pin = ObjectPin { path: name.as_ptr() as u64, descriptor, flags: 0 };
    bpf(BPF_OBJ_PIN, &mut pin).map(drop).with_context(|| format!("no pin {}", path.display()))
}

/// Nanoseconds that one run on `frame` takes, over `repeat` runs.
pub fn test_run(program: &OwnedFd, frame: &[u8], repeat: u32) -> Result<Duration> {
    let mut run = TestRun {
        program: program.as_raw_fd() as u32,
        size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut run).context("cannot run a trivial program")?;
    Ok(Duration::from_nanos(run.duration.into()))
}

/// Puts an XDP program that lets everything pass on an interface, for as long as the descriptor is held.
pub fn pass_in_xdp(netns: &Netns, interface: &str) -> Result<OwnedFd> {
    link(Kind::Xdp, netns, interface, BPF_XDP, XDP_FLAGS_DRV_MODE)
}

/// Puts a TC program that lets everything pass before all others on the TCX hook of what comes in, likewise.
pub fn pass_in_tcx(netns: &Netns, interface: &str) -> Result<OwnedFd> {
    const BPF_TCX_INGRESS: u32 = 46;
    const BPF_F_BEFORE: u32 = 1 << 3;
    link(Kind::Tc, netns, interface, BPF_TCX_INGRESS, BPF_F_BEFORE)
}

/// Puts a TC program on the TCX hook of what comes in that accepts everything: no program behind it is asked.
pub fn accept_in_tcx(netns: &Netns, interface: &str) -> Result<OwnedFd> {
    const BPF_TCX_INGRESS: u32 = 46;
    // r0 = TC_ACT_OK; exit
    let program = load_code(3, 0, &[0xb7, 0x95])?;
    attach(Kind::Tc, &program, netns, interface, BPF_TCX_INGRESS, 0)
}

/// Puts an XDP program on an interface that sends all that comes in out by another one, likewise. Its name is the same.
pub fn redirect_in_xdp(netns: &Netns, interface: &str, into: &str) -> Result<OwnedFd> {
    const BPF_MAP_CREATE: libc::c_long = 0;
    const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
    const BPF_MAP_TYPE_DEVMAP: u32 = 14;
    let mut create =
        MapCreate { kind: BPF_MAP_TYPE_DEVMAP, key_size: 4, value_size: 4, entries: 1 };
    let map = bpf(BPF_MAP_CREATE, &mut create).context("cannot make a device map")?;
    // SAFETY: a descriptor that the kernel has just made for us.
    let map = unsafe { OwnedFd::from_raw_fd(map) };
    let descriptor = map.as_raw_fd() as u32;
    netns.enter(|| {
        let (key, value) = (0u32, if_nametoindex(into)?);
        let (key, value) = (&raw const key as u64, &raw const value as u64);
        let mut update = MapUpdate { map: descriptor, key, value, flags: 0 };
        Ok(bpf(BPF_MAP_UPDATE_ELEM, &mut update).map(drop)?)
    })?;
    // r1 = map (two words); r2 = 0; r3 = 0; call bpf_redirect_map; exit
    let code = [u64::from(descriptor) << 32 | 0x1118, 0, 0x2b7, 0x3b7, 51 << 32 | 0x85, 0x95];
    let program = load_code(6, 1 << 5, &code)?;
    attach(Kind::Xdp, &program, netns, interface, BPF_XDP, XDP_FLAGS_DRV_MODE)
}

fn link(
    kind: Kind,
    netns: &Netns,
    interface: &str,
    attach_type: u32,
    flags: u32,
) -> Result<OwnedFd> {
    attach(kind, &load(kind)?, netns, interface, attach_type, flags)
}

fn attach(
    kind: Kind,
    program: &OwnedFd,
    netns: &Netns,
    interface: &str,
    attach_type: u32,
    flags: u32,
) -> Result<OwnedFd> {
    let link = netns.enter(|| {
        let interface = if_nametoindex(interface)?;
        let program = program.as_raw_fd() as u32;
        let mut create = LinkCreate { program, interface, attach_type, flags };
        Ok(bpf(BPF_LINK_CREATE, &mut create)?)
    });
    let link = link.with_context(|| format!("no {kind:?} program on {interface}"))?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: a structure of plain numbers, valid for the size given; what it points to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
