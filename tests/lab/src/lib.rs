//! A small internet on one machine: what the demo and the tests that need root share.
//!
//! Modules stand from the ground up: an empty network, processes in it, mail and web servers, the
//! filter under test, and on top of them the conformance table that the filter has to pass.
//! Nothing here imitates a protocol's far end: mail travels between real Postfix instances, and all
//! traffic stays inside namespaces made for the run.

pub mod preflight;

pub mod bpffs;
pub mod netns;
pub mod process;
pub mod workdir;

pub mod mta;
pub mod services;

pub mod topology;

pub mod attached;
pub mod counts;
pub mod opb;

mod letter;

pub mod faq;

pub mod demo;
