//! Questions to the kernel over netlink (linux/netlink.h): one request, and the whole of its answer.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

const HEADER: usize = size_of::<libc::nlmsghdr>();
/// The kernel's own messages in a dump are at most half as long.
const BUFFER: usize = 1 << 16;
/// How often a list is asked for again that changed while the kernel told it.
const ATTEMPTS: usize = 10;

/// Asks for one thing; the body of the answer.
pub(super) fn get(protocol: SockProtocol, kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let answers = exchange(protocol, kind, 0, body)?;
    answers.messages.into_iter().next().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Asks for all there are; the bodies of the answers.
pub(super) fn list(protocol: SockProtocol, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    for _ in 0..ATTEMPTS {
        let answers = exchange(protocol, kind, libc::NLM_F_DUMP as u16, body)?;
        if !answers.interrupted {
            return Ok(answers.messages);
        }
    }
    Err(io::Error::other("what was to be listed changed all the time"))
}

/// The same, of one attempt: where the list changes meanwhile, the answers may be of two times.
pub(super) fn list_now(protocol: SockProtocol, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    Ok(exchange(protocol, kind, libc::NLM_F_DUMP as u16, body)?.messages)
}

struct Answers {
    messages: Vec<Vec<u8>>,
    /// The list changed meanwhile, and may be of two times.
    interrupted: bool,
}

fn exchange(protocol: SockProtocol, kind: u16, flags: u16, body: &[u8]) -> io::Result<Answers> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, Some(protocol))?;
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request.extend([1u32.to_ne_bytes(), [0; 4]].concat()); // sequence, port
    request.extend(body);
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;

    let mut answers = Answers { messages: Vec::new(), interrupted: false };
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((message, after)) = Message::split(rest) {
            rest = after;
            answers.interrupted |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
            match libc::c_int::from(message.kind) {
                libc::NLMSG_DONE => return Ok(answers),
                libc::NLMSG_ERROR => {
                    let code =
                        message.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(-code));
                }
                _ => answers.messages.push(message.body.to_vec()),
            }
            if flags == 0 {
                return Ok(answers);
            }
        }
    }
}

/// Goes through everything that can be read in `bytes`.
#[cfg(fuzzing)]
pub(super) fn walk(bytes: &[u8]) {
    fn attributes(bytes: &[u8], depth: usize) {
        for (kind, value) in Attributes(bytes) {
            assert!(value.len() <= bytes.len());
            let of_it = Attributes(bytes);
            drop((of_it.number(kind), of_it.text(kind)));
            if depth < 8 {
                attributes(value, depth + 1);
            }
        }
    }
    let mut rest = bytes;
    while let Some((message, after)) = Message::split(rest) {
        assert!(after.len() < rest.len(), "it comes to an end");
        attributes(message.body, 0);
        rest = after;
    }
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first message, and what follows it: length, kind, flags, sequence, port, body, aligned to four bytes.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let flags = u16::from_ne_bytes(*bytes.get(6..)?.first_chunk()?);
        let body = bytes.get(HEADER..length)?;
        Some((Self { kind, flags, body }, bytes.get(length.next_multiple_of(4)..).unwrap_or(&[])))
    }
}

/// Attributes of a message, or of another attribute: length, kind, value, aligned to four bytes.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        const NESTED_OR_BIG_ENDIAN: u16 = 3 << 14;
        let &[low, high, kind_low, kind_high, ..] = self.0 else { return None };
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([kind_low, kind_high]) & !NESTED_OR_BIG_ENDIAN, value))
    }
}

impl<'a> Attributes<'a> {
    /// The value of the first of that kind.
    pub(super) fn get(mut self, wanted: u16) -> Option<&'a [u8]> {
        self.find_map(|(kind, value)| (kind == wanted).then_some(value))
    }

    /// Those within the first of that kind; none where it is absent.
    pub(super) fn within(self, wanted: u16) -> Self {
        Attributes(self.get(wanted).unwrap_or_default())
    }

    pub(super) fn number(self, wanted: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.get(wanted)?.try_into().ok()?))
    }

    /// Text up to its NUL.
    pub(super) fn text(self, wanted: u16) -> Option<String> {
        self.get(wanted).map(text)
    }
}

/// Text up to its NUL.
pub(super) fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
