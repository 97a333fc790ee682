//! RADIUS accounting (RFC 2866): [`packet`] is the form of packets and their authentication,
//! [`accounting`] turns a request into a report on a session, [`secrets`] are those shared with
//! clients, and [`statistics`] count what became of packets.
//!
//! Our own codec: a listener for accounting needs a small part of the protocol. Of the crates that
//! we looked at, radius-rust 0.4 rests on rust-crypto, which nobody maintains, and radius-server 0.2 is
//! a server of its own, hardly documented.

pub mod accounting;
pub mod packet;
pub mod secrets;
pub mod statistics;
