//! RADIUS accounting (RFC 2866): [`packet`] is the form of packets and their authentication,
//! [`accounting`] turns a request into a report on a session, [`secrets`] are those shared with
//! clients, and [`statistics`] count what became of packets.
//!
//! Our own codec: a server of accounting needs a fraction of the protocol, and the crates for it
//! were older than two years, without Message-Authenticator for accounting, or built on
//! cryptography that nobody keeps.

pub mod accounting;
pub mod packet;
pub mod secrets;
pub mod statistics;
