//! The real programs, the real compiler and the real binary on frames that nobody sent.

#[path = "kernel/captures.rs"]
mod captures;
#[path = "kernel/judges.rs"]
mod judges;
#[path = "kernel/plain.rs"]
mod plain;
#[path = "kernel/table.rs"]
mod table;
#[path = "kernel/verifier.rs"]
mod verifier;
