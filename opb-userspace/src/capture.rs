//! Stub of the capture reader. To be overwritten.
use std::path::Path;

pub enum Link {
    Ethernet,
    BareIp,
}

pub struct Packet {
    pub link: Link,
    pub data: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct Error;

pub fn read(_path: &Path) -> Result<std::vec::IntoIter<Result<Packet, Error>>, Error> {
    Err(Error)
}
