//! The benchmarks. Modules stand in the order in which a measurement comes about.

pub mod plan;
pub mod table;
pub mod programs;
pub mod clock;
pub mod report;
pub mod plot;

pub mod verdict;

pub mod gateway;
pub mod node;
pub mod filters;
pub mod drop;
pub mod forward;
pub mod policy;
pub mod growth;
pub mod load;

pub mod parts;
pub mod targets;
pub mod docs;
