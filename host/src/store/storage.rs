//! Reading plugin storage, for steps. It is written by [`super::storage_writes`].
//!
//! A team's entries are found by the team that comes from the attempt, never from the guest. An entry past its deadline
//! is not there, whether or not its row still is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sqlx::QueryBuilder;

use super::backend::{Connection, on};
use super::rows::PREPARED_ROWS_MAX;
use super::{Store, StoreError, signed, unsigned};
use crate::clock::Timestamp;
use crate::model::effects::Entry;
use crate::model::{EntryKey, Name, Space};

/// Keys in one SELECT.
const KEYS_MAX: usize = 1_000;

#[derive(sqlx::FromRow)]
struct EntryRow {
    key: String,
    value: Vec<u8>,
    version: i64,
    expires_at: Option<i64>,
}

/// Whether an entry is there for those who look now.
pub(super) fn is_live(expires_at: Option<Timestamp>, now: Timestamp) -> bool {
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
    /// The entries of these keys in their order; none where there is no entry or it has run out. Cached.
    ///
    /// # Errors
    /// The database's.
    pub async fn entries(&self, team: &Name, keys: &[EntryKey]) -> Result<Vec<Option<Entry>>, StoreError> {
        let now = self.now();
        let cache = &self.core().caches.storage;
        let mut known: HashMap<EntryKey, Option<Arc<Entry>>> = HashMap::new();
        let mut missing = Vec::new();
        for key in keys {
            let cached = (team.clone(), key.clone());
            match cache.get(&cached) {
                Some(entry) => drop(known.insert(cached.1, entry)),
                None => missing.push(cached.1),
            }
        }
        if !missing.is_empty() {
            known.extend(self.read_entries(team.clone(), missing).await?);
        }
        let live = |entry: &Arc<Entry>| is_live(entry.expires_at, now).then(|| Entry::clone(entry));
        Ok(keys.iter().map(|key| known.get(key).and_then(Option::as_ref).and_then(live)).collect())
    }

    async fn read_entries(
        &self,
        team: Name,
        keys: Vec<EntryKey>,
    ) -> Result<HashMap<EntryKey, Option<Arc<Entry>>>, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let cache = &store.core().caches.storage;
            let tickets: Vec<_> = keys.iter().map(|key| cache.ticket(&(team.clone(), key.clone()))).collect();
            let mut found: HashMap<EntryKey, Option<Arc<Entry>>> = HashMap::new();
            let mut connection = store.core().backend.read().await?;
            for (space, wanted) in by_space(&keys) {
                for wanted in wanted.chunks(KEYS_MAX) {
                    for row in read_space(&mut connection, &team, space, wanted).await? {
                        let entry = Entry {
                            value: row.value,
                            version: unsigned("an entry's version", row.version)?,
                            expires_at: row.expires_at.map(Timestamp::from_micros),
                        };
                        found.insert(EntryKey { space: space.clone(), key: row.key }, Some(Arc::new(entry)));
                    }
                }
            }
            drop(connection);
            for (key, ticket) in keys.into_iter().zip(tickets) {
                let entry = found.entry(key.clone()).or_default().clone();
                let bytes = 256 + key.key.len() + entry.as_ref().map_or(0, |entry| entry.value.len());
                cache.insert(ticket, (team.clone(), key), entry, bytes);
            }
            Ok(found)
        })
        .await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successor_is_the_least_text_after_a_prefix() {
        assert_eq!(successor("ab").as_deref(), Some("ac"));
        assert_eq!(successor("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(successor("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(successor(""), None);
        assert_eq!(successor("\u{10ffff}"), None);
    }
}
