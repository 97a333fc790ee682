//! The TCP reset that answers a rejected packet, as a foreign library builds it (RFC 9293, section 3.10.7.1).

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader, TcpSlice};

/// The answer to `request`: `headers` bytes stand in front of its IP header, the last `ppp` of them the PPP protocol.
///
/// # Panics
///
/// If the request is not TCP behind an IP header without options.
#[must_use]
pub fn of(request: &[u8], headers: usize, ppp: usize) -> Vec<u8> {
    let (link, packet) = request.split_at(headers);
    let mut answer = [&link[6..12], &link[..6], &link[12..]].concat();
    let is_v4 = packet[0] >> 4 == 4;
    let (length, header, tcp) = if is_v4 {
        let (ip, payload) = Ipv4Header::from_slice(packet).expect("IPv4");
        let tcp = segment(payload);
        let mut header =
            Ipv4Header::new(20, 64, IpNumber::TCP, ip.destination, ip.source).expect("short");
        (header.identification, header.dont_fragment) = (0, true);
        header.header_checksum = header.calc_header_checksum();
        let checksum = tcp.calc_checksum_ipv4(&header, &[]).expect("short");
        (40, header.to_bytes().to_vec(), TcpHeader { checksum, ..tcp })
    } else {
        let (ip, payload) = Ipv6Header::from_slice(packet).expect("IPv6");
        let tcp = segment(payload);
        let header = Ipv6Header {
            payload_length: 20,
            next_header: IpNumber::TCP,
            hop_limit: 64,
            source: ip.destination,
            destination: ip.source,
            ..Ipv6Header::default()
        };
        let checksum = tcp.calc_checksum_ipv6(&header, &[]).expect("short");
        (60, header.to_bytes().to_vec(), TcpHeader { checksum, ..tcp })
    };
    if ppp > 0 {
        let at = headers - ppp - 2;
        answer[at..at + 2].copy_from_slice(&(length as u16 + ppp as u16).to_be_bytes());
    }
    answer.extend(header);
    answer.extend(tcp.to_bytes());
    answer
}

/// All but the checksum.
fn segment(request: &[u8]) -> TcpHeader {
    let request = TcpSlice::from_slice(request).expect("TCP");
    let (source, destination) = (request.destination_port(), request.source_port());
    if request.ack() {
        let header = TcpHeader::new(source, destination, request.acknowledgment_number(), 0);
        return TcpHeader { rst: true, ..header };
    }
    let length =
        request.payload().len() as u32 + u32::from(request.syn()) + u32::from(request.fin());
    TcpHeader {
        rst: true,
        ack: true,
        acknowledgment_number: request.sequence_number().wrapping_add(length),
        ..TcpHeader::new(source, destination, 0, 0)
    }
}
