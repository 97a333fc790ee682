//! From ranges to the search tree that [`opb_common::image::lookup`] walks.

use opb_common::image::{Branch, Index, Leaf, Node, Slot};

use super::ranges::Bound;

/// Bounds that a slot of an index should have on average: most subtrees then fit one leaf.
const BOUNDS_A_SLOT: usize = 7;
/// The most bits that an index takes at once.
const LARGEST_INDEX: u32 = 20;
/// Bytes of index that one bound may cost where that lets leaves stand directly under the index.
const INDEX_BYTES_A_BOUND: usize = 256;

/// Appends the tree of `bounds` to `nodes`; the first bound starts at 0.
pub(super) fn build(nodes: &mut Vec<Node>, bounds: &[Bound<u16>]) -> Slot {
    let (inherited, bounds) = match bounds {
        [(0, class), rest @ ..] => (*class, rest),
        _ => (0, bounds),
    };
    Builder { nodes }.block(Block { consumed: 0, inherited, bounds })
}

struct Builder<'a> {
    nodes: &'a mut Vec<Node>,
}

/// All addresses that share their first `consumed` bits.
#[derive(Clone, Copy)]
struct Block<'a> {
    consumed: u32,
    /// The class at the first address of the block.
    inherited: u16,
    /// What changes behind the first address, in order.
    bounds: &'a [Bound<u16>],
}

impl<'a> Block<'a> {
    /// Bits that are left in this half of the address.
    fn bits_in_half(&self) -> u32 {
        64 - self.consumed % 64
    }

    /// Bits that a search takes.
    fn key_bits(&self) -> u32 {
        self.bits_in_half().min(16)
    }

    /// The next 16 bits of this half, as [`opb_common::image::lookup`] sees them.
    fn key(&self, address: u128) -> u16 {
        let half = if self.consumed < 64 { (address >> 64) as u64 } else { address as u64 };
        (half << (self.consumed % 64) >> 48) as u16
    }

    /// What follows the next `bits` bits of an address, highest bit first.
    fn behind(&self, address: u128, bits: u32) -> u128 {
        address.checked_shl(self.consumed + bits).unwrap_or(0)
    }

    /// Bits up to and including the last that any bound has set.
    fn depth(&self) -> u32 {
        let deepest =
            self.bounds.iter().map(|&(start, _)| self.behind(start, 0).trailing_zeros()).min();
        128 - deepest.unwrap_or(128)
    }

    /// Cuts off the bounds before `end`, as a block of its own behind `bits` more bits, whose first
    /// address is `start`. What holds at its end is inherited by what is left.
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
    fn block(&mut self, block: Block<'_>) -> Slot {
        if block.bounds.is_empty() {
            return Slot::class(block.inherited);
        }
        let slot = if block.bounds.len() < 16 && block.depth() <= block.key_bits() {
            self.leaf(block)
        } else if let Some(keys) = branch_keys(&block) {
            self.branch(block, &keys)
        } else {
            self.index(block)
        };
        if block.consumed == 64 { slot.in_second_half() } else { slot }
    }

    fn leaf(&mut self, block: Block<'_>) -> Slot {
        // Places behind the last key repeat its class under the largest key, which changes no answer.
        let last = block.bounds.last().map_or(block.inherited, |&(_, class)| class);
        let mut leaf = Leaf { keys: [u16::MAX; 16], classes: [last; 16] };
        (leaf.keys[0], leaf.classes[0]) = (0, block.inherited);
        for (at, &(start, class)) in block.bounds.iter().enumerate() {
            (leaf.keys[at + 1], leaf.classes[at + 1]) = (block.key(start), class);
        }
        Slot::leaf(self.push(bytemuck::cast(leaf)))
    }

    fn branch(&mut self, mut block: Block<'_>, keys: &[u16]) -> Slot {
        let bits = block.key_bits();
        let prefix = block.bounds[0].0;
        let number = self.push(Node([0; 8]));
        let mut branch = Branch { keys: [u16::MAX; 8], slots: [0; 8], padding: [0; 4] };
        for (at, &key) in keys.iter().enumerate() {
            let start = self.first_address(prefix, block.consumed, key);
            let end = keys.get(at + 1).map(|&key| self.first_address(prefix, block.consumed, key));
            let consumed = block.split(start, end, bits);
            (branch.keys[at], branch.slots[at]) = (key, self.block(consumed).0);
        }
        let last = branch.slots[keys.len() - 1];
        branch.slots[keys.len()..].fill(last);
        self.nodes[number as usize] = bytemuck::cast(branch);
        Slot::branch(number)
    }

    fn index(&mut self, mut block: Block<'_>) -> Slot {
        let bits = index_bits(&block);
        let count = 1usize << bits;
        let first = self.nodes.len();
        self.nodes.resize(first + count.div_ceil(16), Node([0; 8]));
        let shift = 128 - block.consumed - bits;
        let prefix = block.bounds[0].0 & !low_bits(128 - block.consumed);
        for number in 0..count {
            let start = prefix | (number as u128) << shift;
            let end = (number + 1 < count).then(|| prefix | (number as u128 + 1) << shift);
            let slot = self.block(block.split(start, end, bits));
            let index: &mut Index = bytemuck::cast_mut(&mut self.nodes[first + number / 16]);
            index.slots[number % 16] = slot.0;
        }
        Slot::index(first as u32, bits)
    }

    /// The lowest address with `key` behind the first `consumed` bits of `prefix`.
    fn first_address(&self, prefix: u128, consumed: u32, key: u16) -> u128 {
        let key = u128::from(key) << 112 >> (consumed % 64);
        let key = if consumed < 64 { key } else { key >> 64 };
        prefix & !low_bits(128 - consumed) | key
    }

    fn push(&mut self, node: Node) -> u32 {
        self.nodes.push(node);
        (self.nodes.len() - 1) as u32
    }
}

/// The keys of a branch over this block, if it has few enough: where something changes, and behind each block
/// that changes inside.
fn branch_keys(block: &Block<'_>) -> Option<Vec<u16>> {
    let bits = block.key_bits();
    let unit = 1u16 << (16 - bits);
    let mut keys = vec![0];
    let mut last = None;
    for &(start, _) in block.bounds {
        let key = block.key(start);
        if last == Some((key, true)) {
            continue;
        }
        let inside = block.behind(start, bits) != 0;
        last = Some((key, inside));
        for key in
            [Some(key), if inside { key.checked_add(unit) } else { None }].into_iter().flatten()
        {
            if keys.last() != Some(&key) {
                keys.push(key);
            }
        }
        if keys.len() > 8 {
            return None;
        }
    }
    Some(keys)
}

/// How many bits an index over this block takes.
fn index_bits(block: &Block<'_>) -> u32 {
    let slots = block.bounds.len().div_ceil(BOUNDS_A_SLOT).next_power_of_two();
    let wanted = slots.trailing_zeros().clamp(4, LARGEST_INDEX);
    let for_leaves = block.depth().saturating_sub(16);
    let affordable =
        for_leaves <= LARGEST_INDEX && 4 << for_leaves <= INDEX_BYTES_A_BOUND * block.bounds.len();
    let bits = if affordable { wanted.max(for_leaves) } else { wanted };
    bits.min(block.bits_in_half())
}

/// The lowest `bits` bits.
fn low_bits(bits: u32) -> u128 {
    u128::MAX.checked_shr(128 - bits).unwrap_or(0)
}
