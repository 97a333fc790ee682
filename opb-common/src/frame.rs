//! How the parser reads a packet.

/// The largest offset at which a header may start, in bytes from the first byte of the frame.
///
/// Part of the contract between host and kernel: a limit that only one of them knew would make them
/// disagree on long extension header chains.
pub const MAX_OFFSET: usize = 2047;

/// Wrap-safe mask for an offset whose bounds the verifier was made to forget.
///
/// Larger than [`MAX_OFFSET`] plus the longest header (2,048 bytes), so that it never changes an offset that
/// the parser can reach, and below 65,536, above which the verifier grants a packet pointer no range.
pub const OFFSET_MASK: usize = 8191;

/// A packet as the hook delivers it.
pub trait Frame {
    /// The `N` bytes at `offset`, or `None` if they are not all there.
    ///
    /// One bounds check a header, never one a field: the verifier rejects a one-byte check (`p + 1 > end`
    /// becomes `p >= end`, which proves nothing), and loses the check of a pointer that is derived again.
    /// `N` is at least 2 for that reason.
    fn header<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;

    /// The IPv4 address at `offset`.
    #[inline(always)]
    fn address4(&self, offset: usize) -> Option<u32> {
        self.header::<4>(offset).map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// The halves of the IPv6 address at `offset`.
    #[inline(always)]
    fn address6(&self, offset: usize) -> Option<[u64; 2]> {
        let address = self.header::<16>(offset).map(|bytes| u128::from_be_bytes(*bytes))?;
        Some([(address >> 64) as u64, address as u64])
    }

    /// Length of the whole frame in bytes, including what is not in reach of [`Frame::header`].
    fn length(&self) -> usize;

    /// VLAN tags that the hook holds beside the frame (TC's `vlan_tci`), 0 or 1.
    fn tags_out_of_band(&self) -> usize;

    /// `value`, with everything forgotten that the verifier knows of it.
    ///
    /// The verifier keeps states apart that differ in the range of an offset: without this at every loop
    /// head, tags × extension headers × inner packets multiply beyond a million instructions. The identity
    /// on the host.
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
