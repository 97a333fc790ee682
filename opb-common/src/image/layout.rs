//! The parts of an image: blocks, header, group table, classes.

/// First word of an image: `opb` and a digit that counts node layouts. A daemon refuses images with
/// another one.
pub const MAGIC: u32 = u32::from_le_bytes(*b"opb4");

/// Index of the current image's first block in the policy map.
pub const IMAGE_INDEX: u32 = 0;
/// Index of the overlay's first block in the policy map.
pub const OVERLAY_INDEX: u32 = 1;

/// Number of entries of the tail map, which holds the tail blocks: all blocks but the first.
pub const TAIL_ENTRIES: u32 = 4;

/// Returns the two tail map indices that belong to index `first` of the policy map.
///
/// They are used in turn. A publication puts the next image's tail blocks beside those of the
/// current image. Then it replaces the first block, which names the index of its tail: one write
/// puts the whole image in force.
#[must_use]
pub const fn tail_indices(first: u32) -> [u32; 2] {
    [2 * first, 2 * first + 1]
}

/// Nodes in one block. A block is one value of a kernel map: 1 MiB.
///
/// The first block is found without a call, because its map has only this value. Access to any
/// other block is a call, which costs about as much as the search of a node. A block is much larger
/// than a node, so that a small policy needs no call and a large one as few as it has cache misses.
pub const BLOCK_NODES: usize = 1 << 14;

/// One value of a kernel map.
pub type Block = [ImageNode; BLOCK_NODES];

/// The most ports that a group filters.
pub const MAX_PORTS: usize = 8;

/// The unit of an image: 64 bytes, one cache line.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ImageNode(pub [u64; 8]);

impl ImageNode {
    /// Returns the node as a `T`, which must have its size.
    #[inline(always)]
    #[must_use]
    pub fn view<T: bytemuck::Pod>(&self) -> &T {
        const { assert!(size_of::<T>() == size_of::<Self>() && align_of::<T>() <= align_of::<Self>()) };
        bytemuck::cast_ref(self)
    }
}

/// Node 0 of every image. For overlays, see [`overlay_header`].
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`ABI_VERSION`](crate::ABI_VERSION).
    pub abi: u16,
    /// Index of the tail blocks in the tail map plus one, or 0 without tail blocks (see
    /// [`tail_indices`]). Set only in the kernel's copy.
    pub tail: u16,
    /// Increases with every publication.
    pub generation: u64,
    /// Digest of the policy's content, independent of how its text is written.
    pub digest: [u8; 16],
    /// Roots of the subscriber trees (IPv4, IPv6), each a [`NodeRef`](super::tree::NodeRef).
    pub subscribers: [u32; 2],
    /// Roots of the relay trees (IPv4, IPv6), each a [`NodeRef`](super::tree::NodeRef).
    pub relays: [u32; 2],
    /// First node of the group table: one [`Group`] for each group id.
    pub groups: u32,
    /// First node of the relay table: one bit set for each relay class. Bit `g` is set when group
    /// `g` may reach the class, bit [`ENDPOINT`] when one of the ISP's softwires ends there.
    pub relay_groups: u32,
    /// First node of the description that user space stores in the image.
    pub notes: u32,
    /// Length of the description in bytes.
    pub notes_length: u32,
}

/// The bit of a relay class that marks the endpoint of a softwire.
///
/// It is free for this purpose: group id 0 means "no group", which may reach no relay.
pub const ENDPOINT: u16 = 0;

/// One group of subscribers. The entry of group id 0 ("no group") is empty.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Group {
    /// Verdict for denied upstream packets: a [`Verdict`](crate::outcome::Verdict) as a number.
    pub action: u8,
    /// 1 to judge every TCP packet, 0 to judge only packets that open a connection.
    pub match_any: u8,
    /// Verdict for denied downstream packets: a [`Verdict`](crate::outcome::Verdict) as a number; 0
    /// (pass) turns the downstream filter off.
    pub downstream: u8,
    pub padding: [u8; 5],
    /// Filtered ports. Unused elements repeat the first port.
    pub ports: [u16; MAX_PORTS],
    pub reserved: [u64; 5],
}

const _: () = {
    assert!(size_of::<ImageNode>() == 64);
    assert!(size_of::<Header>() == 64);
    assert!(size_of::<Group>() == 64);
};

/// The class of a subscriber address: its group id, and whether an exemption covers it.
///
/// Class 0 is every address that no prefix covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriberClass(pub u16);

impl SubscriberClass {
    #[must_use]
    pub const fn new(group: u16, exempt: bool) -> Self {
        Self(group << 1 | exempt as u16)
    }

    /// Returns the group id, 0 for none.
    #[inline(always)]
    #[must_use]
    pub const fn group(self) -> u16 {
        self.0 >> 1
    }

    /// Returns whether an exemption covers the address.
    #[inline(always)]
    #[must_use]
    pub const fn is_exempt(self) -> bool {
        self.0 & 1 != 0
    }
}

/// The class that an overlay gives to every address it does not change.
///
/// A change of a few prefixes in a policy of a million is published as an overlay: a small image
/// with subscriber trees over the changed ranges and nothing else. Its header carries the
/// generation of the image that it changes.
pub const UNCHANGED: u16 = u16::MAX;

/// Returns the node of an overlay's header for images of `generation`: 0 if even, 1 if odd.
///
/// An overlay has room for the changes to two consecutive images. If prefixes change while a new
/// image is compiled, an overlay that holds those changes for both images is published first, and
/// then the image. So no packet misses a change.
#[inline(always)]
#[must_use]
pub const fn overlay_header(generation: u64) -> u32 {
    (generation & 1) as u32
}

/// Number of header nodes of an overlay; its trees follow.
pub const OVERLAY_HEADERS: usize = 2;
