//! bpf(2) and mount calls that aya has no function for. Every raw system call of this crate stands here.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info, bpf_map_type, bpf_prog_info};

/// How a map is made.
pub(super) struct MapShape {
    pub(super) kind: bpf_map_type,
    pub(super) value_size: u32,
    pub(super) entries: u32,
    pub(super) flags: u32,
}

impl MapShape {
    /// Four bytes, but for a ring, which has no keys.
    pub(super) fn key_size(&self) -> u32 {
        match self.kind {
            bpf_map_type::BPF_MAP_TYPE_RINGBUF => 0,
            _ => size_of::<u32>() as u32,
        }
    }
}

/// Creates a map without BTF. `template` is the inner map that a map of maps is
/// modelled on.
pub(super) fn create_map(
    name: &CStr,
    shape: &MapShape,
    template: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    let mut attr = empty();
    // SAFETY: the attribute was zeroed, and this is the member for BPF_MAP_CREATE.
    let create = unsafe { &mut attr.__bindgen_anon_1 };
    create.map_type = shape.kind as u32;
    create.key_size = shape.key_size();
    create.value_size = shape.value_size;
    create.max_entries = shape.entries;
    create.map_flags = shape.flags;
    create.inner_map_fd = template.map_or(0, |fd| fd.as_raw_fd() as u32);
    for (to, from) in create.map_name.iter_mut().zip(name.to_bytes()).take(15) {
        *to = *from as _;
    }
    fd_from(bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr)?)
}

/// No more writes through bpf(2) or new mappings: what was published stays what it is.
pub(super) fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty();
    // BPF_MAP_FREEZE reads the map's descriptor from the element member.
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr).map(drop)
}

/// Pins an object on a bpffs.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = empty();
    // SAFETY: as above; this is the member for BPF_OBJ_PIN.
    let pin = unsafe { &mut attr.__bindgen_anon_4 };
    pin.pathname = path.as_ptr() as u64;
    pin.bpf_fd = object.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens a pinned object.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = empty();
    // This is the member for BPF_OBJ_GET.
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    fd_from(bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?)
}

/// Opens any link of this machine.
pub(super) fn open_link(id: u32) -> io::Result<OwnedFd> {
    let mut attr = empty();
    // This is the member for BPF_LINK_GET_FD_BY_ID.
    attr.__bindgen_anon_6.__bindgen_anon_1.link_id = id;
    fd_from(bpf(bpf_cmd::BPF_LINK_GET_FD_BY_ID, &mut attr)?)
}

/// What a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkTarget {
    /// Of the link itself.
    pub(super) id: u32,
    pub(super) program: u32,
    /// 0 when the interface is gone.
    pub(super) interface: u32,
}

/// Reads where an XDP or TCX link is attached: both keep the interface in the same place.
pub(super) fn link_target(link: BorrowedFd<'_>) -> io::Result<LinkTarget> {
    // SAFETY: plain numbers, for which zero is a value.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    object_info(link, &mut info)?;
    // SAFETY: the kernel filled it; `xdp.ifindex` and `tcx.ifindex` are the first word of the same union.
    let interface = unsafe { info.__bindgen_anon_1.xdp.ifindex };
    Ok(LinkTarget { id: info.id, program: info.prog_id, interface })
}

/// The instructions of a program, as the verifier has left them.
pub(super) fn translated(program: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    // SAFETY: plain numbers, for which zero is a value.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    object_info(program, &mut info)?;
    let length = info.xlated_prog_len;
    let mut code = vec![0; length as usize];
    // SAFETY: as above. Asked for the instructions alone.
    info = unsafe { std::mem::zeroed() };
    (info.xlated_prog_len, info.xlated_prog_insns) = (length, code.as_mut_ptr() as u64);
    object_info(program, &mut info)?;
    Ok(code)
}

/// Fills `info`, the structure of the kind of object that `object` is.
fn object_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = empty();
    // SAFETY: the attribute was zeroed, and this is the member for BPF_OBJ_GET_INFO_BY_FD.
    let query = unsafe { &mut attr.info };
    query.bpf_fd = object.as_raw_fd() as u32;
    query.info = &raw mut *info as u64;
    query.info_len = size_of::<T>() as u32;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// Takes a link off its hook, whoever else still holds it.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty();
    // BPF_LINK_DETACH reads one word, the link's descriptor.
    attr.link_detach.link_fd = link.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// The `ARPHRD_` number of an interface: what its frames start with. One call for one interface, because a node may have
/// thousands of them.
pub(super) fn hardware_type(interface: &str) -> io::Result<u16> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let any = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: plain old data, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the request lives as long as the call, and the kernel writes nothing but it.
    let result = unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) };
    checked(result.into())?;
    // SAFETY: the member that SIOCGIFHWADDR fills.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
}

/// A bpffs that no path leads to but the descriptor's own: what is pinned there ends with it.
pub(super) fn detached_bpffs() -> io::Result<OwnedFd> {
    const FSCONFIG_CMD_CREATE: libc::c_long = 6;
    // SAFETY: system calls on constant strings and on the descriptor just made.
    unsafe {
        let context = fd_from(checked(libc::syscall(libc::SYS_fsopen, c"bpf".as_ptr(), 1))?)?;
        let raw = context.as_raw_fd();
        checked(libc::syscall(libc::SYS_fsconfig, raw, FSCONFIG_CMD_CREATE, 0, 0, 0))?;
        fd_from(checked(libc::syscall(libc::SYS_fsmount, raw, 1, 0))?)
    }
}

/// A program on the XDP hook of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct XdpProgram {
    pub(super) id: u32,
    pub(super) is_generic: bool,
}

/// The program on the XDP hook of an interface of this network namespace, with or without a link: bpf(2) would
/// tell of links in all namespaces, where the same number is another interface.
pub(super) fn xdp_program(interface: u32) -> io::Result<Option<XdpProgram>> {
    const IFLA_XDP: u16 = 43;
    /// The ids for the modes driver, generic, hardware (linux/if_link.h).
    const PROGRAM_IDS: std::ops::RangeInclusive<u16> = 5..=7;
    const IFLA_XDP_SKB_PROG_ID: u16 = 6;
    const HEADERS: usize = size_of::<Request>();

    #[repr(C)]
    struct Request {
        header: libc::nlmsghdr,
        interface: [u32; 4], // struct ifinfomsg: family and type, index, flags, change
    }
    let request = Request {
        header: libc::nlmsghdr {
            nlmsg_len: HEADERS as u32,
            nlmsg_type: libc::RTM_GETLINK,
            nlmsg_flags: libc::NLM_F_REQUEST as u16,
            nlmsg_seq: 1,
            nlmsg_pid: 0,
        },
        interface: [0, interface, 0, 0],
    };
    let mut answer = vec![0u8; 1 << 16];
    // SAFETY: system calls on a plain structure and on a buffer of the length given.
    let length = unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let socket =
            fd_from(checked(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE).into())?)?;
        let raw = socket.as_raw_fd();
        checked(libc::send(raw, (&raw const request).cast(), HEADERS, 0) as i64)?;
        checked(libc::recv(raw, answer.as_mut_ptr().cast(), answer.len(), 0) as i64)?
    };
    let attributes = answer.get(HEADERS..length as usize).unwrap_or_default();
    let xdp = netlink_attributes(attributes).find(|(kind, _)| *kind == IFLA_XDP);
    let programs = netlink_attributes(xdp.map_or(&[], |(_, value)| value));
    let mut found =
        programs.filter(|(kind, _)| PROGRAM_IDS.contains(kind)).filter_map(|(kind, id)| {
            let id = u32::from_ne_bytes(id.try_into().ok()?);
            Some(XdpProgram { id, is_generic: kind == IFLA_XDP_SKB_PROG_ID })
        });
    Ok(found.next())
}

/// Kind and value of each attribute (linux/netlink.h): length, kind, value, aligned to four bytes.
fn netlink_attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const NESTED_OR_BIG_ENDIAN: u16 = 3 << 14;
    std::iter::from_fn(move || {
        let &[low, high, kind_low, kind_high, ..] = rest else { return None };
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([kind_low, kind_high]) & !NESTED_OR_BIG_ENDIAN, value))
    })
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: `attr` is valid for the size given, and what it points to outlives the call.
    checked(unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size_of::<bpf_attr>())
    })
}

fn empty() -> bpf_attr {
    // SAFETY: a union of plain numbers, for which zero is a value; the kernel wants unused ones zeroed.
    unsafe { std::mem::zeroed() }
}

fn checked(result: libc::c_long) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn fd_from(result: i64) -> io::Result<OwnedFd> {
    let raw = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
