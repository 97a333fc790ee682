//! bpf(2) and mount calls that aya has no function for. Every raw system call of this crate stands
//! here.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::netlink::text;
use aya_obj::generated::{
    bpf_attr, bpf_cmd, bpf_link_info, bpf_map_info, bpf_map_type, bpf_prog_info,
};

/// The shape of a map.
pub(super) struct MapShape {
    pub(super) kind: bpf_map_type,
    pub(super) value_size: u32,
    pub(super) entries: u32,
    pub(super) flags: u32,
}

impl MapShape {
    /// Bytes of a key: 0 for a ring, 8 for a trie (a length and four bytes), else 4.
    pub(super) fn key_size(&self) -> u32 {
        match self.kind {
            bpf_map_type::BPF_MAP_TYPE_RINGBUF => 0,
            bpf_map_type::BPF_MAP_TYPE_LPM_TRIE => 8,
            _ => size_of::<u32>() as u32,
        }
    }
}

/// Creates a map without BTF. `template` is the inner map that a map of maps needs as
/// a model.
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

/// Puts a map into a map of maps, at that index.
pub(super) fn put(maps: BorrowedFd<'_>, index: u32, map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty();
    let inner = map.as_raw_fd();
    // SAFETY: the attribute was zeroed, and this is the member for BPF_MAP_UPDATE_ELEM.
    let update = unsafe { &mut attr.__bindgen_anon_2 };
    update.map_fd = maps.as_raw_fd() as u32;
    update.key = &raw const index as u64;
    update.__bindgen_anon_1.value = &raw const inner as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Removes the map at that index of a map of maps.
pub(super) fn clear(maps: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let mut attr = empty();
    // SAFETY: the attribute was zeroed, and this is the member for BPF_MAP_DELETE_ELEM.
    let clear = unsafe { &mut attr.__bindgen_anon_2 };
    clear.map_fd = maps.as_raw_fd() as u32;
    clear.key = &raw const index as u64;
    bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr).map(drop)
}

/// Forbids writes through bpf(2) and new writable mappings: a published map never changes.
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

/// The attachment of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkTarget {
    /// The id of the link.
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
    // SAFETY: the kernel filled it; `xdp.ifindex` and `tcx.ifindex` are the first word of the same
    // union.
    let interface = unsafe { info.__bindgen_anon_1.xdp.ifindex };
    Ok(LinkTarget { id: info.id, program: info.prog_id, interface })
}

/// Returns when every program that was running has ended (membarrier(2)).
pub(super) fn wait_for_programs() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;
    // SAFETY: a system call without pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // Kernels with nohz_full refuse. A program runs for microseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The id of a map.
pub(super) fn map_id(map: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: plain numbers, for which zero is a value.
    let mut info: bpf_map_info = unsafe { std::mem::zeroed() };
    object_info(map, &mut info)?;
    Ok(info.id)
}

/// What is pinned at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PinnedKind {
    /// A link of XDP or TCX.
    Link,
    /// A program for TC.
    TcProgram,
    Other,
}

/// What is pinned at `path`, by what the kernel shows of its descriptor (`bpf_link_show_fdinfo`,
/// `bpf_prog_show_fdinfo`).
pub(super) fn pinned_kind(path: &Path) -> io::Result<PinnedKind> {
    let object = open_pin(path)?;
    let shown = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", object.as_raw_fd()))?;
    let value = |key| {
        let line = shown.lines().find_map(|line| line.strip_prefix(key));
        line.map(str::trim)
    };
    Ok(match (value("link_type:"), value("prog_type:")) {
        (Some("xdp" | "tcx"), _) => PinnedKind::Link,
        // A link shows the tag and the id of its program, not the type.
        (None, Some("3")) => PinnedKind::TcProgram,
        _ => PinnedKind::Other,
    })
}

/// The id of a pinned program.
pub(super) fn pinned_program(path: &Path) -> io::Result<u32> {
    let program = open_pin(path)?;
    // SAFETY: plain numbers, for which zero is a value.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    object_info(program.as_fd(), &mut info)?;
    Ok(info.id)
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

/// Opens any map of this machine.
pub(super) fn open_map(id: u32) -> io::Result<OwnedFd> {
    let mut attr = empty();
    // This is the member for BPF_MAP_GET_FD_BY_ID.
    attr.__bindgen_anon_6.__bindgen_anon_1.map_id = id;
    fd_from(bpf(bpf_cmd::BPF_MAP_GET_FD_BY_ID, &mut attr)?)
}

/// The first word of each value of a map with keys of four bytes and values of at most 64. At most
/// 4096 of them.
pub(super) fn first_words(map: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    const MOST: usize = 4096;
    let mut words = Vec::new();
    let mut key = None;
    while let Some(next) = next_key(map, key)?.filter(|_| words.len() < MOST) {
        key = Some(next);
        let mut value = [0u32; 16];
        let mut attr = empty();
        // SAFETY: the attribute was zeroed, and this is the member for BPF_MAP_LOOKUP_ELEM.
        let look = unsafe { &mut attr.__bindgen_anon_2 };
        look.map_fd = map.as_raw_fd() as u32;
        look.key = &raw const next as u64;
        look.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
        // An array has keys without a value.
        words.extend(bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr).ok().map(|_| value[0]));
    }
    Ok(words)
}

fn next_key(map: BorrowedFd<'_>, key: Option<u32>) -> io::Result<Option<u32>> {
    let mut next = 0u32;
    let mut attr = empty();
    // SAFETY: the attribute was zeroed, and this is the member for BPF_MAP_GET_NEXT_KEY.
    let step = unsafe { &mut attr.__bindgen_anon_2 };
    step.map_fd = map.as_raw_fd() as u32;
    step.key = key.as_ref().map_or(0, |key| std::ptr::from_ref(key) as u64);
    step.__bindgen_anon_1.next_key = &raw mut next as u64;
    match bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) {
        Ok(_) => Ok(Some(next)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Detaches a link, even if others hold it.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty();
    // BPF_LINK_DETACH reads one word, the link's descriptor.
    attr.link_detach.link_fd = link.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// The features that are on at an interface, by the names that `ethtool -k` shows
/// (linux/ethtool.h).
pub(super) fn active_features(interface: &str) -> io::Result<Vec<String>> {
    const ETHTOOL_GSTRINGS: u32 = 0x1b;
    const ETHTOOL_GSSET_INFO: u32 = 0x37;
    const ETHTOOL_GFEATURES: u32 = 0x3a;
    const ETH_SS_FEATURES: u32 = 4;
    /// Bytes of one name.
    const ETH_GSTRING_LEN: usize = 32;
    let mut request = request_for(interface)?;
    let mut ethtool = |words: &mut [u32]| {
        request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
        ask(&mut request, libc::SIOCETHTOOL as libc::c_ulong)
    };
    // command, reserved, mask of the sets (64 bits), and the answer: strings in the set
    let mut count = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
    ethtool(&mut count)?;
    let count = count[4] as usize;
    // command, set, strings, and room for them
    let mut names = vec![ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count as u32];
    names.resize(3 + count * ETH_GSTRING_LEN / 4, 0);
    ethtool(&mut names)?;
    // command, blocks, and for each 32 features: available, requested, active, never changed
    let blocks = count.div_ceil(32);
    let mut features = vec![ETHTOOL_GFEATURES, blocks as u32];
    features.resize(2 + blocks * 4, 0);
    ethtool(&mut features)?;

    let names: Vec<u8> = names.iter().skip(3).flat_map(|word| word.to_ne_bytes()).collect();
    let is_active = |feature: usize| {
        features.get(2 + feature / 32 * 4 + 2).is_some_and(|bits| bits >> (feature % 32) & 1 != 0)
    };
    let names = names.chunks(ETH_GSTRING_LEN).enumerate();
    Ok(names.filter(|(feature, _)| is_active(*feature)).map(|(_, name)| text(name)).collect())
}

/// A request about one interface.
fn request_for(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: plain old data, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// ioctl(2) on any socket. What the request points to must be as long as the call `code` takes it
/// to be.
fn ask(request: &mut libc::ifreq, code: libc::c_ulong) -> io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let any = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: the request lives as long as the call, which writes to it and to what the caller has
    // let it point to.
    let result = unsafe { libc::ioctl(any.as_raw_fd(), code, std::ptr::from_mut(request)) };
    checked(result.into()).map(drop)
}

/// A bpffs without a path, except that of the descriptor. Its pins end with it.
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

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: `attr` is valid for the size given, and what it points to outlives the call.
    checked(unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size_of::<bpf_attr>())
    })
}

fn empty() -> bpf_attr {
    // SAFETY: a union of plain numbers, for which zero is a value; the kernel wants unused ones
    // zeroed.
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
