//! Any bytes as a name server's answer: no panic, and never more addresses than a host may have.

#![no_main]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hickory_resolver::proto::op::Message;
use libfuzzer_sys::fuzz_target;
use opb_userspace::relays::{
    DnsAnswer, Hosts,
    resolver::{MOST, collect},
};

fuzz_target!(|bytes: &[u8]| {
    let mut hosts = Hosts::new(BTreeMap::new(), Duration::from_secs(300));
    // Several answers, one after the other.
    for bytes in bytes.split(|byte| *byte == 0xff) {
        let Ok(message) = Message::from_vec(bytes) else { continue };
        let (addresses, _) = collect("mx", &message.answers);
        assert!(addresses.len() <= MOST);
        let (ipv4, ipv6) = addresses.into_iter().partition(|address| address.is_ipv4());
        let _ = hosts.answered("mx", DnsAnswer { ipv4: Ok(ipv4), ipv6: Ok(ipv6) }, Instant::now());
        assert!(hosts.addresses("mx").count() <= 2 * MOST);
    }
});
