//! Access to the bytes of a packet.

/// The largest offset at which a header may start, in bytes from the start of the frame.
///
/// Host and kernel must share this limit. Otherwise they would disagree on frames with long
/// extension header chains.
pub const MAX_OFFSET: usize = 2047;

/// Mask for an offset whose bounds the verifier was made to forget (see [`Frame::opaque`]).
///
/// It never changes an offset that the parser can reach: it exceeds [`MAX_OFFSET`] plus the longest
/// header (2,048 bytes). It also stays below 65,536, because the verifier grants no range to a
/// packet pointer with a larger offset.
pub const OFFSET_MASK: usize = 8191;

/// A packet as the hook delivers it.
pub trait Frame {
    /// Returns the `N` bytes at `offset`, or `None` unless all of them are readable.
    ///
    /// Check bounds once per header, never once per field. The verifier rejects a check of one byte
    /// (the compiler turns `p + 1 > end` into `p >= end`, which proves nothing), and it loses the
    /// check of a pointer that is computed again. That is also why `N` must be at least 2.
    fn header<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;

    /// Returns the IPv4 address at `offset`.
    #[inline(always)]
    fn address4(&self, offset: usize) -> Option<u32> {
        self.header::<4>(offset).map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// Returns the two halves of the IPv6 address at `offset`, upper half first.
    #[inline(always)]
    fn address6(&self, offset: usize) -> Option<[u64; 2]> {
        let address = self.header::<16>(offset).map(|bytes| u128::from_be_bytes(*bytes))?;
        Some([(address >> 64) as u64, address as u64])
    }

    /// Returns the length of the whole frame in bytes, including bytes that [`Frame::header`]
    /// cannot reach.
    fn length(&self) -> usize;

    /// Returns the number of VLAN tags that the hook holds beside the frame (TC's `vlan_tci`): 0 or
    /// 1.
    fn tags_out_of_band(&self) -> usize;

    /// Returns `value`, and makes the verifier forget everything it knows about it.
    ///
    /// The verifier keeps states apart that differ in the range of an offset. Call this at the head
    /// of every loop; otherwise the combinations of tags, extension headers and inner packets
    /// exceed a million instructions. On the host it does nothing.
    fn opaque(&self, value: usize) -> usize;
}

impl Frame for [u8] {
    #[inline]
    fn header<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        const { assert!(N >= 2) };
        if offset > MAX_OFFSET {
            return None;
        }
        self.get(offset..offset + N)?.try_into().ok()
    }

    #[inline]
    fn length(&self) -> usize {
        self.len()
    }

    #[inline]
    fn tags_out_of_band(&self) -> usize {
        0
    }

    #[inline]
    fn opaque(&self, value: usize) -> usize {
        value
    }
}
