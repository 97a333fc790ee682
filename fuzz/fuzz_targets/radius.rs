//! Any bytes as an accounting request, with and without a right authenticator: no panic, and only what a
//! session may own.

#![no_main]

use libfuzzer_sys::fuzz_target;
use opb_userspace::{
    node::GroupAttribute,
    radius::{
        accounting::{Reading, Request, read},
        packet::Packet,
    },
    subscribers::sessions::event::MOST_ADDRESSES,
    text,
};

fuzz_target!(|bytes: &[u8]| {
    let Some(packet) = Packet::parse(bytes) else { return };
    let secret = b"secret";
    let _ = packet.is_accounting_of(secret) | packet.is_status_of(secret);
    let response = packet.response(secret);
    let response = Packet::parse(&response).expect("a response is well formed");
    assert_eq!(response.identifier(), packet.identifier());
    for group_attribute in
        [GroupAttribute::FilterId, GroupAttribute::Vendor { enterprise: 32473, number: 1 }]
    {
        let reading = Reading { group_attribute, default_group: None };
        let source = std::net::Ipv4Addr::LOCALHOST.into();
        let Ok(Request::Report { event, .. }) = read(&packet, source, 0, &reading) else { continue };
        assert!(event.addresses.len() <= MOST_ADDRESSES);
        assert!(event.addresses.iter().all(|address| address.is_acceptable()));
        let user = event.subscriber.user.as_deref().unwrap_or_default();
        assert!(!user.chars().any(text::is_unsafe), "{user:?}");
    }
});
