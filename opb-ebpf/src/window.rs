//! The only raw packet read.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use opb_common::frame::{Frame, MAX_OFFSET};

use crate::globals;

/// Packet memory that a program may read, as the context describes it.
///
/// It must be made anew after every call that may move the packet: 6.1 accepts a stale one without complaint.
pub(crate) struct Window {
    start: usize,
    end: usize,
    length: usize,
    tags: usize,
}

impl Window {
    /// For the entry test, which asks for no length.
    #[inline(always)]
    pub(crate) fn of_xdp(context: *const xdp_md) -> Self {
        // SAFETY: the kernel hands a valid context to every program.
        let (start, end) = unsafe { ((*context).data as usize, (*context).data_end as usize) };
        Self { start, end, length: end - start, tags: 0 }
    }

    /// Only what is in the linear part of the packet.
    #[inline(always)]
    pub(crate) fn of_skb(context: *const __sk_buff) -> Self {
        // SAFETY: as above.
        unsafe {
            Self {
                start: (*context).data as usize,
                end: (*context).data_end as usize,
                length: (*context).len as usize,
                tags: usize::from((*context).vlan_present != 0),
            }
        }
    }

    /// Where the `N` bytes at `offset` are, if all of them are in the window.
    #[inline(always)]
    fn address<const N: usize>(&self, offset: usize) -> Option<usize> {
        if offset > MAX_OFFSET {
            return None;
        }
        let at = self.start + offset;
        if at + N > self.end { None } else { Some(at) }
    }

    /// The `N` bytes at `offset`, to write.
    #[inline(always)]
    pub(crate) fn header_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        // SAFETY: all of it lies in the window, which is borrowed mutably; packet memory is writable.
        self.address::<N>(offset).map(|at| unsafe { &mut *(at as *mut [u8; N]) })
    }

    /// With the length of a packet of several buffers.
    #[inline(always)]
    pub(crate) fn with_length(self, length: usize) -> Self {
        Self { length, ..self }
    }
}

impl Frame for Window {
    #[inline(always)]
    fn header<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        const { assert!(N >= 2) };
        // SAFETY: all of it lies in the window, and a byte array needs no alignment.
        self.address::<N>(offset).map(|at| unsafe { &*(at as *const [u8; N]) })
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
