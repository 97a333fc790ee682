//! False lengths.

use opb_lab::frames::Ipv4;

use super::{Add, Bare, frames::*};
use crate::lab::{Family, SERVER, SUBSCRIBER};

use Bare::{ReceiverRefuses, Works};
use Family::{V4, V6};

/// False lengths, and bytes that a wire adds.
pub(super) fn lengths(row: &mut Add) {
    row(
        "bytes behind the packet",
        Works,
        opening(V4, |s| {
            let mut frame = frame4(&ip4(s));
            frame.extend([0; 60]);
            vec![frame]
        }),
    );
    row(
        "IPv4 length beyond the frame",
        ReceiverRefuses,
        opening(V4, |s| vec![frame4(&ip4(s).total_length(1400))]),
    );
    row(
        "IPv4 length without TCP",
        ReceiverRefuses,
        opening(V4, |s| vec![frame4(&ip4(s).total_length(20))]),
    );
    row(
        "IPv6 length beyond the frame",
        ReceiverRefuses,
        opening(V6, |s| one6(ip6(s).payload_length(1400))),
    );
    row("IPv6 length of 0", ReceiverRefuses, opening(V6, |s| one6(ip6(s).payload_length(0))));
    row(
        "data offset of 4 words",
        ReceiverRefuses,
        opening(V4, |s| {
            vec![frame4(
                &Ipv4::new(SUBSCRIBER.v4, SERVER.v4).carrying(s.tcp.clone().data_offset(4)),
            )]
        }),
    );
}
