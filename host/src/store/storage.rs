//! Plugin storage: reads for steps, and the writes of a commit.
//!
//! A team's entries are found by the team that comes from the attempt, never from the guest. An entry past its deadline
//! is not there, whether or not its row still is.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sqlx::QueryBuilder;

use super::backend::{BINDS_MAX, Connection, on};
use super::cache::{Flight, Fresh, Join, Pair, Waiter};
use super::commit::PREPARED_ROWS_MAX;
use super::{CommitError, INVALID_VALUE, NOT_A_NUMBER, Store, StoreError, signed, unsigned};
use crate::clock::Timestamp;
use crate::model::effects::Entry;
use crate::model::{EntryKey, Guard, Name, Space, StorageWrite, WriteAction};

/// As much of a value as an increment looks at: a number has at most 20 characters.
const NUMBER_BYTES: usize = 32;
/// Keys in one SELECT.
const KEYS_MAX: usize = 1_000;

/// Where the versions of entries come from. They only grow, also over the deletion of an entry: a guard with an old
/// version must never match what was put there later. Within a process that holds whatever the clock does; from one
/// process to the next it rests on the clock not going back.
#[derive(Debug, Default)]
pub(super) struct Versions(AtomicI64);

impl Versions {
    fn next(&self, now: Timestamp) -> i64 {
        let after = |last: i64| now.as_micros().max(last.saturating_add(1));
        let last = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(after(last)));
        after(last.unwrap_or_else(|last| last))
    }
}

#[derive(sqlx::FromRow)]
struct EntryRow {
    key: String,
    value: Vec<u8>,
    version: i64,
    expires_at: Option<i64>,
}

type EntryFlight = Flight<(Name, EntryKey), Arc<Entry>>;

/// Where the answer for one key comes from.
enum Lookup {
    Known(Option<Arc<Entry>>),
    Awaited(Waiter<Arc<Entry>>),
}

fn is_live(expires_at: Option<Timestamp>, now: Timestamp) -> bool {
    expires_at.is_none_or(|deadline| deadline > now)
}

fn by_space<'a>(keys: impl IntoIterator<Item = &'a EntryKey>) -> BTreeMap<&'a Space, Vec<&'a str>> {
    let mut spaces: BTreeMap<&Space, Vec<&str>> = BTreeMap::new();
    for key in keys {
        // Postgres holds no NUL in a text, and a key that cannot be written is simply not there.
        if !key.key.contains('\0') {
            spaces.entry(&key.space).or_default().push(&key.key);
        }
    }
    spaces
}

impl Store {
    /// The entry of one key; none if there is none or it has run out. Cached.
    ///
    /// # Errors
    /// The database's.
    pub async fn entry(&self, team: &Name, key: &EntryKey) -> Result<Option<Entry>, StoreError> {
        let looked_up: &dyn Pair<_, _> = &(team, key);
        if let Some(known) = self.core().caches.storage.get(looked_up, 0) {
            return Ok(known.as_deref().cloned());
        }
        let mut entries = self.entries(team, std::slice::from_ref(key)).await?;
        Ok(entries.pop().flatten())
    }

    /// The entries of these keys in their order; none where there is no entry or it has run out. Cached, and those that
    /// are not in the cache are read together.
    ///
    /// # Errors
    /// The database's.
    pub async fn entries(&self, team: &Name, keys: &[EntryKey]) -> Result<Vec<Option<Entry>>, StoreError> {
        let cache = &self.core().caches.storage;
        let mut found = Vec::with_capacity(keys.len());
        let mut flights = Vec::new();
        for key in keys {
            let looked_up: &dyn Pair<_, _> = &(team, key);
            found.push(match cache.get(looked_up, 0) {
                Some(known) => Lookup::Known(known),
                None => match cache.join(&(team.clone(), key.clone()), 0) {
                    Join::Known(known) => Lookup::Known(known),
                    Join::Wait(waiter) => Lookup::Awaited(waiter),
                    Join::Load(flight) => {
                        let waiter = flight.waiter();
                        flights.push(flight);
                        Lookup::Awaited(waiter)
                    }
                },
            });
        }
        // Our own loads run in a task of their own before we wait for others', so nobody waits in a circle.
        self.load_entries(team, flights).await?;
        let mut entries = Vec::with_capacity(keys.len());
        for (key, found) in keys.iter().zip(found) {
            entries.push(match found {
                Lookup::Known(known) => known.as_deref().cloned(),
                Lookup::Awaited(waiter) => self.awaited(team, key, waiter).await?.as_deref().cloned(),
            });
        }
        Ok(entries)
    }

    /// What somebody reads; or what we read ourselves, if that broke off.
    async fn awaited(
        &self,
        team: &Name,
        key: &EntryKey,
        waiter: Waiter<Arc<Entry>>,
    ) -> Result<Option<Arc<Entry>>, StoreError> {
        if let Some(answer) = waiter.answer().await {
            return answer;
        }
        let flight = self.core().caches.storage.alone((team.clone(), key.clone()));
        let waiter = flight.waiter();
        self.load_entries(team, vec![flight]).await?;
        waiter.answer().await.unwrap_or(Err(StoreError::Closed))
    }

    /// Reads what these flights are for, and lands all of them.
    async fn load_entries(&self, team: &Name, mut flights: Vec<EntryFlight>) -> Result<(), StoreError> {
        if flights.is_empty() {
            return Ok(());
        }
        let together = flights.len();
        flights.iter_mut().for_each(|flight| flight.set_together(together));
        let (store, team) = (self.clone(), team.clone());
        self.detached(async move {
            let mut read = store.read_entries(&team, flights.iter().map(|flight| &flight.key().1)).await;
            for flight in flights {
                let fresh = match &mut read {
                    Ok(entries) => Ok(entries.remove(&flight.key().1)),
                    Err(error) => Err(error.clone()),
                };
                // An error is told to everybody, us included, who wait for the flight.
                let _ = flight.land(fresh);
            }
            Ok(())
        })
        .await
    }

    async fn read_entries(
        &self,
        team: &Name,
        keys: impl Iterator<Item = &EntryKey>,
    ) -> Result<HashMap<EntryKey, Fresh<Arc<Entry>>>, StoreError> {
        let now = self.now();
        let mut found = HashMap::new();
        let mut connection = self.core().backend.read().await?;
        for (space, wanted) in by_space(keys) {
            for wanted in wanted.chunks(KEYS_MAX) {
                for row in read_space(&mut connection, team, space, wanted).await? {
                    let expires_at = row.expires_at.map(Timestamp::from_micros);
                    if is_live(expires_at, now) {
                        let bytes = row.key.len() + row.value.len();
                        let version = unsigned("an entry's version", row.version)?;
                        let entry = Arc::new(Entry { value: row.value, version, expires_at });
                        let fresh = Fresh::new(entry, bytes).until(expires_at);
                        found.insert(EntryKey { space: space.clone(), key: row.key }, fresh);
                    }
                }
            }
        }
        Ok(found)
    }

    /// The keys in a bucket that begin with `prefix` and come after `after`, in the order of their bytes.
    ///
    /// # Errors
    /// The database's.
    pub async fn storage_keys(
        &self,
        team: &Name,
        space: &Space,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        if prefix.contains('\0') {
            return Ok(Vec::new());
        }
        let (store, team, space, now) = (self.clone(), team.clone(), space.to_string(), self.now());
        let (prefix, end) = (prefix.to_owned(), successor(prefix));
        // What comes after "a\0b" and holds no NUL comes after "a" too, and is not "a" itself.
        let after = after.map(|after| after.split('\0').next().unwrap_or_default().to_owned());
        self.detached(async move {
            let mut connection = store.core().backend.read().await?;
            Ok(on!(connection, c: Database => {
                let mut query = QueryBuilder::<Database>::new("SELECT key FROM plugin_storage WHERE team = ");
                query.push_bind(team.as_str()).push(" AND space = ").push_bind(space.as_str());
                query.push(" AND key >= ").push_bind(prefix.as_str());
                if let Some(end) = &end {
                    query.push(" AND key < ").push_bind(end.as_str());
                }
                if let Some(after) = &after {
                    query.push(" AND key > ").push_bind(after.as_str());
                }
                query.push(" AND (expires_at IS NULL OR expires_at > ").push_bind(now.as_micros());
                query.push(") ORDER BY key LIMIT ").push_bind(signed(limit));
                query.build_query_scalar().fetch_all(c).await
            })?)
        })
        .await
    }

    /// Gives the space of entries that have run out back, at most `limit` of them, and says how many. They are not
    /// there for anybody anyway.
    ///
    /// # Errors
    /// The database's.
    pub async fn delete_expired_entries(&self, limit: u32) -> Result<u64, StoreError> {
        let (store, now) = (self.clone(), self.now());
        self.detached(async move {
            let mut writing = store.core().backend.begin().await?;
            // The deadline is asked for again outside, where Postgres looks again if a commit was faster.
            let deleted = on!(writing, c => sqlx::query(
                "DELETE FROM plugin_storage WHERE expires_at <= $1 AND (team, space, key) IN \
                 (SELECT team, space, key FROM plugin_storage WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)",
            )
            .bind(now.as_micros())
            .bind(signed(limit))
            .execute(c)
            .await
            .map(|done| done.rows_affected()))?;
            // What has run out is served to nobody, cached or not.
            store.core().commit(writing, &[]).await?;
            Ok(deleted)
        })
        .await
    }
}

async fn read_space(
    connection: &mut Connection,
    team: &Name,
    space: &Space,
    keys: &[&str],
) -> Result<Vec<EntryRow>, StoreError> {
    Ok(on!(connection, c: Database => {
        let mut query = QueryBuilder::<Database>::new(
            "SELECT key, value, version, expires_at FROM plugin_storage WHERE team = ",
        );
        query.push_bind(team.as_str()).push(" AND space = ").push_bind(space.to_string()).push(" AND key IN (");
        let mut list = query.separated(", ");
        for key in keys {
            list.push_bind(*key);
        }
        query.push(")");
        query.build_query_as().persistent(keys.len() <= PREPARED_ROWS_MAX).fetch_all(c).await
    })?)
}

/// The least text that is greater than every text with this prefix: code points and UTF-8 sort alike.
fn successor(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // Surrogates are no characters: after U+D7FF comes U+E000.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

/// What guards and increments look at.
struct Current {
    version: i64,
    expires_at: Option<Timestamp>,
    number: Vec<u8>,
}

struct Put<'a> {
    key: &'a EntryKey,
    value: Cow<'a, [u8]>,
    expires_at: Option<Timestamp>,
}

/// The storage writes of one commit, in its transaction.
pub(super) async fn write(
    connection: &mut Connection,
    team: &Name,
    writes: &[StorageWrite],
    now: Timestamp,
    versions: &Versions,
) -> Result<(), CommitError> {
    if writes.is_empty() {
        return Ok(());
    }
    check_keys(writes)?;
    let looked_at = writes.iter().filter(|w| w.guard.is_some() || matches!(w.action, WriteAction::Increment(_)));
    let current = read_current(connection, team, looked_at.map(|write| &write.key), now).await?;
    let mut puts = Vec::new();
    let mut deletes = Vec::new();
    for write in writes {
        let entry = current.get(&write.key);
        let holds = match write.guard {
            None => true,
            Some(Guard::Absent) => entry.is_none(),
            Some(Guard::Version(version)) => entry.is_some_and(|entry| u64::try_from(entry.version) == Ok(version)),
        };
        if !holds {
            return Err(CommitError::Conflict(shown(&write.key)));
        }
        match &write.action {
            WriteAction::Put { value, ttl_ms } => {
                let expires_at = ttl_ms.map(|ttl| now.after(Duration::from_millis(ttl)));
                puts.push(Put { key: &write.key, value: Cow::Borrowed(value), expires_at });
            }
            WriteAction::Increment(by) => {
                let number = entry.map_or(Ok(0), |entry| number(&write.key, &entry.number))?;
                let value = Cow::Owned(number.saturating_add(*by).to_string().into_bytes());
                puts.push(Put { key: &write.key, value, expires_at: entry.and_then(|entry| entry.expires_at) });
            }
            WriteAction::Delete => deletes.push(&write.key),
        }
    }
    upsert(connection, team, &puts, versions.next(now)).await?;
    delete(connection, team, &deletes).await
}

fn shown(key: &EntryKey) -> String {
    format!("entry '{}' of bucket {}", key.key.escape_debug(), key.space)
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
        return Err(CommitError::Rejected { code: INVALID_VALUE, message: format!("{} {problem}", shown(&write.key)) });
    }
    Ok(())
}

fn number(key: &EntryKey, value: &[u8]) -> Result<i64, CommitError> {
    let text = (value.len() < NUMBER_BYTES).then(|| std::str::from_utf8(value).ok()).flatten();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| CommitError::Rejected {
        code: NOT_A_NUMBER,
        message: format!("{} cannot be incremented: its value is not a decimal number of 64 bits", shown(key)),
    })
}

async fn read_current<'a>(
    connection: &mut Connection,
    team: &Name,
    keys: impl IntoIterator<Item = &'a EntryKey>,
    now: Timestamp,
) -> Result<HashMap<EntryKey, Current>, StoreError> {
    let mut current = HashMap::new();
    for (space, keys) in by_space(keys) {
        for keys in keys.chunks(KEYS_MAX) {
            let rows: Vec<EntryRow> = on!(connection, c: Database => {
                let mut query = QueryBuilder::<Database>::new("SELECT key, substr(value, 1, ");
                query.push(NUMBER_BYTES).push(") AS value, version, expires_at FROM plugin_storage WHERE team = ");
                query.push_bind(team.as_str()).push(" AND space = ").push_bind(space.to_string());
                query.push(" AND key IN (");
                let mut list = query.separated(", ");
                for key in keys {
                    list.push_bind(*key);
                }
                query.push(")");
                query.build_query_as().persistent(keys.len() <= PREPARED_ROWS_MAX).fetch_all(c).await
            })?;
            for row in rows {
                let expires_at = row.expires_at.map(Timestamp::from_micros);
                if is_live(expires_at, now) {
                    let entry = Current { version: row.version, expires_at, number: row.value };
                    current.insert(EntryKey { space: space.clone(), key: row.key }, entry);
                }
            }
        }
    }
    Ok(current)
}

async fn upsert(connection: &mut Connection, team: &Name, puts: &[Put<'_>], version: i64) -> Result<(), CommitError> {
    const COLUMNS: usize = 6;
    for rows in puts.chunks(BINDS_MAX / COLUMNS) {
        on!(connection, c: Database => {
            let mut query = QueryBuilder::<Database>::new(
                "INSERT INTO plugin_storage (team, space, key, value, version, expires_at) ",
            );
            query.push_values(rows, |mut row, put| {
                row.push_bind(team.as_str())
                    .push_bind(put.key.space.to_string())
                    .push_bind(put.key.key.as_str())
                    .push_bind(&*put.value)
                    .push_bind(version)
                    .push_bind(put.expires_at.map(Timestamp::as_micros));
            });
            // The greater of the two has another name in each database.
            query.push(
                " ON CONFLICT (team, space, key) DO UPDATE SET value = excluded.value, \
                 expires_at = excluded.expires_at, version = CASE WHEN plugin_storage.version >= excluded.version \
                 THEN plugin_storage.version + 1 ELSE excluded.version END",
            );
            query.build().persistent(rows.len() <= PREPARED_ROWS_MAX).execute(c).await.map(|_| ())
        })?;
    }
    Ok(())
}

async fn delete(connection: &mut Connection, team: &Name, keys: &[&EntryKey]) -> Result<(), CommitError> {
    for (space, keys) in by_space(keys.iter().copied()) {
        for keys in keys.chunks(KEYS_MAX) {
            on!(connection, c: Database => {
                let mut query = QueryBuilder::<Database>::new("DELETE FROM plugin_storage WHERE team = ");
                query.push_bind(team.as_str()).push(" AND space = ").push_bind(space.to_string());
                query.push(" AND key IN (");
                let mut list = query.separated(", ");
                for key in keys {
                    list.push_bind(*key);
                }
                query.push(")");
                query.build().persistent(keys.len() <= PREPARED_ROWS_MAX).execute(c).await.map(|_| ())
            })?;
        }
    }
    Ok(())
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

    #[test]
    fn successor_is_the_least_text_after_a_prefix() {
        assert_eq!(successor("ab").as_deref(), Some("ac"));
        assert_eq!(successor("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(successor("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(successor(""), None);
        assert_eq!(successor("\u{10ffff}"), None);
    }
}
