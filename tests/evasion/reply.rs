//! What comes back to the subscriber: plain frames of an honest stack.

/// A TCP header that came down the line.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
}

/// The TCP header of an untagged frame, if it is one.
pub(crate) fn reply(frame: &[u8]) -> Option<Reply> {
    let ip = frame.get(14..)?;
    let tcp = match u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]) {
        0x0800 if *ip.get(9)? == 6 => ip.get(usize::from(ip[0] & 15) * 4..)?,
        0x86dd if *ip.get(6)? == 6 => ip.get(40..)?,
        _ => return None,
    };
    let half = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let word = |at: usize| Some(u32::from(half(at)?) << 16 | u32::from(half(at + 2)?));
    Some(Reply {
        source: half(0)?,
        destination: half(2)?,
        sequence: word(4)?,
        acknowledgement: word(8)?,
        flags: *tcp.get(13)?,
    })
}
