//! The opb daemon and command line. Modules stand in the order in which data flows.

pub mod api;
pub mod files;
pub mod text;
pub mod node;
pub mod policy;
pub mod private;
pub mod subscribers;
pub mod relays;
pub mod image;
pub mod compiled;
pub mod kernel;
pub mod capture;
pub mod explain;
pub mod diff;
pub mod telemetry;
pub mod daemon;
pub mod doctor;
pub mod period;
pub mod errors;
