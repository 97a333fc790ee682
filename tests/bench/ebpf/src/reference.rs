//! The filter that a good engineer writes in an afternoon, with aya and the kernel's LPM tries.
//!
//! Does for a plain SYN what opb does, and nothing of the rest: no fragments, extension headers or tunnels, no
//! exemptions, no swap of whole policies. Addresses are read only after the port has matched, and the relay is looked
//! up only for subscribers, as anybody would do who cares for speed.

use aya_ebpf::{
    bindings::xdp_action,
    macros::{map, xdp},
    maps::{LpmTrie, PerCpuArray, lpm_trie::Key},
    programs::XdpContext,
};

/// Group of a subscriber prefix. User space sets the sizes.
#[map]
static SUBSCRIBERS4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(1, 0);
#[map]
static SUBSCRIBERS6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(1, 0);

/// Groups that may reach a relay, one bit each.
#[map]
static RELAYS4: LpmTrie<[u8; 4], u64> = LpmTrie::with_max_entries(64, 0);
#[map]
static RELAYS6: LpmTrie<[u8; 16], u64> = LpmTrie::with_max_entries(64, 0);

/// Packets and bytes, at group × 2, one further for what was dropped.
#[map]
static COUNTS: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(128, 0);

const VLAN: [u16; 2] = [0x8100, 0x88a8];
const PPPOE_SESSION: u16 = 0x8864;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const SMTP: [u8; 2] = 25u16.to_be_bytes();
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

#[xdp(frags)]
pub(crate) fn reference(context: XdpContext) -> u32 {
    judge(&context).unwrap_or(xdp_action::XDP_PASS)
}

#[inline(always)]
fn judge(context: &XdpContext) -> Option<u32> {
    let mut ethertype = u16::from_be_bytes(*at(context, 12)?);
    let mut offset = 14;
    for _ in 0..2 {
        if !VLAN.contains(&ethertype) {
            break;
        }
        ethertype = u16::from_be_bytes(*at(context, offset + 2)?);
        offset += 4;
    }
    if ethertype == PPPOE_SESSION {
        ethertype = match u16::from_be_bytes(*at(context, offset + 6)?) {
            0x0021 => IPV4,
            0x0057 => IPV6,
            _ => return None,
        };
        offset += 8;
    }
    let (group, groups) = match ethertype {
        IPV4 => {
            let header: &[u8; 20] = at(context, offset)?;
            let is_first = header[6] & 0x1f == 0 && header[7] == 0;
            if header[9] != TCP || !is_first {
                return None;
            }
            opens_smtp(context, offset + usize::from(header[0] & 15) * 4)?;
            let [source, destination] = *at::<[[u8; 4]; 2]>(context, offset + 12)?;
            let group = *SUBSCRIBERS4.get(Key::new(32, source))?;
            (group, RELAYS4.get(Key::new(32, destination)))
        }
        IPV6 => {
            if at::<[u8; 40]>(context, offset)?[6] != TCP {
                return None;
            }
            opens_smtp(context, offset + 40)?;
            let [source, destination] = *at::<[[u8; 16]; 2]>(context, offset + 8)?;
            let group = *SUBSCRIBERS6.get(Key::new(128, source))?;
            (group, RELAYS6.get(Key::new(128, destination)))
        }
        _ => return None,
    };
    let passes = groups.is_some_and(|groups| groups >> (group & 63) & 1 != 0);
    let counts = COUNTS.get_ptr_mut(group << 1 | u32::from(!passes))?;
    // SAFETY: the entry of this CPU.
    unsafe {
        (*counts)[0] += 1;
        (*counts)[1] += (context.data_end() - context.data()) as u64;
    }
    Some(if passes { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP })
}

#[inline(always)]
fn opens_smtp(context: &XdpContext, offset: usize) -> Option<()> {
    let header: &[u8; 20] = at(context, offset)?;
    let opens = header[13] & (SYN | ACK) == SYN;
    (header[2..4] == SMTP && opens).then_some(())
}

#[inline(always)]
fn at<T>(context: &XdpContext, offset: usize) -> Option<&T> {
    let start = context.data() + offset;
    if start + size_of::<T>() > context.data_end() {
        return None;
    }
    // SAFETY: all of it lies in the packet; only arrays of bytes are read, which need no alignment.
    Some(unsafe { &*(start as *const T) })
}
