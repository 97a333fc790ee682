//! Devices and the filters on them, by rtnetlink (linux/rtnetlink.h), in the calling thread's
//! network namespace.
//!
//! bpf(2) is of no use here: it lists links of all namespaces, where the same index is another
//! interface.

use std::io;

use nix::sys::socket::SockProtocol;

use super::{
    hook::HookDirection,
    link_type::{LinkType, Unreadable},
    netlink::{self, Attributes},
};

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    pub index: u32,
    /// `vlan`, `bond`, `veth`, …; `None` for physical devices.
    pub kind: Option<String>,
    /// The index of the device below.
    pub below: Option<u32>,
    /// The namespace of the device below, by this one's number for it. `None`: it is here.
    pub below_in: Option<i32>,
    /// The index of its bridge or bond.
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

// Attributes of a device (linux/if_link.h).
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_TARGET_NETNSID: u16 = 46;
const IFLA_XDP: u16 = 43;
/// Program ids by mode: driver, generic, hardware.
const IFLA_XDP_PROG_IDS: std::ops::RangeInclusive<u16> = 5..=7;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
/// Bytes of struct ifinfomsg: family and type, index, flags, change.
const IFINFOMSG: usize = 16;

/// All devices.
pub(super) fn devices() -> io::Result<Vec<Device>> {
    Ok(devices_from(netlink::list(SockProtocol::NetlinkRoute, libc::RTM_GETLINK, &all_devices())?))
}

/// All devices in one attempt, for a caller that repeats this soon: a device that comes or goes at
/// the moment may be listed or not.
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
        below_in: attributes.number(IFLA_LINK_NETNSID).map(u32::cast_signed),
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

/// The device with that index.
pub(super) fn device_of(interface: u32) -> io::Result<Device> {
    device_in(None, interface)
}

/// The device with that index in another namespace, by this one's number for that.
fn device_in(namespace: Option<i32>, interface: u32) -> io::Result<Device> {
    let mut request = [[0; 4], interface.to_ne_bytes(), [0; 4], [0; 4]].concat();
    if let Some(namespace) = namespace {
        request.extend(8u16.to_ne_bytes());
        request.extend(IFLA_TARGET_NETNSID.to_ne_bytes());
        request.extend(namespace.to_ne_bytes());
    }
    let answer = netlink::get(SockProtocol::NetlinkRoute, libc::RTM_GETLINK, &request)?;
    device(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether frames that a native XDP program on `device` sends back arrive at the other end.
///
/// The native mode implies `XDP_TX` (`NETDEV_XDP_ACT_BASIC` in linux/netdev.h), but a veth hands
/// such a frame to its peer only if that has a native XDP program (`veth_xdp_xmit` and
/// `veth_xdp_flush` in drivers/net/veth.c), and does not report the loss. GRO on the peer makes
/// room for the frame, but nothing fetches it until another packet comes. A peer that cannot be
/// seen is taken to have no program.
#[must_use]
pub fn sends_back(device: &Device) -> bool {
    if device.kind.as_deref() != Some("veth") {
        return true;
    }
    let peer = device.below.and_then(|peer| device_in(device.below_in, peer).ok());
    peer.and_then(|peer| peer.xdp).is_some_and(|program| !program.is_generic)
}

/// The program on the XDP hook of an interface, with or without a link.
pub(super) fn xdp_program(interface: u32) -> io::Result<Option<XdpProgram>> {
    Ok(device_of(interface)?.xdp)
}

/// A filter on a clsact hook.
pub(super) struct ClsactFilter {
    pub(super) priority: u16,
    pub(super) handle: u32,
    pub(super) kind: String,
    /// The id of its program, if it is a `bpf` filter.
    pub(super) program: Option<u32>,
}

/// The clsact filters of an interface in one direction, in the order in which packets meet them.
/// Empty without a clsact.
pub(super) fn filters(interface: u32, direction: HookDirection) -> io::Result<Vec<ClsactFilter>> {
    /// Bytes of struct tcmsg: family, index, handle, parent, priority and protocol
    /// (linux/rtnetlink.h).
    const TCMSG: usize = 20;
    const TCA_KIND: u16 = 1;
    const TCA_OPTIONS: u16 = 2;
    const TCA_BPF_ID: u16 = 11;
    // TC_H_CLSACT with TC_H_MIN_INGRESS or TC_H_MIN_EGRESS (linux/pkt_sched.h).
    let parent: u32 = match direction {
        HookDirection::Ingress => 0xffff_fff2,
        HookDirection::Egress => 0xffff_fff3,
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
    // The kernel also lists each priority by itself, without a handle.
    Ok(answers.iter().filter_map(filter).filter(|filter| filter.handle != 0).collect())
}
