//! The emergency bypasses: a pinned table that the programs read before they deny a packet.
//!
//! The table alone says what is bypassed, until when, by whom and why. So a bypass survives the
//! daemon, can be started and ended without one, and ends by the kernel's clock. It does not
//! survive a reboot.

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use aya::maps::MapType;
use jiff::{Timestamp, Unit};
use nix::time::{ClockId, clock_gettime};
use opb_common::bypass::{ENTRIES, EVERYBODY, Entry};

use super::{
    Error,
    memory::Table,
    pins::{self, PolicyPins},
    policy::PolicyMaps,
    sys,
};
use crate::{
    api::{
        bypass::{BypassLine, BypassRequest, LONGEST, LONGEST_REASON},
        entries::Who,
    },
    image::GroupIds,
    period::Period,
    text,
};

/// Why a bypass does not start or end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BypassError {
    #[error("no group `{0}` in the policy in force")]
    UnknownGroup(String),
    #[error("invalid duration {0}: expected at most {LONGEST}")]
    TooLong(Period),
    #[error("the reason is empty: say why everything must pass")]
    NoReason,
    #[error("the reason has {0} bytes: expected at most {LONGEST_REASON}")]
    LongReason(usize),
}

/// An active entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveBypass {
    /// The group id, or [`EVERYBODY`].
    index: u32,
    entry: Entry,
}

/// The table.
pub struct Bypasses {
    table: Table<Entry>,
}

impl Bypasses {
    /// Opens the map at `path`, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let shape = Table::<Entry>::shape(ENTRIES);
        let create = || sys::create_map(c"opb_bypass", &shape, None);
        let map = pins::open_or_create(path, MapType::Array, &shape, create)?;
        Ok(Self { table: Table::map(map.as_fd(), ENTRIES)? })
    }

    /// Starts a bypass, or replaces the one of the same group. `ids` are the groups that can have
    /// one.
    pub fn start(
        &self,
        request: &BypassRequest,
        ids: &GroupIds,
        who: &Who,
    ) -> Result<BypassLine, BypassError> {
        let BypassRequest { group, seconds, reason } = request;
        let period = Period::from_secs(seconds.get().into());
        if period.duration() > LONGEST.duration() {
            return Err(BypassError::TooLong(period));
        }
        let reason = text::line(reason.trim()).to_string();
        match reason.len() {
            0 => return Err(BypassError::NoReason),
            1..=LONGEST_REASON => {}
            length => return Err(BypassError::LongReason(length)),
        }
        let index = match group {
            None => EVERYBODY,
            Some(name) => {
                let id = ids.get(name);
                id.ok_or_else(|| BypassError::UnknownGroup(text::line(name).to_string()))?.into()
            }
        };
        let since = now();
        let entry = Entry {
            until: since.saturating_add(period.duration().as_nanos() as u64),
            since,
            uid: who.uid,
            unused: 0,
            user: padded(who.user.as_deref().unwrap_or_default()),
            group: padded(group.as_deref().unwrap_or_default()),
            reason: padded(&reason),
        };
        self.write(index, entry);
        Ok(ActiveBypass { index, entry }.line())
    }

    /// Ends the bypass of `group`, or all bypasses. Returns those that were active.
    pub fn end(&self, group: Option<&str>) -> Vec<BypassLine> {
        let mut ended = self.active();
        ended.retain(|bypass| group.is_none_or(|group| text_of(&bypass.entry.group) == group));
        ended.iter().for_each(|bypass| self.write(bypass.index, Entry::NONE));
        ended.iter().map(ActiveBypass::line).collect()
    }

    #[must_use]
    pub fn active(&self) -> Vec<ActiveBypass> {
        let now = now();
        self.entries().filter(|bypass| now < bypass.entry.until).collect()
    }

    /// Removes the entries that are over, and returns them.
    pub fn expire(&self) -> Vec<ActiveBypass> {
        let now = now();
        let over: Vec<_> = self.entries().filter(|bypass| bypass.entry.until <= now).collect();
        over.iter().for_each(|bypass| self.write(bypass.index, Entry::NONE));
        over
    }

    /// Moves the bypasses of groups to the ids that they have now: a bypass belongs to a name.
    /// Returns the bypasses that are lost, because their groups have no ids any more.
    pub(super) fn follow(&self, ids: &GroupIds) -> Vec<ActiveBypass> {
        let id = |bypass: &ActiveBypass| ids.get(&text_of(&bypass.entry.group)).map(u32::from);
        let active = self.active().into_iter().filter(|bypass| bypass.index != EVERYBODY);
        let moved: Vec<_> = active.filter(|bypass| id(bypass) != Some(bypass.index)).collect();
        moved.iter().for_each(|bypass| self.write(bypass.index, Entry::NONE));
        let (kept, lost): (Vec<_>, Vec<_>) = moved.into_iter().partition(|it| id(it).is_some());
        for bypass in kept {
            if let Some(index) = id(&bypass) {
                self.write(index, bypass.entry);
            }
        }
        lost
    }

    fn entries(&self) -> impl Iterator<Item = ActiveBypass> {
        let all = (0..ENTRIES).map(|index| ActiveBypass { index, entry: self.read(index) });
        all.filter(|bypass| bypass.entry.until != 0)
    }

    fn read(&self, index: u32) -> Entry {
        self.table.read(index as usize)
    }

    /// The programs look at the end alone, which is one word. It comes last, so that a reader never
    /// finds the end of one bypass with the texts of another.
    pub(super) fn write(&self, index: u32, entry: Entry) {
        self.table.write(index as usize, Entry { until: 0, ..entry });
        self.table.write(index as usize, entry);
    }
}

impl ActiveBypass {
    #[must_use]
    pub fn line(&self) -> BypassLine {
        let Entry { until, since, uid, user, group, reason, .. } = &self.entry;
        let now = now();
        let wall = |time: u64| {
            let (ahead, ago) = (time.saturating_sub(now), now.saturating_sub(time));
            let now = Timestamp::now();
            now.checked_add(Duration::from_nanos(ahead))
                .and_then(|time| time.checked_sub(Duration::from_nanos(ago)))
                // The two clocks are not read at once.
                .and_then(|time| time.round(Unit::Second))
                .unwrap_or(now)
        };
        let name = |bytes| Some(text_of(bytes)).filter(|text| !text.is_empty());
        BypassLine {
            group: name(group),
            since: wall(*since),
            until: wall(*until),
            by: Who { uid: *uid, pid: None, user: name(user) },
            reason: text_of(reason),
        }
    }

    /// The group id, 0 if it is for everybody.
    #[must_use]
    pub fn group_id(&self) -> u16 {
        self.index as u16
    }
}

/// The bypasses of a filter whose daemon does not run, or does not answer.
pub struct PinnedBypasses {
    pub bypasses: Bypasses,
    pins: PathBuf,
}

impl PinnedBypasses {
    /// Opens the table under `pins`. Takes no lock. Returns `None` if there is none: nothing was
    /// attached, or by a version without bypasses.
    pub fn open(pins: &Path) -> Result<Option<Self>, Error> {
        let directory = pins::directory(pins);
        let path = pins::bypass(&directory);
        if !path.try_exists().map_err(Error::path("examine", &path))? {
            return Ok(None);
        }
        Ok(Some(Self { bypasses: Bypasses::open(&path)?, pins: directory }))
    }

    /// The groups of the policy in force, by the kernel's copy of it.
    pub fn group_ids(&self) -> Result<GroupIds, Error> {
        let live = PolicyMaps::peek(&PolicyPins::below(&self.pins))?;
        Ok(live.map(|live| live.image.group_ids().clone()).unwrap_or_default())
    }
}

/// The clock that the programs read for bypasses, in nanoseconds.
pub(super) fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// `text`, cut at a character if it is too long, and padded with zeros.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let ends = text.char_indices().map(|(start, character)| start + character.len_utf8());
    let length = ends.take_while(|&end| end <= N).last().unwrap_or(0);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
#[path = "bypass_tests.rs"]
mod tests;
