//! Flow tables of nftables, by nfnetlink (linux/netfilter/nf_tables.h).

use std::io;

use nix::sys::socket::SockProtocol;

use super::netlink::{self, Attributes};

/// An nftables flow table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowTable {
    pub table: String,
    pub name: String,
    /// Names of the devices whose packets it takes.
    pub devices: Vec<String>,
    /// Whether flows go into hardware (`flags offload`).
    pub hardware: bool,
}

/// Whether this network namespace has nftables tables, also those of iptables-nft.
pub fn has_tables() -> io::Result<bool> {
    const NFT_MSG_GETTABLE: u16 = 1;
    Ok(!dump(NFT_MSG_GETTABLE)?.is_empty())
}

/// All flow tables of this network namespace. Empty where the kernel has no nftables.
pub(super) fn list() -> io::Result<Vec<FlowTable>> {
    // linux/netfilter/nf_tables.h
    const NFT_MSG_GETFLOWTABLE: u16 = 23;
    const NFTA_FLOWTABLE_TABLE: u16 = 1;
    const NFTA_FLOWTABLE_NAME: u16 = 2;
    const NFTA_FLOWTABLE_HOOK: u16 = 3;
    const NFTA_FLOWTABLE_HOOK_DEVS: u16 = 3;
    const NFTA_FLOWTABLE_FLAGS: u16 = 7;
    const NFT_FLOWTABLE_HW_OFFLOAD: u32 = 1;
    let answers = dump(NFT_MSG_GETFLOWTABLE)?;
    let table = |message: &Vec<u8>| {
        let attributes = Attributes(message.get(NFGENMSG..)?);
        let devices = attributes.within(NFTA_FLOWTABLE_HOOK).within(NFTA_FLOWTABLE_HOOK_DEVS);
        let flags = attributes.get(NFTA_FLOWTABLE_FLAGS).and_then(<[u8]>::first_chunk);
        Some(FlowTable {
            table: attributes.text(NFTA_FLOWTABLE_TABLE)?,
            name: attributes.text(NFTA_FLOWTABLE_NAME)?,
            devices: devices.map(|(_, name)| netlink::text(name)).collect(),
            hardware: flags
                .is_some_and(|flags| u32::from_be_bytes(*flags) & NFT_FLOWTABLE_HW_OFFLOAD != 0),
        })
    };
    Ok(answers.iter().filter_map(table).collect())
}

/// Bytes of struct nfgenmsg (linux/netfilter/nfnetlink.h).
const NFGENMSG: usize = 4;

/// Objects of nftables, by message type. Empty where the kernel has no nftables.
fn dump(message: u16) -> io::Result<Vec<Vec<u8>>> {
    // linux/netfilter/nfnetlink.h
    const NFNL_SUBSYS_NFTABLES: u16 = 10;
    let kind = NFNL_SUBSYS_NFTABLES << 8 | message;
    match netlink::list(SockProtocol::NetlinkNetFilter, kind, &[0; NFGENMSG]) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EINVAL | libc::EPROTONOSUPPORT | libc::EOPNOTSUPP)
            ) =>
        {
            Ok(Vec::new())
        }
        answers => answers,
    }
}
