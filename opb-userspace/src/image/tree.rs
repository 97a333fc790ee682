//! Builds the search tree that [`opb_common::image::lookup`] descends, from ranges.

use opb_common::image::{Fork, ImageNode, Index, Leaf, NodeRef, WideLeaf, wide_key};

use super::ranges::Bound;

/// The bits that a leaf compares.
const LEAF_BITS: u32 = 16;
/// The average number of bounds for each child of an index, so that most subtrees fit one leaf, or
/// one wide leaf.
const BOUNDS_A_LEAF: usize = 8;
const BOUNDS_A_WIDE_LEAF: usize = 2;
/// The fewest bits that an index or a fork consumes. This limits the steps of a lookup.
const SMALLEST_STEP: u32 = 4;
/// The most bits that an index consumes.
const LARGEST_INDEX: u32 = 20;
/// Bytes of index that a bound may cost if that saves a fork in front of it.
const INDEX_BYTES_A_BOUND: usize = 32;
/// The fewest bits that a fork between two blocks must save in each.
const WORTH_A_FORK: u32 = 8;

/// Appends the tree of `bounds` to `nodes`, and returns its root. The first bound starts at 0.
pub(super) fn build(nodes: &mut Vec<ImageNode>, bounds: &[Bound<u16>]) -> NodeRef {
    let (inherited, bounds) = match bounds {
        [(0, class), rest @ ..] => (*class, rest),
        _ => (0, bounds),
    };
    Builder { nodes }.block(Block { consumed: 0, inherited, bounds })
}

struct Builder<'a> {
    nodes: &'a mut Vec<ImageNode>,
}

/// All addresses that share their first `consumed` bits.
#[derive(Clone, Copy)]
struct Block<'a> {
    consumed: u32,
    /// The class at the first address of the block.
    inherited: u16,
    /// The bounds after the first address, in order.
    bounds: &'a [Bound<u16>],
}

impl<'a> Block<'a> {
    /// The bits that remain in this half of the address.
    fn bits_in_half(&self) -> u32 {
        64 - self.consumed % 64
    }

    /// The bits that a leaf can compare here.
    fn leaf_bits(&self) -> u32 {
        self.bits_in_half().min(LEAF_BITS)
    }

    /// The bits that a wide leaf or a fork can compare here.
    fn wide_bits(&self) -> u32 {
        self.bits_in_half().min(63)
    }

    /// The remaining bits of this half of an address, highest bit first, as in
    /// [`opb_common::image::lookup`].
    fn rest(&self, address: u128) -> u64 {
        let half = if self.consumed < 64 { (address >> 64) as u64 } else { address as u64 };
        half << (self.consumed % 64)
    }

    /// The number of bits of this block up to the lowest one that any bound has set.
    fn depth(&self) -> u32 {
        let lowest = self.bounds.iter().map(|&(start, _)| start.trailing_zeros()).min();
        128 - self.consumed - lowest.unwrap_or(0)
    }

    /// Splits off the bounds before `end`, as a block that starts at `start` and has consumed
    /// `bits` more bits. The rest inherits the class at the end of that block.
    fn split(&mut self, start: u128, end: Option<u128>, bits: u32) -> Block<'a> {
        let count = end.map_or(self.bounds.len(), |end| {
            self.bounds.partition_point(|&(bound, _)| bound < end)
        });
        let (mut bounds, rest) = self.bounds.split_at(count);
        let mut inherited = self.inherited;
        if let [(first, class), behind @ ..] = bounds
            && *first == start
        {
            inherited = *class;
            bounds = behind;
        }
        self.inherited = bounds.last().map_or(inherited, |&(_, class)| class);
        self.bounds = rest;
        Block { consumed: self.consumed + bits, inherited, bounds }
    }
}

impl Builder<'_> {
    fn block(&mut self, block: Block<'_>) -> NodeRef {
        if block.bounds.is_empty() {
            return NodeRef::class(block.inherited);
        }
        let depth = block.depth();
        let node = if block.bounds.len() < Leaf::CLASSES && depth <= block.leaf_bits() {
            self.leaf(block)
        } else if block.bounds.len() < WideLeaf::CLASSES && depth <= block.wide_bits() {
            self.wide_leaf(block)
        } else {
            match step(&block, depth) {
                Step::Index { bits } => self.index(block, bits),
                Step::Fork(tines) => self.fork(block, &tines),
            }
        };
        if block.consumed == 64 { node.in_second_half() } else { node }
    }

    fn leaf(&mut self, block: Block<'_>) -> NodeRef {
        // Unused entries repeat the last class under the largest key, which changes no answer.
        let last = block.bounds.last().map_or(block.inherited, |&(_, class)| class);
        let mut leaf = Leaf { keys: [u16::MAX; Leaf::CLASSES], classes: [last; Leaf::CLASSES] };
        (leaf.keys[0], leaf.classes[0]) = (0, block.inherited);
        for (at, &(start, class)) in block.bounds.iter().enumerate() {
            let key = (block.rest(start) >> (64 - LEAF_BITS)) as u16;
            (leaf.keys[at + 1], leaf.classes[at + 1]) = (key, class);
        }
        NodeRef::leaf(self.push(bytemuck::cast(leaf)))
    }

    fn wide_leaf(&mut self, block: Block<'_>) -> NodeRef {
        let mut leaf = WideLeaf {
            keys: [NO_KEY; _],
            classes: [block.inherited; WideLeaf::CLASSES],
            padding: 0,
        };
        for (at, &(start, class)) in block.bounds.iter().enumerate() {
            (leaf.keys[at], leaf.classes[at + 1]) = (wide_key(block.rest(start)), class);
        }
        NodeRef::wide_leaf(self.push(bytemuck::cast(leaf)))
    }

    /// All bounds lie in the `tines`: before, between and after these there is one class each.
    fn fork(&mut self, mut block: Block<'_>, tines: &[Tine]) -> NodeRef {
        let number = self.push(ImageNode([0; 8]));
        let mut fork = Fork { keys: [NO_KEY; _], children: [0; _], skips: [0; _], padding: [0; _] };
        let mut behind = None;
        for (at, tine) in tines.iter().enumerate() {
            let before = block.split(behind.unwrap_or(0), Some(tine.start), 0);
            behind = tine.end();
            let inside = block.split(tine.start, behind, tine.skip);
            fork.keys[2 * at] = wide_key(block.rest(tine.start));
            // A tine at the end of the block has no end to compare.
            let end = behind.map_or(0, |end| block.rest(end));
            fork.keys[2 * at + 1] = if end == 0 { NO_KEY } else { wide_key(end) };
            fork.children[2 * at] = NodeRef::class(before.inherited).0;
            fork.children[2 * at + 1] = self.block(inside).0;
            fork.skips[2 * at + 1] = tine.skip as u8;
        }
        let rest = block.split(behind.unwrap_or(0), None, 0);
        fork.children[2 * tines.len()..].fill(NodeRef::class(rest.inherited).0);
        self.nodes[number as usize] = bytemuck::cast(fork);
        NodeRef::fork(number)
    }

    fn index(&mut self, mut block: Block<'_>, bits: u32) -> NodeRef {
        let bits = bits.clamp(SMALLEST_STEP, LARGEST_INDEX).min(block.bits_in_half());
        let count = 1usize << bits;
        let first = self.nodes.len();
        self.nodes.resize(first + count.div_ceil(16), ImageNode([0; 8]));
        let shift = 128 - block.consumed - bits;
        let prefix = block.bounds[0].0 & !low_bits(128 - block.consumed);
        for number in 0..count {
            let start = prefix | (number as u128) << shift;
            let end = (number + 1 < count).then(|| prefix | (number as u128 + 1) << shift);
            let child = self.block(block.split(start, end, bits));
            let index: &mut Index = bytemuck::cast_mut(&mut self.nodes[first + number / 16]);
            index.children[number % 16] = child.0;
        }
        NodeRef::index(first as u32, bits)
    }

    fn push(&mut self, node: ImageNode) -> u32 {
        self.nodes.push(node);
        (self.nodes.len() - 1) as u32
    }
}

/// A key that is larger than any value compared with it.
const NO_KEY: u64 = 1 << 63;

/// One target of a fork: addresses that share `skip` more bits than their block.
#[derive(Clone, Copy)]
struct Tine {
    start: u128,
    skip: u32,
    /// The remaining bits.
    free: u32,
}

impl Tine {
    /// The smallest tine around all of `bounds`.
    fn around(block: &Block<'_>, bounds: &[Bound<u16>]) -> Self {
        let (first, last) = (bounds[0].0, bounds[bounds.len() - 1].0);
        // The range before the last bound ends with the address in front of it.
        let different = block.rest(first) ^ block.rest(last - 1);
        let skip = different.leading_zeros().min(block.wide_bits());
        let free = 128 - block.consumed - skip;
        Self { start: first & !low_bits(free), skip, free }
    }

    fn end(&self) -> Option<u128> {
        (self.start | low_bits(self.free)).checked_add(1)
    }
}

/// How the tree continues where a leaf does not suffice.
enum Step {
    Index { bits: u32 },
    Fork(Vec<Tine>),
}

fn step(block: &Block<'_>, depth: u32) -> Step {
    let all = Tine::around(block, block.bounds);
    let bits = index_bits(block, depth, all.skip);
    let affordable = bits <= LARGEST_INDEX && 4 << bits <= INDEX_BYTES_A_BOUND * block.bounds.len();
    if all.skip >= SMALLEST_STEP && !affordable {
        return Step::Fork(vec![all]);
    }
    if all.skip < block.wide_bits() {
        let middle = all.start | 1 << (all.free - 1);
        let (low, high) =
            block.bounds.split_at(block.bounds.partition_point(|&(start, _)| start < middle));
        if !low.is_empty() && !high.is_empty() {
            let tines = [low, high].map(|bounds| Tine::around(block, bounds));
            if tines.iter().all(|tine| tine.skip >= all.skip + WORTH_A_FORK) {
                return Step::Fork(tines.to_vec());
            }
        }
    }
    Step::Index { bits }
}

/// The bits that an index over this block should consume. `skip` of them are the same everywhere.
fn index_bits(block: &Block<'_>, depth: u32, skip: u32) -> u32 {
    let bounds = block.bounds.len();
    let bits = |bounds_a_child: usize| {
        bounds.div_ceil(bounds_a_child).next_power_of_two().trailing_zeros()
    };
    let wide = skip + bits(BOUNDS_A_WIDE_LEAF);
    let narrow = (skip + bits(BOUNDS_A_LEAF)).max(depth.saturating_sub(LEAF_BITS));
    // The smaller index causes fewer cache misses.
    if narrow <= LARGEST_INDEX && bytes(narrow, bounds) < bytes(wide, bounds) {
        narrow
    } else {
        wide
    }
}

/// The approximate size in bytes of an index of `bits` and its leaves, for random bounds.
fn bytes(bits: u32, bounds: usize) -> usize {
    let children = 1usize.checked_shl(bits).unwrap_or(usize::MAX / 128);
    4 * children
        + size_of::<ImageNode>()
            * (bounds as f64 / (1.0 + bounds as f64 / children as f64)) as usize
}

/// The lowest `bits` bits.
fn low_bits(bits: u32) -> u128 {
    u128::MAX.checked_shr(128 - bits).unwrap_or(0)
}
