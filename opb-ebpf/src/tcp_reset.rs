//! Writing a reset over the packet that it answers.

use opb_common::{
    frame::{Frame, OFFSET_MASK},
    parsed::ParsedPacket,
    settings::Settings,
    tcp_reset::{HEADERS4, HEADERS6, reset4, reset6},
};

use crate::window::Window;

/// Length of the answer, with all that stands in front of its IP header.
#[inline(always)]
pub(crate) fn length(packet: &Window, parsed: ParsedPacket) -> usize {
    parsed.ip(packet) + if parsed.is_ipv6() { HEADERS6 } else { HEADERS4 }
}

/// A packet that is changed in place.
pub(crate) trait Rewrite: Frame {
    /// Changes the `N` bytes at `offset`; `None` if they are not all there.
    fn rewrite<const N: usize>(
        &mut self,
        offset: usize,
        change: impl FnOnce(&mut [u8; N]),
    ) -> Option<()>;
}

/// Turns the packet round: Ethernet addresses and IP and TCP headers. What stands between them stays, but for the
/// length of PPPoE.
#[inline(always)]
pub(crate) fn write<P: Rewrite>(
    packet: &mut P,
    parsed: ParsedPacket,
    settings: Settings,
) -> Option<()> {
    let ppp_bytes = parsed.ppp_bytes();
    if ppp_bytes != 0 {
        // It stands in front of the PPP protocol, and counts from there (RFC 2516).
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
