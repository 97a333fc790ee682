//! Requests over netlink (linux/netlink.h): one request, and its whole response.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

const HEADER: usize = size_of::<libc::nlmsghdr>();
/// Bytes. The messages of a dump are at most half as long.
const BUFFER: usize = 1 << 16;
/// Attempts of a dump that changes are interrupting.
const ATTEMPTS: usize = 10;

/// Requests one object; returns the body of the response.
pub(super) fn get(protocol: SockProtocol, kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let answers = exchange(protocol, kind, 0, body)?;
    answers.messages.into_iter().next().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Requests all objects (a dump); returns the bodies of the messages.
pub(super) fn list(protocol: SockProtocol, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    for _ in 0..ATTEMPTS {
        let answers = exchange(protocol, kind, libc::NLM_F_DUMP as u16, body)?;
        if !answers.interrupted {
            return Ok(answers.messages);
        }
    }
    Err(io::Error::other("the netlink dump kept being interrupted"))
}

/// Like [`list`], but in one attempt: if objects change meanwhile, the list may mix two moments.
pub(super) fn list_now(protocol: SockProtocol, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    Ok(exchange(protocol, kind, libc::NLM_F_DUMP as u16, body)?.messages)
}

struct Answers {
    messages: Vec<Vec<u8>>,
    /// Objects changed meanwhile; the list may mix two moments.
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

/// Parses everything in `bytes`, with nested attributes.
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
    /// Splits off the first message: length, kind, flags, sequence, port, body, aligned to four
    /// bytes.
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
    /// The value of the first attribute of that kind.
    pub(super) fn get(mut self, wanted: u16) -> Option<&'a [u8]> {
        self.find_map(|(kind, value)| (kind == wanted).then_some(value))
    }

    /// The attributes nested in the first one of that kind. Empty if there is none.
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
