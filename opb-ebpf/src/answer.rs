//! Writing a reset over the packet that it answers.

use opb_common::{frame::Frame as _, settings::Settings, walk::Found};

use crate::window::Window;

/// Writes `reset` where the IP header was, and turns the link layer round: what is between the Ethernet header and
/// IP stays, but for the length of PPPoE.
#[inline(always)]
pub(crate) fn write<const N: usize>(
    packet: &mut Window,
    found: Found,
    settings: Settings,
    reset: &[u8; N],
) -> bool {
    let ip = found.ip(packet);
    let ppp_bytes = found.ppp_bytes();
    if ppp_bytes != 0 {
        // The length stands two bytes in front of the PPP protocol, and counts from there (RFC 2516).
        let at = packet.opaque(ip.wrapping_sub(ppp_bytes + 2)) & opb_common::frame::OFFSET_MASK;
        let Some(length) = packet.header_mut::<2>(at) else { return false };
        *length = ((N + ppp_bytes) as u16).to_be_bytes();
    }
    if !settings.has(Settings::BARE_IP) {
        let Some(addresses) = packet.header_mut::<12>(0) else { return false };
        let mut byte = 0;
        while byte < 6 {
            (addresses[byte], addresses[byte + 6]) = (addresses[byte + 6], addresses[byte]);
            byte += 1;
        }
    }
    let ip = packet.opaque(ip) & opb_common::frame::OFFSET_MASK;
    let Some(headers) = packet.header_mut::<N>(ip) else { return false };
    *headers = *reset;
    true
}
