//! Presence: tells other processes of this machine that a daemon is responsible for a policy map.
//!
//! The sign is an unpinned map. It ends with its process, however that ends, and is of a kind that
//! needs CAP_BPF. A socket name that anybody can bind, or a file that anybody can lock, would let
//! anybody keep the daemon from starting.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::{MapInfo, MapType, loaded_maps};
use aya_obj::generated::{BPF_F_NO_PREALLOC, bpf_map_type};

use super::sys::{self, MapShape};

const NAME: &std::ffi::CStr = c"opb_daemon";

pub(super) struct Presence {
    _map: OwnedFd,
}

impl Presence {
    /// Fails with `AddrInUse` if another process is present. Of two that start at the same time,
    /// the later one fails.
    pub(super) fn new(policy: u32) -> io::Result<Self> {
        // An empty trie takes no memory for entries, so their number can carry the id of the policy
        // map.
        let shape = MapShape {
            kind: bpf_map_type::BPF_MAP_TYPE_LPM_TRIE,
            value_size: 1,
            entries: policy,
            flags: BPF_F_NO_PREALLOC,
        };
        let map = sys::create_map(NAME, &shape, None)?;
        let own = sys::map_id(map.as_fd())?;
        if present(policy).any(|other| other < own) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        Ok(Self { _map: map })
    }
}

/// Whether a daemon is present for that policy map.
pub(super) fn has_daemon(policy: u32) -> bool {
    present(policy).next().is_some()
}

fn present(policy: u32) -> impl Iterator<Item = u32> {
    // Maps that end meanwhile are skipped.
    let maps = loaded_maps().flatten();
    // The kind counts: where the machine allows it, anybody can make a map of another kind with
    // that name.
    let is_one = move |map: &MapInfo| {
        map.name() == NAME.to_bytes()
            && map.max_entries() == policy
            && map.map_type().is_ok_and(|kind| kind == MapType::LpmTrie)
    };
    maps.filter(is_one).map(|map| map.id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "root: cargo xtask test --lane kernel"]
    fn one_is_present_at_a_time() {
        // No policy map has such a number.
        const POLICY: u32 = u32::MAX - 7;
        assert!(!has_daemon(POLICY));
        let first = Presence::new(POLICY).expect("nobody is there");
        let second = Presence::new(POLICY);
        assert!(second.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse));
        assert!(has_daemon(POLICY) && !has_daemon(POLICY - 1));
        let _other = Presence::new(POLICY - 1).expect("of another map");
        drop(first);
        assert!(!has_daemon(POLICY));
        let shape = MapShape {
            kind: bpf_map_type::BPF_MAP_TYPE_ARRAY,
            value_size: 1,
            entries: 7,
            flags: 0,
        };
        let _other = sys::create_map(NAME, &shape, None).expect("anybody may have one");
        assert!(!has_daemon(7), "of another kind");
        Presence::new(POLICY).expect("nobody is there any more");
    }
}
