//! The policy image: one immutable array of 64-byte nodes that holds everything a verdict needs.
//!
//! [`lookup()`] finds the class of an address in a search tree, in the same way for both families.
//! A tree consumes the address from its highest bit on. Each step reads one node:
//!
//! - an **index** takes the next 4 to 20 bits as the number of a child;
//! - a **fork** compares all remaining bits of this half of the address with up to 4 keys, and
//!   skips the bits that all addresses between two keys have in common;
//! - a **leaf** searches the next 16 bits among up to 16 keys, each with a class;
//! - a **wide leaf** searches all remaining bits of this half among up to 6 keys.
//!
//! A child is a [`NodeRef`]: a class, or a reference to the next node. A search takes the last key
//! that is not larger than the address. A flag in the [`NodeRef`] switches to the second half of an
//! IPv6 address.
//!
//! The compiler picks the number of index bits so that most subtrees fit one leaf of either kind.
//! At a million prefixes, a lookup costs two dependent cache misses.

mod layout;
mod tree;
mod lookup;

pub use layout::*;
pub use lookup::*;
pub use tree::*;
