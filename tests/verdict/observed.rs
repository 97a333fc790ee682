//! Whose address an event names.

use opb_common::{
    observation::{Addresses, addresses},
    outcome::Line,
    settings::Settings,
};
use opb_lab::{
    frames::{Ethernet, Ipv4, Ipv6, Tcp},
    naive::Sample,
    packets::hosts::{DYNAMIC, OUTSIDE},
};

use crate::policy;

/// The subscriber is the source upstream and the destination downstream.
#[test]
fn an_event_names_the_subscriber_in_either_direction() {
    let policy = policy();
    for settings in [Settings::default(), Settings::DOWNSTREAM] {
        let downstream = settings.has(Settings::DOWNSTREAM);
        let (from, to) = if downstream { (OUTSIDE, DYNAMIC) } else { (DYNAMIC, OUTSIDE) };
        let tcp = || if downstream { Tcp::syn_ack_from(25) } else { Tcp::syn_to(25) };
        let mapped = |address: std::net::Ipv4Addr| address.to_ipv6_mapped();
        for (frame, subscriber, peer) in [
            (
                Ethernet::new().carrying(&Ipv4::new(from.v4, to.v4).carrying(tcp())),
                mapped(DYNAMIC.v4),
                mapped(OUTSIDE.v4),
            ),
            (
                Ethernet::new().carrying(&Ipv6::new(from.v6, to.v6).carrying(tcp())),
                DYNAMIC.v6,
                OUTSIDE.v6,
            ),
        ] {
            let sample = Sample { frame, settings, tags_out_of_band: 0 };
            let parsed = policy.parse(&sample);
            let named = addresses(&sample, parsed, Line::Own, downstream).expect("it is readable");
            let Addresses { subscriber: of, peer: other, .. } = named;
            let bits = |[high, low]: [u64; 2]| u128::from(high) << 64 | u128::from(low);
            assert_eq!(
                (bits(of), bits(other)),
                (subscriber.to_bits(), peer.to_bits()),
                "downstream: {downstream}"
            );
        }
    }
}
