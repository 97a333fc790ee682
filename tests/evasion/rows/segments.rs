//! Flags, options and data of the SYN.

use opb_lab::frames::flags;

use super::{Add, Bare, frames::*};
use crate::lab::{Disguise, Family, Opening};

use Bare::{ReceiverRefuses, Works};
use Family::{V4, V6};
use flags::{CWR, ECE, FIN, PSH, RST, SYN, URG};

/// A request for a cookie (RFC 7413, section 4.1.1), padded.
const FAST_OPEN: &[u8] = &[34, 2, 1, 1];

/// Plain connections.
pub(super) fn plain(row: &mut Add) {
    row("no trick, IPv4", Works, opening(V4, plain4));
    row("no trick, IPv6", Works, opening(V6, plain6));
}

/// Odd flags.
pub(super) fn odd_flags(row: &mut Add) {
    let flags = |family, flags| {
        let disguise: Disguise = if family == V4 { plain4 } else { plain6 };
        Opening { flags, ..opening(family, disguise) }
    };
    row("SYN and FIN", ReceiverRefuses, flags(V4, SYN | FIN));
    row("SYN and RST", ReceiverRefuses, flags(V4, SYN | RST));
    row("SYN with ECN", Works, flags(V4, SYN | ECE | CWR));
    row("SYN with ECN, IPv6", Works, flags(V6, SYN | ECE | CWR));
    row("SYN, PSH and URG", Works, flags(V4, SYN | PSH | URG));
}

/// Data and options in the SYN.
pub(super) fn data_and_options(row: &mut Add) {
    let data = |family, options, disguise| Opening {
        options,
        data: b"EHLO fast.example\r\n",
        ..opening(family, disguise)
    };
    row("SYN with data", Works, data(V4, &[], plain4));
    row("Fast Open, IPv4", Works, data(V4, FAST_OPEN, plain4));
    row("Fast Open, IPv6", Works, data(V6, FAST_OPEN, plain6));
    row("40 bytes of TCP options", Works, Opening { options: &[1; 40], ..opening(V4, plain4) });
}
