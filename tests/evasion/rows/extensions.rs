//! IPv6 extension headers and fragments.

use super::{Add, Bare, frames::*};
use crate::lab::{Family, RELAY};

use Bare::{ReceiverRefuses, Works};
use Family::V6;

/// Extension headers, including that of a single fragment.
pub(super) fn headers(row: &mut Add) {
    row("hop-by-hop options", Works, opening(V6, |s| one6(ip6(s).hop_by_hop(1))));
    row(
        "one destination options header",
        Works,
        opening(V6, |s| one6(ip6(s).destination_options(1))),
    );
    row("eight destination options headers", Works, opening(V6, |s| one6(options6(s, 8))));
    row("nine destination options headers", Works, opening(V6, |s| one6(options6(s, 9))));
    row("twenty destination options headers", Works, opening(V6, |s| one6(options6(s, 20))));
    row(
        "routing header, no segments left",
        Works,
        opening(V6, |s| one6(ip6(s).routing(0, 0, &[RELAY.v6]))),
    );
    row("atomic fragment", Works, opening(V6, |s| one6(fragment6(ip6(s), s, 0, false))));
    row(
        "two atomic fragments in one packet",
        ReceiverRefuses,
        opening(V6, |s| one6(fragment6(fragment6(ip6(s), s, 0, false), s, 0, false))),
    );
    row(
        "atomic fragment behind options",
        Works,
        opening(V6, |s| {
            one6(
                fragment6(ip6(s).hop_by_hop(1).destination_options(1), s, 0, false)
                    .destination_options(1),
            )
        }),
    );
    row("authentication header", ReceiverRefuses, opening(V6, |s| one6(ip6(s).authentication(4))));
}

/// IPv6 in pieces.
pub(super) fn fragments(row: &mut Add) {
    row(
        "two fragments, TCP header in the first",
        Works,
        opening(V6, |s| pieces6(s, &[(0, 24), (24, 4096)])),
    );
    row("fragments in the wrong order", Works, opening(V6, |s| pieces6(s, &[(24, 4096), (0, 24)])));
    row(
        "first fragment of 8 bytes",
        ReceiverRefuses,
        opening(V6, |s| pieces6(s, &[(0, 8), (8, 4096)])),
    );
    row(
        "chain cut by the fragment",
        ReceiverRefuses,
        opening(V6, |s| {
            let packet = |offset, more| fragment6(ip6(s), s, offset, more).destination_options(1);
            vec![cut6(&packet(0, true), 0, 8), cut6(&packet(1, false), 8, 4096)]
        }),
    );
    row(
        "overlapping fragments",
        ReceiverRefuses,
        opening(V6, |s| pieces6(s, &[(0, 24), (16, 4096)])),
    );
}
