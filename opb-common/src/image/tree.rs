//! The nodes of a search tree, and references to them.

use super::layout::ImageNode;

/// A node that takes the next bits of an address as the number of a child.
///
/// An index of `n` bits is `2^n / 16` consecutive nodes.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Index {
    /// A [`NodeRef`] each.
    pub children: [u32; 16],
}

/// A node that searches all remaining bits of a half and leads on to a child.
///
/// Child `n` covers the addresses from key `n - 1` up to, but not including, key `n`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Fork {
    /// See [`wide_key`].
    pub keys: [u64; 4],
    /// A [`NodeRef`] each.
    pub children: [u32; 5],
    /// For each child, the number of bits that its addresses have in common. The child's node does
    /// not look at them.
    pub skips: [u8; 5],
    pub padding: [u8; 7],
}

/// A node that searches the next 16 bits and ends in a class.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Leaf {
    /// In ascending order; key 0 is 0.
    pub keys: [u16; Leaf::CLASSES],
    pub classes: [u16; Leaf::CLASSES],
}

impl Leaf {
    /// The most classes that fit a leaf.
    pub const CLASSES: usize = 16;
}

/// A node that searches all remaining bits of a half and ends in a class.
///
/// Class `n` covers the addresses from key `n - 1` up to, but not including, key `n`, as in a
/// [`Fork`].
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct WideLeaf {
    /// See [`wide_key`].
    pub keys: [u64; WideLeaf::CLASSES - 1],
    pub classes: [u16; WideLeaf::CLASSES],
    pub padding: u16,
}

impl WideLeaf {
    /// The most classes that fit a wide leaf.
    pub const CLASSES: usize = 7;
}

const _: () = {
    assert!(size_of::<Index>() == size_of::<ImageNode>());
    assert!(size_of::<Fork>() == size_of::<ImageNode>());
    assert!(size_of::<Leaf>() == size_of::<ImageNode>());
    assert!(size_of::<WideLeaf>() == size_of::<ImageNode>());
};

/// Returns the form in which forks and wide leaves compare `remaining`, the remaining bits of a
/// half, highest bit first.
///
/// The lowest bit is dropped, so that the sign of a difference tells which key is larger. That bit
/// belongs to the address only at the very beginning of a half.
#[inline(always)]
#[must_use]
pub const fn wide_key(remaining: u64) -> u64 {
    remaining >> 1
}

/// A class, or a reference to the node at which the lookup continues.
///
/// | bits | content |
/// |---|---|
/// | 29–31 | kind: 0 class, 1 leaf, 2 wide leaf, 3 fork, 4 index |
/// | 28 | the second half of the address begins here |
/// | 23–27 | for an index, its number of bits |
/// | 0–22 | number of the node; for a class, the class |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRef(pub u32);

impl NodeRef {
    pub(super) const LEAF: u32 = 1;
    pub(super) const WIDE_LEAF: u32 = 2;
    pub(super) const FORK: u32 = 3;
    pub(super) const INDEX: u32 = 4;
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

    /// Marks the root of a tree over the second half. A class stays as it is: it reads no bits.
    #[must_use]
    pub const fn in_second_half(self) -> Self {
        if self.kind() == 0 { self } else { Self(self.0 | Self::SECOND_HALF) }
    }

    #[inline(always)]
    pub(super) const fn kind(self) -> u32 {
        self.0 >> Self::KIND_SHIFT
    }

    /// Returns 1 where the second half begins, 0 elsewhere.
    #[inline(always)]
    pub(super) const fn second_half(self) -> u32 {
        (self.0 / Self::SECOND_HALF) & 1
    }

    #[inline(always)]
    pub(super) const fn node(self) -> u32 {
        self.0 & ((1 << Self::NODE_BITS) - 1)
    }

    #[inline(always)]
    pub(super) const fn bits(self) -> u32 {
        self.0 >> Self::NODE_BITS & 31
    }
}
