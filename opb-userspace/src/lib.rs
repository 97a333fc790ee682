//! The opb daemon and command line. Modules stand in the order in which data flows.

pub mod capture;
pub mod policy;
