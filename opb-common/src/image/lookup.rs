//! The lookup of an address in an image.

use super::{
    layout::ImageNode,
    tree::{Fork, Index, Leaf, NodeRef, WideLeaf, wide_key},
};

/// The most steps of a lookup: two halves of 64 bits at 4 or more bits a step, and one step for the
/// class.
pub const MAX_STEPS: u32 = 33;

/// Access to the nodes of one image.
pub trait Nodes<'a>: Copy {
    /// Returns node `index`, or `None` beyond the end. No lookup in a valid image goes there.
    fn node(self, index: u32) -> Option<&'a ImageNode>;

    /// Calls [`Descent::step`] until it returns `true`, at most [`MAX_STEPS`] times.
    fn descend(descent: &mut Descent<Self>);

    /// Returns `value`, and makes the verifier forget everything it knows about it.
    fn opaque(value: u64) -> u64;

    /// Returns `value`, and hides it from the compiler's optimizer, which would turn the arithmetic
    /// of a search back into branches.
    fn black_box(value: u64) -> u64;
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
    fn black_box(value: u64) -> u64 {
        core::hint::black_box(value)
    }
}

/// Reads node `index` as a `T`.
#[inline(always)]
pub fn read<'a, T: bytemuck::Pod, N: Nodes<'a>>(nodes: N, index: u32) -> Option<&'a T> {
    nodes.node(index).map(ImageNode::view)
}

/// Returns the class of an address in the tree at `root`.
///
/// `high` and `low` are the halves of the address, from its highest bit on. An IPv4 address is in
/// the upper 32 bits of `high`.
#[inline(always)]
pub fn lookup<'a, N: Nodes<'a>>(nodes: N, root: u32, high: u64, low: u64) -> u16 {
    let mut descent = Descent { nodes, at: NodeRef(root), class: 0, remaining: high, low };
    N::descend(&mut descent);
    N::opaque(descent.class.into()) as u16
}

/// The state of a lookup.
#[derive(Clone, Copy)]
pub struct Descent<N> {
    nodes: N,
    /// Where the lookup continues.
    at: NodeRef,
    class: u16,
    /// Remaining bits of this half of the address, highest bit first.
    remaining: u64,
    /// The second half of the address.
    low: u64,
}

impl<'a, N: Nodes<'a>> Descent<N> {
    /// Reads one node. Returns whether the class is known.
    #[inline(always)]
    pub fn step(&mut self) -> bool {
        let nodes = self.nodes;
        let at = NodeRef(N::opaque(u64::from(self.at.0)) as u32);
        let is_second = N::black_box(u64::from(at.second_half())).wrapping_neg();
        let remaining = N::opaque(self.remaining) & !is_second | self.low & is_second;
        match at.kind() {
            NodeRef::INDEX => {
                let number = (remaining >> ((64 - at.bits()) & 63)) as u32;
                let Some(node) = read::<Index, N>(nodes, at.node() + (number >> 4)) else {
                    return true;
                };
                self.at = NodeRef(node.children[(number & 15) as usize]);
                self.remaining = remaining << at.bits();
                false
            }
            NodeRef::FORK => {
                let Some(node) = read::<Fork, N>(nodes, at.node()) else { return true };
                let child = search::<N, _, 0, _>(&node.keys, wide_key(remaining));
                self.at = NodeRef(node.children[child]);
                self.remaining = remaining << (node.skips[child] & 63);
                false
            }
            NodeRef::LEAF => {
                let Some(node) = read::<Leaf, N>(nodes, at.node()) else { return true };
                // Key 0 is 0, so it is never larger.
                self.class = node.classes[search::<N, _, 1, _>(&node.keys, remaining >> 48)];
                true
            }
            NodeRef::WIDE_LEAF => {
                let Some(node) = read::<WideLeaf, N>(nodes, at.node()) else { return true };
                self.class = node.classes[search::<N, _, 0, _>(&node.keys, wide_key(remaining))];
                true
            }
            _ => {
                self.class = at.0 as u16;
                true
            }
        }
    }
}

/// Returns how many of `keys`, from number `FIRST` on, are not larger than `key` (at most 63 bits).
///
/// It compares with every key and adds up the signs of the differences. A branch would be
/// mispredicted half of the time on random addresses, and each would be a separate state for the
/// verifier. A binary search would be a chain of loads that wait for each other. A bitwise OR of
/// the comparisons would make Linux 6.1 forget all bounds.
#[inline(always)]
fn search<'a, N, K, const FIRST: usize, const KEYS: usize>(keys: &[K; KEYS], key: u64) -> usize
where
    N: Nodes<'a>,
    K: Copy + Into<u64>,
{
    let above = N::black_box(key + 1);
    let mut count = 0;
    let mut number = FIRST;
    while number < KEYS {
        count += (keys[number].into().wrapping_sub(above) >> 63) as usize;
        number += 1;
    }
    count
}
