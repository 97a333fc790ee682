//! IPv4 in pieces.

use super::{Add, Bare, frames::*};
use crate::lab::{Family, Segment};

use Bare::{ReceiverRefuses, Works};
use Family::V4;

/// IPv4 fragments.
pub(super) fn ipv4(row: &mut Add) {
    row(
        "two fragments, TCP header in the first",
        Works,
        opening(V4, |s| pieces4(s, &[(0, 24), (24, 4096)])),
    );
    row("first fragment of 8 bytes", Works, opening(V4, |s| pieces4(s, &[(0, 8), (8, 4096)])));
    row("first fragment of 16 bytes", Works, opening(V4, |s| pieces4(s, &[(0, 16), (16, 4096)])));
    row(
        "three fragments of 8 bytes",
        Works,
        opening(V4, |s| pieces4(s, &[(0, 8), (8, 16), (16, 4096)])),
    );
    row("fragments in the wrong order", Works, opening(V4, |s| pieces4(s, &[(24, 4096), (0, 24)])));
    row("tiny first fragment last", Works, opening(V4, |s| pieces4(s, &[(8, 4096), (0, 8)])));
    row(
        "last fragment twice, first last",
        Works,
        opening(V4, |s| pieces4(s, &[(24, 4096), (24, 4096), (0, 24)])),
    );
    row(
        "fragments in VLAN 0",
        Works,
        opening(V4, |s| {
            [(0, 8), (8, 4096)]
                .map(|(from, to)| eth().tag(0x8100, 0).carrying(&piece4(s, from, to)))
                .to_vec()
        }),
    );
    row(
        "overlap at 8 bytes rewrites the flags",
        ReceiverRefuses,
        opening(V4, |s| {
            let innocent = Segment { tcp: innocent(), id: s.id };
            vec![frame4(&piece4(&innocent, 0, 24)), frame4(&piece4(s, 8, 4096))]
        }),
    );
    row(
        "second first fragment rewrites the flags",
        ReceiverRefuses,
        opening(V4, |s| {
            let innocent = Segment { tcp: innocent(), id: s.id };
            vec![
                frame4(&piece4(&innocent, 0, 24)),
                frame4(&piece4(s, 0, 24)),
                frame4(&piece4(s, 24, 4096)),
            ]
        }),
    );
}
