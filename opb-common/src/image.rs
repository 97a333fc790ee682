//! The policy image: one immutable array of 64-byte nodes that holds everything a verdict needs.
//!
//! An address is looked up by [`lookup`], the same for both families. A tree consumes an address from its
//! highest bit on; each step reads one node:
//!
//! - **index** nodes take the next 4 to 20 bits for the number of a slot;
//! - a **fork** compares all that is left of this half of the address with up to 4 keys, and leads on behind what the addresses
//!   between two keys have in common;
//! - a **leaf** searches the next 16 bits among up to 16 keys, each with a class;
//! - a **wide leaf** searches all that is left of this half among up to 6 keys.
//!
//! A slot is a class or refers to the next node. A search takes the last key that is not larger. The second
//! half of an IPv6 address is entered by a flag in the slot.
//!
//! The compiler picks the number of index bits so that most subtrees fit one leaf of either kind: at a million prefixes
//! a lookup costs two dependent cache misses.

/// What the first word of an image is: `opb` and a digit that counts the layouts of nodes. A daemon refuses the image of another.
pub const MAGIC: u32 = u32::from_le_bytes(*b"opb4");

/// Where the policy map holds the first block of the image in force, and of the overlay on it.
pub const IMAGE_SLOT: u32 = 0;
pub const OVERLAY_SLOT: u32 = 1;

/// Slots of the map that holds the blocks behind the first.
pub const TAIL_SLOTS: u32 = 4;

/// The two slots for what is behind the first block in `slot` of the policy map. They take turns: the blocks of the next image
/// are put beside those of the one in force, and its first block, which names their slot, then puts both in force at once.
#[must_use]
pub const fn tail_slots(slot: u32) -> [u32; 2] {
    [2 * slot, 2 * slot + 1]
}

/// Nodes of one block, which is one value of a kernel's map: 1 MiB.
///
/// The first block of an image is found without a call, because it is the only value of its map; getting at another one is a
/// call, which costs about as much as is done with a node. So that a small policy costs none, and a large one as few as it has
/// cache misses, a block is much larger than a node.
pub const BLOCK_NODES: usize = 1 << 14;

/// One value of a kernel's map.
pub type Block = [ImageNode; BLOCK_NODES];

/// The steps that no lookup exceeds: two halves of 64 bits, 4 bits a step at the least, and one step for the answer.
pub const MAX_STEPS: u32 = 33;

/// The most ports that a group filters.
pub const MAX_PORTS: usize = 8;

/// The kernel's view of an image.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ImageNode(pub [u64; 8]);

impl ImageNode {
    /// As what it is.
    #[inline(always)]
    #[must_use]
    pub fn view<T: bytemuck::Pod>(&self) -> &T {
        const { assert!(size_of::<T>() == size_of::<Self>() && align_of::<T>() <= align_of::<Self>()) };
        bytemuck::cast_ref(self)
    }
}

/// ImageNode 0 of every image; of an overlay, see [`overlay_header`].
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Header {
    pub magic: u32,
    pub abi: u16,
    /// One more than the slot of the blocks behind the first, if there are any (see [`tail_slots`]). Known to the kernel's copy
    /// alone.
    pub tail: u16,
    /// Counts up with every publication.
    pub generation: u64,
    /// Of the policy's content, not of its text.
    pub digest: [u8; 16],
    /// Root slots: subscribers (v4, v6), then relays (v4, v6).
    pub subscribers: [u32; 2],
    pub relays: [u32; 2],
    /// First node of the group table: one [`Group`] a slot.
    pub groups: u32,
    /// First node of the relay table: one bit set a relay class, bit `g` set when group `g` may reach it, and
    /// bit [`ENDPOINT`] when a softwire of the ISP ends there.
    pub relay_groups: u32,
    /// First node of the description that user space keeps in the image, and its length in bytes.
    pub notes: u32,
    pub notes_length: u32,
}

/// The bit of a relay class that says "endpoint of a softwire". Group 0 is no group, and reaches no relay.
pub const ENDPOINT: u16 = 0;

/// ImageNode of an index.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Index {
    pub slots: [u32; 16],
}

/// ImageNode that searches all that is left of a half, and leads on: position `n` is that of the addresses from key `n - 1` up to
/// key `n`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Fork {
    /// See [`wide_key`].
    pub keys: [u64; 4],
    pub slots: [u32; 5],
    /// Bits that the addresses of a position have in common, and that the node behind its slot does not look at.
    pub skips: [u8; 5],
    pub padding: [u8; 7],
}

/// ImageNode that searches 16 bits and ends in a class.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Leaf {
    pub keys: [u16; Leaf::PLACES],
    pub classes: [u16; Leaf::PLACES],
}

impl Leaf {
    pub const PLACES: usize = 16;
}

/// ImageNode that searches all that is left of a half and ends in a class: positions as in a [`Fork`].
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct WideLeaf {
    /// See [`wide_key`].
    pub keys: [u64; WideLeaf::PLACES - 1],
    pub classes: [u16; WideLeaf::PLACES],
    pub padding: u16,
}

impl WideLeaf {
    pub const PLACES: usize = 7;
}

/// What is left of a half, highest bit first, as forks and wide leaves compare it: without its lowest bit, so that the sign of a difference
/// tells which is larger. Only at the very beginning of a half is that bit part of the address.
#[inline(always)]
#[must_use]
pub const fn wide_key(rest: u64) -> u64 {
    rest >> 1
}

/// One group of subscribers. Slot 0 stands for "no group" and is empty.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Group {
    /// A [`Verdict`](crate::outcome::Verdict) as number: what is denied upstream.
    pub action: u8,
    /// 1 to judge every TCP packet, 0 for those that open a connection.
    pub match_any: u8,
    /// A [`Verdict`](crate::outcome::Verdict) as number, 0 (pass) for off: what is denied downstream.
    pub downstream: u8,
    pub padding: [u8; 5],
    /// Unused places repeat the first port.
    pub ports: [u16; MAX_PORTS],
    pub reserved: [u64; 5],
}

const _: () = {
    assert!(size_of::<ImageNode>() == 64);
    assert!(size_of::<Header>() == 72 - 8);
    assert!(size_of::<Index>() == 64);
    assert!(size_of::<Fork>() == 64);
    assert!(size_of::<Leaf>() == 64);
    assert!(size_of::<WideLeaf>() == 64);
    assert!(size_of::<Group>() == 64);
};

/// A class of subscriber addresses: the slot of a group, and whether an exemption holds.
///
/// Class 0 is every address that nothing names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriberClass(pub u16);

impl SubscriberClass {
    #[must_use]
    pub const fn new(group: u16, exempt: bool) -> Self {
        Self(group << 1 | exempt as u16)
    }

    #[inline(always)]
    #[must_use]
    pub const fn group(self) -> u16 {
        self.0 >> 1
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_exempt(self) -> bool {
        self.0 & 1 != 0
    }
}

/// The class of every subscriber address that an overlay does not speak of.
///
/// A change of a few prefixes in a policy of a million is published as a small image, the overlay: subscriber trees
/// over the changed ranges, and nothing else. Its header carries the generation of the image that it changes.
pub const UNCHANGED: u16 = u16::MAX;

/// ImageNode of the header that an overlay has for images of `generation`: 0 for an even one, 1 for an odd one.
///
/// An overlay has room for the changes of two images that follow each other. Where a new image was compiled while changes were
/// made, an overlay that holds them for both images comes into force first, and then the image: no packet misses a change.
#[inline(always)]
#[must_use]
pub const fn overlay_header(generation: u64) -> u32 {
    (generation & 1) as u32
}

/// The first node of an overlay behind its headers.
pub const OVERLAY_HEADERS: usize = 2;

/// A class, or where the lookup goes on.
///
/// | bits | what |
/// |---|---|
/// | 29–31 | kind: 0 class, 1 leaf, 2 wide leaf, 3 fork, 4 index |
/// | 28 | the second half of the address begins here |
/// | 23–27 | index: number of bits |
/// | 0–22 | number of the node; for a class, the class |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRef(pub u32);

impl NodeRef {
    const LEAF: u32 = 1;
    const WIDE_LEAF: u32 = 2;
    const FORK: u32 = 3;
    const INDEX: u32 = 4;
    const KIND_SHIFT: u32 = 29;
    const SECOND_HALF: u32 = 1 << 28;
    const NODE_BITS: u32 = 23;

    /// The most nodes that an image can have.
    pub const MAX_NODES: usize = 1 << Self::NODE_BITS;

    #[must_use]
    pub const fn class(class: u16) -> Self {
        Self(class as u32)
    }

    #[must_use]
    pub const fn leaf(node: u32) -> Self {
        Self(Self::LEAF << Self::KIND_SHIFT | node)
    }

    #[must_use]
    pub const fn wide_leaf(node: u32) -> Self {
        Self(Self::WIDE_LEAF << Self::KIND_SHIFT | node)
    }

    #[must_use]
    pub const fn fork(node: u32) -> Self {
        Self(Self::FORK << Self::KIND_SHIFT | node)
    }

    #[must_use]
    pub const fn index(node: u32, bits: u32) -> Self {
        Self(Self::INDEX << Self::KIND_SHIFT | bits << Self::NODE_BITS | node)
    }

    /// The same, for the root of a tree over the second half. A class needs no half.
    #[must_use]
    pub const fn in_second_half(self) -> Self {
        if self.kind() == 0 { self } else { Self(self.0 | Self::SECOND_HALF) }
    }

    #[inline(always)]
    const fn kind(self) -> u32 {
        self.0 >> Self::KIND_SHIFT
    }

    /// 1 where the second half begins, 0 elsewhere.
    #[inline(always)]
    const fn second_half(self) -> u32 {
        (self.0 / Self::SECOND_HALF) & 1
    }

    #[inline(always)]
    const fn node(self) -> u32 {
        self.0 & ((1 << Self::NODE_BITS) - 1)
    }

    #[inline(always)]
    const fn bits(self) -> u32 {
        self.0 >> Self::NODE_BITS & 31
    }
}

/// The nodes of one image, by reference.
pub trait Nodes<'a>: Copy {
    /// `None` beyond the end, which no lookup in an image of ours reaches.
    fn node(self, index: u32) -> Option<&'a ImageNode>;

    /// Calls [`Descent::step`] until it returns `true`, but at most [`MAX_STEPS`] times.
    fn descend(descent: &mut Descent<Self>);

    /// `value`, with everything forgotten that the verifier knows of it. The identity.
    fn opaque(value: u64) -> u64;

    /// `value`, of which the compiler must not assume anything: it would turn the arithmetic of a search back
    /// into branches. The identity.
    fn plain(value: u64) -> u64;
}

impl<'a> Nodes<'a> for &'a [ImageNode] {
    #[inline]
    fn node(self, index: u32) -> Option<&'a ImageNode> {
        self.get(index as usize)
    }

    #[inline]
    fn descend(descent: &mut Descent<Self>) {
        let _steps = (0..MAX_STEPS).find(|_| descent.step());
    }

    #[inline]
    fn opaque(value: u64) -> u64 {
        value
    }

    #[inline]
    fn plain(value: u64) -> u64 {
        core::hint::black_box(value)
    }
}

/// Reads node `index` as a `T`.
#[inline(always)]
pub fn read<'a, T: bytemuck::Pod, N: Nodes<'a>>(nodes: N, index: u32) -> Option<&'a T> {
    nodes.node(index).map(ImageNode::view)
}

/// The class of an address: `high` and `low` are its halves from the highest bit on. An IPv4 address stands
/// in the upper 32 bits of `high`.
#[inline(always)]
pub fn lookup<'a, N: Nodes<'a>>(nodes: N, root: u32, high: u64, low: u64) -> u16 {
    let mut descent = Descent { nodes, slot: NodeRef(root), class: 0, rest: high, low };
    N::descend(&mut descent);
    N::opaque(descent.class.into()) as u16
}

/// A lookup on its way down a tree.
#[derive(Clone, Copy)]
pub struct Descent<N> {
    nodes: N,
    slot: NodeRef,
    class: u16,
    /// What is left of this half of the address, highest bit first.
    rest: u64,
    /// The second half.
    low: u64,
}

impl<'a, N: Nodes<'a>> Descent<N> {
    /// Reads one node. Returns whether the class is known.
    #[inline(always)]
    pub fn step(&mut self) -> bool {
        let nodes = self.nodes;
        let slot = NodeRef(N::opaque(u64::from(self.slot.0)) as u32);
        let is_second = N::plain(u64::from(slot.second_half())).wrapping_neg();
        let rest = N::opaque(self.rest) & !is_second | self.low & is_second;
        match slot.kind() {
            NodeRef::INDEX => {
                let index = (rest >> ((64 - slot.bits()) & 63)) as u32;
                let Some(node) = read::<Index, N>(nodes, slot.node() + (index >> 4)) else {
                    return true;
                };
                self.slot = NodeRef(node.slots[(index & 15) as usize]);
                self.rest = rest << slot.bits();
                false
            }
            NodeRef::FORK => {
                let Some(node) = read::<Fork, N>(nodes, slot.node()) else { return true };
                let at = search::<N, _, 0, _>(&node.keys, wide_key(rest));
                self.slot = NodeRef(node.slots[at]);
                self.rest = rest << (node.skips[at] & 63);
                false
            }
            NodeRef::LEAF => {
                let Some(node) = read::<Leaf, N>(nodes, slot.node()) else { return true };
                // Key 0 is 0, and need not be looked at.
                self.class = node.classes[search::<N, _, 1, _>(&node.keys, rest >> 48)];
                true
            }
            NodeRef::WIDE_LEAF => {
                let Some(node) = read::<WideLeaf, N>(nodes, slot.node()) else { return true };
                self.class = node.classes[search::<N, _, 0, _>(&node.keys, wide_key(rest))];
                true
            }
            _ => {
                self.class = slot.0 as u16;
                true
            }
        }
    }
}

/// How many of `keys` from number `FIRST` on are not larger than `key`, which is at most 63 bits long.
///
/// Counts all of them: without a branch on data, because on random addresses every one would be
/// mispredicted half of the time, and each would be a state of its own for the verifier; and without a chain of loads
/// that wait for each other.
#[inline(always)]
fn search<'a, N, K, const FIRST: usize, const KEYS: usize>(keys: &[K; KEYS], key: u64) -> usize
where
    N: Nodes<'a>,
    K: Copy + Into<u64>,
{
    let above = N::plain(key + 1);
    let mut at = 0;
    let mut number = FIRST;
    while number < KEYS {
        at += (keys[number].into().wrapping_sub(above) >> 63) as usize;
        number += 1;
    }
    at
}
