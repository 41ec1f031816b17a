//! Writes of plugin storage: the guards, increments and values of many commits, in their order.
//!
//! Several commits of one group may touch the same entry, and each must see the writes of the
//! commits before it. So the entries are read once, the commits are applied to them in memory, and
//! only the final state of each entry is written.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::backend::Connection;
use super::rows::{self, Column};
use super::storage::is_live;
use super::usage::ROW_BYTES;
use super::{CommitError, Conflict, INVALID_VALUE, NOT_A_NUMBER, StoreError, signed};
use crate::clock::Timestamp;
use crate::model::{EntryKey, Guard, Name, StorageWrite, WriteAction};

/// The number of bytes of a value that an increment reads. A number has at most 20 characters.
const NUMBER_BYTES: usize = 32;
pub(super) const DELETE: &str =
    "DELETE FROM plugin_storage WHERE (team, space, key) IN (SELECT * FROM {rows})";

/// The source of entry versions. Versions only grow, even when an entry is deleted and created
/// again, so a guard with an old version never matches a later entry. Within a process this holds
/// whatever the clock does. Across restarts it depends on the clock not going back. On Postgres,
/// where several hosts write, a sequence assigns the final version.
#[derive(Debug, Default)]
pub(super) struct Versions(AtomicI64);

impl Versions {
    pub(super) fn next(&self, now: Timestamp) -> i64 {
        let after = |last: i64| now.as_micros().max(last.saturating_add(1));
        let last = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(after(last)));
        after(last.unwrap_or_else(|last| last))
    }
}

/// Returns the keys of the writes that depend on the present entry: guarded writes and increments.
pub(super) fn looked_at<'a>(
    team: &'a Name,
    writes: &'a [StorageWrite],
) -> impl Iterator<Item = (&'a Name, &'a EntryKey)> {
    // Postgres cannot store NUL in a text, so an entry with such a key does not exist.
    let looks = |write: &&StorageWrite| {
        (write.guard.is_some() || matches!(write.action, WriteAction::Increment(_)))
            && !write.key.key.contains('\0')
    };
    writes
        .iter()
        .filter(looks)
        .map(move |write| (team, &write.key))
}

/// Returns the keys of the writes.
pub(super) fn written<'a>(
    team: &'a Name,
    writes: &'a [StorageWrite],
) -> impl Iterator<Item = (&'a Name, &'a EntryKey)> {
    writes
        .iter()
        .filter(|write| !write.key.key.contains('\0'))
        .map(move |write| (team, &write.key))
}

/// The entries of a group of commits.
#[derive(Default)]
pub(super) struct Entries<'a> {
    /// The present state of all entries that are written, after the commits applied so far.
    seen: HashMap<(&'a Name, &'a EntryKey), Option<StoredEntry>>,
    /// The entries to write. Sorted, so that two hosts on one database lock them in the same order.
    pending: BTreeMap<(&'a Name, &'a EntryKey), PendingValue<'a>>,
}

/// The part of an entry that guards, increments and quotas need.
#[derive(Clone)]
struct StoredEntry {
    version: i64,
    expires_at: Option<Timestamp>,
    /// The first [`NUMBER_BYTES`] of the value.
    start: Vec<u8>,
    /// The counted size of the whole row, in bytes.
    bytes: i64,
}

#[derive(Clone)]
enum PendingValue<'a> {
    Value {
        value: Cow<'a, [u8]>,
        version: i64,
        expires_at: Option<Timestamp>,
    },
    Nothing,
}

/// A row of `plugin_storage`, or only its key.
struct Row<'a> {
    index: usize,
    team: &'a Name,
    space: String,
    key: &'a str,
    value: Cow<'a, [u8]>,
    version: i64,
    expires_at: Option<Timestamp>,
}

impl<'a> Row<'a> {
    fn key(index: usize, (team, key): (&'a Name, &'a EntryKey)) -> Self {
        let space = key.space.to_string();
        Self {
            index,
            team,
            space,
            key: &key.key,
            value: Cow::default(),
            version: 0,
            expires_at: None,
        }
    }
}

impl<'a> Entries<'a> {
    /// Reads the entries that the writes concern, and locks them on Postgres.
    pub(super) async fn look(
        connection: &mut Connection,
        keys: BTreeSet<(&'a Name, &'a EntryKey)>,
    ) -> Result<Self, StoreError> {
        let asked: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(index, key)| Row::key(index, *key))
            .collect();
        // SQLite does not reorder a CROSS JOIN, so it looks up each key, even if it considers the
        // table small.
        let sql = format!(
            "SELECT given.column1, seen.version, seen.expires_at, substr(seen.value, 1, {NUMBER_BYTES}), \
             CAST(octet_length(seen.value) AS BIGINT) \
             FROM {{rows}} CROSS JOIN plugin_storage AS seen \
             WHERE seen.team = given.column2 AND seen.space = given.column3 AND seen.key = given.column4{{lock}}"
        );
        let columns = [
            Column::Integer(|row: &Row| signed(row.index)),
            Column::Text(|row| row.team.as_str()),
            Column::Text(|row| &row.space),
            Column::Text(|row| row.key),
        ];
        type Found = (i64, i64, Option<i64>, Vec<u8>, i64);
        let found: Vec<Found> = rows::fetch(connection, &sql, &columns, &asked).await?;
        let mut found: HashMap<usize, StoredEntry> = found
            .into_iter()
            .filter_map(|(index, version, expires_at, start, value_bytes)| {
                let expires_at = expires_at.map(Timestamp::from_micros);
                let index = usize::try_from(index).ok()?;
                let bytes = ROW_BYTES + signed(asked.get(index)?.key.len()) + value_bytes;
                Some((
                    index,
                    StoredEntry {
                        version,
                        expires_at,
                        start,
                        bytes,
                    },
                ))
            })
            .collect();
        let seen = keys
            .into_iter()
            .enumerate()
            .map(|(index, key)| (key, found.remove(&index)))
            .collect();
        Ok(Self {
            seen,
            pending: BTreeMap::new(),
        })
    }

    /// Applies the writes of the next commit, or none of them after an error. `allow` gets the
    /// change of the team's stored bytes, and may refuse the writes.
    pub(super) fn apply(
        &mut self,
        team: &'a Name,
        writes: &'a [StorageWrite],
        now: Timestamp,
        version: i64,
        allow: impl FnOnce(i64) -> Result<(), CommitError>,
    ) -> Result<(), CommitError> {
        check_keys(writes)?;
        let pending = writes
            .iter()
            .map(|write| Ok((&write.key, self.after(team, write, now, version)?)));
        let pending = pending.collect::<Result<Vec<_>, CommitError>>()?;
        let bytes = |entry: Option<&StoredEntry>| entry.map_or(0, |entry| entry.bytes);
        let before = writes
            .iter()
            .map(|write| bytes(self.seen.get(&(team, &write.key)).and_then(Option::as_ref)));
        let after = pending
            .iter()
            .map(|(key, pending)| bytes(pending.seen(key).as_ref()));
        allow(after.sum::<i64>() - before.sum::<i64>())?;
        for (key, pending) in pending {
            self.seen.insert((team, key), pending.seen(key));
            self.pending.insert((team, key), pending);
        }
        Ok(())
    }

    fn after(
        &self,
        team: &Name,
        write: &'a StorageWrite,
        now: Timestamp,
        version: i64,
    ) -> Result<PendingValue<'a>, CommitError> {
        let key = &write.key;
        let entry = self.seen.get(&(team, key)).and_then(Option::as_ref);
        let entry = entry.filter(|entry| is_live(entry.expires_at, now));
        let holds = match write.guard {
            None => true,
            Some(Guard::Absent) => entry.is_none(),
            Some(Guard::Version(version)) => {
                entry.is_some_and(|entry| u64::try_from(entry.version) == Ok(version))
            }
        };
        if !holds {
            return Err(CommitError::Conflict(Conflict::Entry(key.clone())));
        }
        Ok(match &write.action {
            WriteAction::Put { value, ttl_ms } => {
                let expires_at = ttl_ms.map(|ttl| now.after(Duration::from_millis(ttl)));
                PendingValue::Value {
                    value: Cow::Borrowed(value),
                    version,
                    expires_at,
                }
            }
            WriteAction::Increment(by) => {
                let number = entry.map_or(Ok(0), |entry| number(key, &entry.start))?;
                let value = Cow::Owned(number.saturating_add(*by).to_string().into_bytes());
                PendingValue::Value {
                    value,
                    version,
                    expires_at: entry.and_then(|entry| entry.expires_at),
                }
            }
            WriteAction::Delete => PendingValue::Nothing,
        })
    }

    /// Writes the final states of the entries.
    pub(super) async fn write(self, connection: &mut Connection) -> Result<(), StoreError> {
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        for (key, pending) in self.pending {
            let row = Row::key(0, key);
            match pending {
                PendingValue::Value {
                    value,
                    version,
                    expires_at,
                } => puts.push(Row {
                    value,
                    version,
                    expires_at,
                    ..row
                }),
                PendingValue::Nothing => deletes.push(row),
            }
        }
        upsert(connection, &puts).await?;
        delete(connection, &deletes).await
    }
}

impl PendingValue<'_> {
    /// Returns the entry as the next commit sees it; `None` for a deleted entry.
    fn seen(&self, key: &EntryKey) -> Option<StoredEntry> {
        match self {
            Self::Value {
                value,
                version,
                expires_at,
            } => {
                let start = value.iter().take(NUMBER_BYTES).copied().collect();
                let bytes = ROW_BYTES + signed(key.key.len() + value.len());
                Some(StoredEntry {
                    version: *version,
                    expires_at: *expires_at,
                    start,
                    bytes,
                })
            }
            Self::Nothing => None,
        }
    }
}

fn shown(key: &EntryKey) -> String {
    Conflict::Entry(key.clone()).to_string()
}

fn check_keys(writes: &[StorageWrite]) -> Result<(), CommitError> {
    let mut seen = HashSet::new();
    for write in writes {
        let problem = if write.key.key.contains('\0') {
            "has a NUL character in its key"
        } else if !seen.insert(&write.key) {
            "is written twice"
        } else {
            continue;
        };
        return Err(CommitError::Rejected {
            code: INVALID_VALUE,
            message: format!("{} {problem}", shown(&write.key)),
        });
    }
    Ok(())
}

fn number(key: &EntryKey, value: &[u8]) -> Result<i64, CommitError> {
    let text = (value.len() < NUMBER_BYTES)
        .then(|| std::str::from_utf8(value).ok())
        .flatten();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| CommitError::Rejected {
            code: NOT_A_NUMBER,
            message: format!(
                "{} cannot be incremented: its value is not a decimal number of 64 bits",
                shown(key)
            ),
        })
}

async fn upsert(connection: &mut Connection, puts: &[Row<'_>]) -> Result<(), StoreError> {
    let sql = match connection {
        // The two databases have different functions for the greater of two numbers, so CASE is
        // used.
        Connection::Sqlite(_) => {
            "INSERT INTO plugin_storage (team, space, key, value, version, expires_at) \
             SELECT * FROM {rows} WHERE given.column1 IS NOT NULL \
             ON CONFLICT (team, space, key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at, \
             version = CASE WHEN plugin_storage.version >= excluded.version THEN plugin_storage.version + 1 \
             ELSE excluded.version END"
        }
        Connection::Postgres(_) => {
            "INSERT INTO plugin_storage (team, space, key, value, version, expires_at) \
             SELECT column1, column2, column3, column4, nextval('plugin_storage_version'), column6 FROM {rows} \
             WHERE column5 IS NOT NULL ON CONFLICT (team, space, key) DO UPDATE SET value = excluded.value, \
             expires_at = excluded.expires_at, version = nextval('plugin_storage_version')"
        }
    };
    let columns = [
        Column::Text(|row: &Row| row.team.as_str()),
        Column::Text(|row| &row.space),
        Column::Text(|row| row.key),
        Column::Bytes(|row| &row.value),
        Column::Integer(|row| row.version),
        Column::MaybeInteger(|row| row.expires_at.map(Timestamp::as_micros)),
    ];
    rows::execute(connection, sql, &columns, puts)
        .await
        .map(|_| ())
}

async fn delete(connection: &mut Connection, deletes: &[Row<'_>]) -> Result<(), StoreError> {
    let columns = [
        Column::Text(|row: &Row| row.team.as_str()),
        Column::Text(|row| &row.space),
        Column::Text(|row| row.key),
    ];
    rows::execute(connection, DELETE, &columns, deletes)
        .await
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_grow_while_the_clock_stands_or_goes_back() {
        let versions = Versions::default();
        let first = versions.next(Timestamp::from_micros(100));
        let second = versions.next(Timestamp::from_micros(100));
        let third = versions.next(Timestamp::from_micros(50));
        let fourth = versions.next(Timestamp::from_micros(1_000));
        assert_eq!((first, second, third, fourth), (100, 101, 102, 1_000));
    }
}
