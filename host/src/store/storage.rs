//! Reads of plugin storage, for steps. [`super::storage_writes`] writes the rows.
//!
//! The team of an entry comes from the attempt, never from the guest. An entry past its deadline
//! does not exist, even if its row has not been deleted yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sqlx::{AssertSqlSafe, QueryBuilder};

use super::backend::{Connection, with_backend};
use super::cache::{Flight, Join, Loaded, PairKey, Waiter};
use super::redis_cache::{Key, RedisLookup, Row};
use super::rows::SQLITE_ROWS_MAX;
use super::usage::{Amounts, Changes, ENTRY_BYTES, change};
use super::{Store, StoreError, parse, signed, unsigned};
use crate::clock::Timestamp;
use crate::model::effects::Entry;
use crate::model::{EntryKey, Name, Space};

/// The largest number of keys in one SELECT.
const KEYS_MAX: usize = 1_000;

#[derive(sqlx::FromRow)]
struct EntryRow {
    key: String,
    value: Vec<u8>,
    version: i64,
    expires_at: Option<i64>,
}

type EntryFlight = Flight<(Name, EntryKey), Arc<Entry>>;

/// The source of one key's entry.
enum Lookup {
    Known(Option<Arc<Entry>>),
    Awaited(Waiter<Arc<Entry>>),
}

/// Returns whether an entry exists at the time `now`.
pub(super) fn is_live(expires_at: Option<Timestamp>, now: Timestamp) -> bool {
    expires_at.is_none_or(|deadline| deadline > now)
}

fn by_space<'a>(keys: impl IntoIterator<Item = &'a EntryKey>) -> BTreeMap<&'a Space, Vec<&'a str>> {
    let mut spaces: BTreeMap<&Space, Vec<&str>> = BTreeMap::new();
    for key in keys {
        // Postgres cannot store NUL in a text, so an entry with such a key does not exist.
        if !key.key.contains('\0') {
            spaces.entry(&key.space).or_default().push(&key.key);
        }
    }
    spaces
}

impl Store {
    /// Returns the entry of one key; `None` if the entry does not exist or has expired. Cached.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn entry(&self, team: &Name, key: &EntryKey) -> Result<Option<Entry>, StoreError> {
        let looked_up: &dyn PairKey<_, _> = &(team, key);
        if let Some(known) = self.core().caches.storage.get(looked_up, 0) {
            return Ok(known.as_deref().cloned());
        }
        let mut entries = self.entries(team, std::slice::from_ref(key)).await?;
        Ok(entries.pop().flatten())
    }

    /// Returns the entries of these keys in order, with `None` for entries that do not exist or
    /// have expired. Cached; entries that are not cached are read together.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn entries(
        &self,
        team: &Name,
        keys: &[EntryKey],
    ) -> Result<Vec<Option<Entry>>, StoreError> {
        let cache = &self.core().caches.storage;
        let mut found = Vec::with_capacity(keys.len());
        let mut flights = Vec::new();
        for key in keys {
            let looked_up: &dyn PairKey<_, _> = &(team, key);
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
        // Our own loads run in a task of their own before we wait for other callers' loads, so no
        // circle of waiting callers can occur.
        self.load_entries(team, flights).await?;
        let mut entries = Vec::with_capacity(keys.len());
        for (key, found) in keys.iter().zip(found) {
            entries.push(match found {
                Lookup::Known(known) => known.as_deref().cloned(),
                Lookup::Awaited(waiter) => {
                    self.awaited(team, key, waiter).await?.as_deref().cloned()
                }
            });
        }
        Ok(entries)
    }

    /// Returns the entry that another load reads, or reads it again if that load was aborted.
    async fn awaited(
        &self,
        team: &Name,
        key: &EntryKey,
        waiter: Waiter<Arc<Entry>>,
    ) -> Result<Option<Arc<Entry>>, StoreError> {
        if let Some(result) = waiter.result().await {
            return result;
        }
        let flight = self
            .core()
            .caches
            .storage
            .unshared((team.clone(), key.clone()));
        let waiter = flight.waiter();
        self.load_entries(team, vec![flight]).await?;
        waiter.result().await.unwrap_or(Err(StoreError::Closed))
    }

    /// Reads the entries of these loads, and ends all of the loads.
    async fn load_entries(
        &self,
        team: &Name,
        mut flights: Vec<EntryFlight>,
    ) -> Result<(), StoreError> {
        if flights.is_empty() {
            return Ok(());
        }
        let batch_size = flights.len();
        flights
            .iter_mut()
            .for_each(|flight| flight.set_batch_size(batch_size));
        let (store, team) = (self.clone(), team.clone());
        self.detached(async move {
            let mut read = store
                .find_entries(
                    &team,
                    flights.iter().map(|flight| &flight.key().1).collect(),
                )
                .await;
            for flight in flights {
                let loaded = match &mut read {
                    Ok(entries) => Ok(entries.remove(&flight.key().1)),
                    Err(error) => Err(error.clone()),
                };
                // All waiters of the load get the error, this caller included.
                let _ = flight.complete(loaded);
            }
            Ok(())
        })
        .await
    }

    /// Reads entries from Redis, and the missing ones from the database.
    async fn find_entries(
        &self,
        team: &Name,
        mut keys: Vec<&EntryKey>,
    ) -> Result<HashMap<EntryKey, Loaded<Arc<Entry>>>, StoreError> {
        let Some(redis) = &self.core().redis else {
            return self.read_entries(team, keys.into_iter()).await;
        };
        let now = self.now();
        let mut known = HashMap::new();
        // The keys that may be stored in Redis, and the session for it, which is the same for all
        // keys.
        let (mut open, mut put_in) = (Vec::new(), None);
        let asked: Vec<_> = keys.iter().map(|key| Key::Entry(team, key)).collect();
        for (key, found) in keys.iter().zip(redis.get(&asked).await) {
            match found {
                RedisLookup::Row(row) => {
                    if let Some(entry) = decode(&row).filter(|entry| is_live(entry.expires_at, now))
                    {
                        known.insert((*key).clone(), loaded(&key.key, entry));
                    }
                }
                RedisLookup::Nothing(session) => {
                    open.push(*key);
                    put_in = Some(session);
                }
                RedisLookup::Unknown => {}
            }
        }
        keys.retain(|key| !known.contains_key(*key));
        let read = self.read_entries(team, keys.into_iter()).await?;
        if let Some(session) = put_in {
            let rows = open.into_iter().filter_map(|key| {
                let entry = read.get(key)?.value();
                let ttl = entry.expires_at.map(|deadline| deadline.since(now));
                Some(Row {
                    key: Key::Entry(team, key),
                    value: encode(entry),
                    ttl,
                })
            });
            redis.put(&session, rows.collect()).await;
        }
        known.extend(read);
        Ok(known)
    }

    async fn read_entries(
        &self,
        team: &Name,
        keys: impl Iterator<Item = &EntryKey>,
    ) -> Result<HashMap<EntryKey, Loaded<Arc<Entry>>>, StoreError> {
        let now = self.now();
        let mut found = HashMap::new();
        let mut connection = self.read().await?;
        for (space, wanted) in by_space(keys) {
            for wanted in wanted.chunks(KEYS_MAX) {
                let rows = read_space(&mut connection, team, space, wanted).await?;
                connection.charge_rows(rows.len());
                for row in rows {
                    let expires_at = row.expires_at.map(Timestamp::from_micros);
                    if is_live(expires_at, now) {
                        let version = unsigned("an entry's version", row.version)?;
                        let entry = loaded(
                            &row.key,
                            Entry {
                                value: row.value,
                                version,
                                expires_at,
                            },
                        );
                        found.insert(
                            EntryKey {
                                space: space.clone(),
                                key: row.key,
                            },
                            entry,
                        );
                    }
                }
            }
        }
        Ok(found)
    }

    /// Returns the keys in a bucket that begin with `prefix` and come after `after`, in the order
    /// of their bytes.
    ///
    /// # Errors
    /// Any error of the database.
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
        // A key without NUL that comes after "a\0b" also comes after "a".
        let after = after.map(|after| after.split('\0').next().unwrap_or_default().to_owned());
        self.detached(async move {
            let mut connection = store.read().await?;
            let keys: Vec<String> = with_backend!(connection, c: Database => {
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
            })?;
            connection.charge_rows(keys.len());
            Ok(keys)
        })
        .await
    }

    /// Deletes at most `limit` expired entries and returns their number. Reads never return an
    /// expired entry.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn delete_expired_entries(&self, limit: u32) -> Result<u64, StoreError> {
        let (store, now) = (self.clone(), self.now());
        self.detached(async move {
            let mut transaction = store.core().backend.begin().await?;
            // The outer query checks the deadline again: Postgres evaluates it again if another
            // commit was faster.
            let deleted: Vec<(String, i64)> = with_backend!(transaction, c => sqlx::query_as(AssertSqlSafe(format!(
                "DELETE FROM plugin_storage WHERE expires_at <= $1 AND (team, space, key) IN \
                 (SELECT team, space, key FROM plugin_storage WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2) \
                 RETURNING team, CAST({ENTRY_BYTES} AS BIGINT)",
            )))
            .bind(now.as_micros())
            .bind(signed(limit))
            .fetch_all(c)
            .await)?;
            let mut changes = Changes::new();
            for (team, bytes) in &deleted {
                change(&mut changes, &parse("an entry's team", team)?, Amounts::bytes(-bytes));
            }
            // Expired entries are never served from a cache, so nothing has to be invalidated.
            store.core().commit_counted(transaction, &[], &changes).await?;
            Ok(deleted.len() as u64)
        })
        .await
    }
}

fn loaded(key: &str, entry: Entry) -> Loaded<Arc<Entry>> {
    let (bytes, until) = (key.len() + entry.value.len(), entry.expires_at);
    Loaded::new(Arc::new(entry), bytes).until(until)
}

/// Encodes an entry for Redis: its version, its deadline (0 for none), its value.
fn encode(entry: &Entry) -> Vec<u8> {
    let deadline = entry.expires_at.map_or(0, Timestamp::as_micros);
    [
        &entry.version.to_be_bytes(),
        &deadline.to_be_bytes(),
        entry.value.as_slice(),
    ]
    .concat()
}

/// Decodes an entry from Redis; `None` if the row is not in this format.
fn decode(row: &[u8]) -> Option<Entry> {
    let (version, rest) = row.split_first_chunk()?;
    let (deadline, value) = rest.split_first_chunk()?;
    let deadline = i64::from_be_bytes(*deadline);
    let expires_at = (deadline != 0).then_some(Timestamp::from_micros(deadline));
    Some(Entry {
        value: value.to_vec(),
        version: u64::from_be_bytes(*version),
        expires_at,
    })
}

async fn read_space(
    connection: &mut Connection,
    team: &Name,
    space: &Space,
    keys: &[&str],
) -> Result<Vec<EntryRow>, StoreError> {
    Ok(with_backend!(connection, c: Database => {
        let mut query = QueryBuilder::<Database>::new(
            "SELECT key, value, version, expires_at FROM plugin_storage WHERE team = ",
        );
        query.push_bind(team.as_str()).push(" AND space = ").push_bind(space.to_string()).push(" AND key IN (");
        let mut list = query.separated(", ");
        for key in keys {
            list.push_bind(*key);
        }
        query.push(")");
        query.build_query_as().persistent(keys.len() <= SQLITE_ROWS_MAX).fetch_all(c).await
    })?)
}

/// Returns the smallest text greater than every text with this prefix. Code points and UTF-8 bytes
/// have the same order.
fn successor(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // Surrogates are no characters: U+E000 follows U+D7FF.
        let next = if last == '\u{d7ff}' {
            Some('\u{e000}')
        } else {
            char::from_u32(u32::from(last) + 1)
        };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_survives_redis() {
        for expires_at in [None, Some(Timestamp::from_micros(7))] {
            let entry = Entry {
                value: vec![0, 255],
                version: u64::MAX,
                expires_at,
            };
            assert_eq!(decode(&encode(&entry)), Some(entry));
        }
        assert_eq!(decode(b"too short"), None);
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
