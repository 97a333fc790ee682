//! What the demo and the tests share.
//!
//! For verdicts on single frames:
//!
//! 1. [`frames`] builds a frame byte by byte;
//! 2. [`naive`] turns a policy into an image the slow and obvious way;
//! 3. [`packets`] is the packet table: one policy, and frames with the verdict that each must get;
//! 4. [`generate`] makes frames at random, for tests that compare two judges;
//! 5. [`reset`] is the answer that a rejected frame must get.
//!
//! And a small internet on one machine, from the ground up: an empty network, processes in it, mail and web
//! servers, the filter under test, and on top of them the conformance table that the filter has to pass.
//! Nothing here imitates a protocol's far end: mail travels between real Postfix instances, and all
//! traffic stays inside namespaces made for the run.

pub mod frames;
pub mod naive;
pub mod packets;
pub mod generate;
pub mod reset;

mod macros;
pub mod preflight;
pub mod release;

pub mod bpffs;
pub mod netns;
pub mod process;
pub mod workdir;

pub mod mta;
pub mod services;

pub mod trivial;
pub mod tun;
pub mod wire;
pub mod line;

pub mod topology;

pub mod attached;
pub mod counts;
pub mod slots;
pub mod node;
pub mod opb;
pub mod prober;
#[cfg(feature = "library")]
pub mod programs;
#[cfg(feature = "library")]
pub mod filter;

mod letter;

pub mod faq;

pub mod demo;
