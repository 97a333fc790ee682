//! The real programs, the real compiler and the real binary on frames that nobody sent.

mod captures;
mod judges;
mod plain;
mod table;
mod verifier;
