//! What the demo and the tests share.
//!
//! 1. [`frames`] builds a frame byte by byte;
//! 2. [`naive`] turns a policy into an image the slow and obvious way;
//! 3. [`packets`] is the packet table: one policy, and frames with the verdict that each must get;
//! 4. [`generate`] makes frames at random, for tests that compare two judges.

pub mod frames;
pub mod generate;
pub mod naive;
pub mod packets;
