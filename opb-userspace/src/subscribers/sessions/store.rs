//! The table of sessions on disk.

use std::sync::Arc;

use redb::TableDefinition;

use super::{Key, Session, SessionChanges, Sessions};
use crate::subscribers::{
    Error,
    store::{Origin, Store, json},
};

/// Keys are those of [`bytes`], values are JSON: members can be added without another version of the
/// store. A store from before there were sessions gets the table when it is opened.
pub(in crate::subscribers) const SESSIONS: TableDefinition<'_, &[u8], &[u8]> =
    TableDefinition::new("sessions");

impl Store {
    /// All records.
    pub fn sessions(&self) -> Result<Vec<Session>, Error> {
        self.pairs(SESSIONS)?.into_iter().map(|[_, value]| self.parse(&value)).collect()
    }

    /// Writes all of `changes` or none of them. They are on disk when this returns.
    pub(in crate::subscribers) fn commit_sessions(
        &self,
        changes: &SessionChanges,
    ) -> Result<(), Error> {
        self.write(|transaction| {
            let mut table = transaction.open_table(SESSIONS)?;
            for (key, session) in changes {
                match session {
                    Some(session) => drop(table.insert(&*bytes(key), &*json(session))?),
                    None => drop(table.remove(&*bytes(key))?),
                }
            }
            Ok(())
        })
    }

    /// Removes all records from the disk, if there are any.
    pub(in crate::subscribers) fn clear_sessions(&self) -> Result<(), Error> {
        if self.pairs(SESSIONS)?.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            transaction.delete_table(SESSIONS)?;
            transaction.open_table(SESSIONS)?;
            Ok(())
        })
    }

    /// Brings the table on disk to the acknowledged state, after an error.
    pub(in crate::subscribers) fn restore_sessions(
        &self,
        sessions: &Sessions,
    ) -> Result<(), Error> {
        let found = Sessions::of(self.sessions()?);
        let mut changes = SessionChanges::new();
        for (key, session) in sessions.all() {
            if found.records.get(key).map(|record| &record.session) != Some(session) {
                changes.insert(key.clone(), Some(Arc::clone(session)));
            }
        }
        let refused = found.records.keys().filter(|key| !sessions.records.contains_key(*key));
        changes.extend(refused.map(|key| (key.clone(), None)));
        if changes.is_empty() {
            return Ok(());
        }
        if self.origin == Origin::Memory {
            // Nothing was acknowledged since, so these are somebody else's.
            return Err(Error::Replaced { path: self.path().to_owned() });
        }
        self.commit_sessions(&changes)
    }
}

/// The key of a record: the length of the name of the NAS, that name, and the session's.
fn bytes(Key { nas, id }: &Key) -> Vec<u8> {
    let length = u16::try_from(nas.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&length[..], nas.as_bytes(), id.as_bytes()].concat()
}
