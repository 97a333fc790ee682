//! Writes a TCP reset over the packet that it responds to.

use opb_common::{
    frame::OFFSET_MASK,
    parsed::ParsedPacket,
    settings::Settings,
    tcp_reset::{HEADERS4, HEADERS6, reset4, reset6},
};

use crate::window::{Rewrite, Window};

/// Returns the length of the reset in bytes, including the link headers before its IP header.
#[inline(always)]
pub(crate) fn length(packet: &Window, parsed: ParsedPacket) -> usize {
    parsed.ip(packet) + if parsed.is_ipv6() { HEADERS6 } else { HEADERS4 }
}

/// Turns the packet into a reset to its source.
///
/// Rewrites the Ethernet addresses, the IP and TCP headers, and the length field of PPPoE. VLAN
/// tags and the other link headers stay.
#[inline(always)]
pub(crate) fn write<P: Rewrite>(
    packet: &mut P,
    parsed: ParsedPacket,
    settings: Settings,
) -> Option<()> {
    let ppp_bytes = parsed.ppp_bytes();
    if ppp_bytes != 0 {
        // The length field precedes the PPP protocol, and counts from there (RFC 2516, section 4).
        let at = packet.opaque(parsed.ip(packet).wrapping_sub(ppp_bytes + 2)) & OFFSET_MASK;
        let headers = if parsed.is_ipv6() { HEADERS6 } else { HEADERS4 };
        let length = ((headers + ppp_bytes) as u16).to_be_bytes();
        packet.rewrite::<2>(at, |field| *field = length)?;
    }
    if !settings.has(Settings::BARE_IP) {
        packet.rewrite::<12>(0, |addresses| {
            let mut byte = 0;
            while byte < 6 {
                (addresses[byte], addresses[byte + 6]) = (addresses[byte + 6], addresses[byte]);
                byte += 1;
            }
        })?;
    }
    let ip = parsed.ip(packet);
    if parsed.is_ipv6() {
        packet.rewrite(ip, |headers| reset6(headers, settings))
    } else {
        packet.rewrite(ip, |headers| reset4(headers, settings))
    }
}
