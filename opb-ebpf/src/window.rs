//! Reads and writes of packet memory. No other module dereferences packet pointers.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM, xdp_md},
    helpers::generated::{bpf_skb_load_bytes, bpf_skb_store_bytes},
};
use opb_common::frame::{Frame, MAX_OFFSET};

use crate::globals;

/// The packet memory that a program may access, as the context describes it.
///
/// Create a new window after every call that may move the packet: Linux 6.1 does not reject a stale
/// one.
pub(crate) struct Window {
    /// Address of the first byte.
    start: usize,
    /// Address behind the last byte.
    end: usize,
    /// See [`Frame::length`].
    length: usize,
    /// See [`Frame::tags_out_of_band`].
    tags: usize,
}

impl Window {
    /// Returns the window of an XDP context, with the length of the first buffer only. The real
    /// length would cost a call.
    #[inline(always)]
    pub(crate) fn of_xdp(context: *const xdp_md) -> Self {
        // SAFETY: the kernel hands a valid context to every program.
        let (start, end) = unsafe { ((*context).data as usize, (*context).data_end as usize) };
        Self { start, end, length: end - start, tags: 0 }
    }

    /// Returns the window of a socket buffer: the linear part of the packet.
    #[inline(always)]
    pub(crate) fn of_skb(context: *const __sk_buff) -> Self {
        // SAFETY: the kernel hands a valid context to every program.
        unsafe {
            Self {
                start: (*context).data as usize,
                end: (*context).data_end as usize,
                length: (*context).len as usize,
                tags: usize::from((*context).vlan_present != 0),
            }
        }
    }

    /// Returns the address of the `N` bytes at `offset`, if all of them are in the window.
    #[inline(always)]
    fn address<const N: usize>(&self, offset: usize) -> Option<usize> {
        if offset > MAX_OFFSET {
            return None;
        }
        let at = self.start + offset;
        if at + N > self.end { None } else { Some(at) }
    }

    /// Sets the length of the whole frame, which may have several buffers.
    #[inline(always)]
    pub(crate) fn with_length(self, length: usize) -> Self {
        Self { length, ..self }
    }
}

/// Loads a number of type `$type` from the address `$at`, which must be in the window.
macro_rules! load {
    ($type:ident, $at:expr) => {{
        let at: usize = $at;
        #[cfg(target_arch = "bpf")]
        // SAFETY: a load inside the window, as the caller guarantees.
        let value = unsafe {
            let value: u64;
            core::arch::asm!(
                concat!("{value} = *(", stringify!($type), " *)({at} + 0)"),
                value = out(reg) value, at = in(reg) at,
                options(pure, readonly, nostack, preserves_flags),
            );
            value as $type
        };
        #[cfg(not(target_arch = "bpf"))]
        // SAFETY: a load inside the window, as the caller guarantees.
        let value = unsafe { (at as *const $type).read_unaligned() };
        value
    }};
}

impl Frame for Window {
    #[inline(always)]
    fn header<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        const { assert!(N >= 2) };
        // SAFETY: all bytes are in the window, and a byte array needs no alignment.
        self.address::<N>(offset).map(|at| unsafe { &*(at as *const [u8; N]) })
    }

    // Addresses are read in as few loads as possible. The compiler would load unaligned data byte
    // by byte, because the BPF target guarantees no unaligned access. The kernel allows it for
    // packets if the processor supports it (CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS).
    #[inline(always)]
    fn address4(&self, offset: usize) -> Option<u32> {
        self.address::<4>(offset).map(|at| load!(u32, at).to_be())
    }

    #[inline(always)]
    fn address6(&self, offset: usize) -> Option<[u64; 2]> {
        let at = self.address::<16>(offset)?;
        Some([load!(u64, at).to_be(), load!(u64, at + 8).to_be()])
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.length
    }

    #[inline(always)]
    fn tags_out_of_band(&self) -> usize {
        self.tags
    }

    #[inline(always)]
    fn opaque(&self, value: usize) -> usize {
        value.wrapping_add(globals::zero())
    }
}

/// A packet that can be changed in place.
pub(crate) trait Rewrite: Frame {
    /// Changes the `N` bytes at `offset`. Returns `None` unless all of them are writable.
    fn rewrite<const N: usize>(
        &mut self,
        offset: usize,
        change: impl FnOnce(&mut [u8; N]),
    ) -> Option<()>;
}

/// For XDP, whose packet memory is writable.
impl Rewrite for Window {
    #[inline(always)]
    fn rewrite<const N: usize>(
        &mut self,
        offset: usize,
        change: impl FnOnce(&mut [u8; N]),
    ) -> Option<()> {
        let at = self.address::<N>(offset)?;
        // SAFETY: all bytes are in the window, which is borrowed mutably.
        change(unsafe { &mut *(at as *mut [u8; N]) });
        Some(())
    }
}

/// A socket buffer that is written through helpers.
///
/// If a TC program contains a direct write, the kernel adds a prologue that copies every cloned
/// packet (net/core/filter.c, `bpf_unclone_prologue`), and packets of a local TCP stack are cloned.
/// Ordinary traffic would pay for the resets.
pub(crate) struct Skb(pub(crate) *mut __sk_buff);

impl Frame for Skb {
    #[inline(always)]
    fn header<const N: usize>(&self, _offset: usize) -> Option<&[u8; N]> {
        None
    }

    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: the kernel hands a valid context to every program.
        unsafe { (*self.0).len as usize }
    }

    #[inline(always)]
    fn tags_out_of_band(&self) -> usize {
        0
    }

    #[inline(always)]
    fn opaque(&self, value: usize) -> usize {
        value.wrapping_add(globals::zero())
    }
}

impl Rewrite for Skb {
    #[inline(always)]
    fn rewrite<const N: usize>(
        &mut self,
        offset: usize,
        change: impl FnOnce(&mut [u8; N]),
    ) -> Option<()> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        let (at, buffer) = (offset as u32, bytes.as_mut_ptr().cast());
        // SAFETY: helpers on the context and on a buffer of `N` bytes. The first helper fills the
        // buffer or fails.
        unsafe {
            if bpf_skb_load_bytes(self.0.cast(), at, buffer, N as u32) != 0 {
                return None;
            }
            change(bytes.assume_init_mut());
            let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
            (bpf_skb_store_bytes(self.0, at, buffer, N as u32, flags) == 0).then_some(())
        }
    }
}
