//! `storage`: buckets of the attempt's own team. Writes stay in the attempt until it completes.

use std::collections::BTreeSet;

use wasmtime::component::Resource;

use super::super::attempt::{AttemptState, unavailable};
use super::super::bindings::stepwell::plugin::storage::{self, Entry, HostError, Page, Put};
use super::super::resources::Bucket;
use crate::clock::Timestamp;
use crate::model::effects::{self, EntryKey, Guard, Space};
use crate::model::plugin::Interface;

impl storage::Host for AttemptState {
    fn open(
        &mut self,
        space: storage::Space,
    ) -> wasmtime::Result<Result<Resource<Bucket>, HostError>> {
        let _span = self.enter("storage.open")?;
        let call = match self.granted(Interface::Storage) {
            Ok(call) => call,
            Err(denied) => return Ok(Err(denied)),
        };
        let space = match space {
            storage::Space::Instance => Space::Instance(call.instance_id),
            storage::Space::Plugin => Space::Plugin(call.plugin.manifest.name.clone()),
            storage::Space::Shared(name) => {
                match call.plugin.grants.shared_buckets.get(name.as_str()) {
                    Some(granted) => Space::Shared(granted.clone()),
                    None => {
                        let shown: String =
                            name.chars().take(63).flat_map(char::escape_debug).collect();
                        return Ok(Err(HostError::Denied(format!(
                            "this plugin version holds no grant for the shared bucket '{shown}'"
                        ))));
                    }
                }
            }
        };
        if self.resources.iter_mut().count() >= self.services.limits.handles_max {
            return Ok(Err(HostError::Limit(format!(
                "at most {} handles may be open at a time",
                self.services.limits.handles_max
            ))));
        }
        Ok(Ok(self.resources.push(Bucket { space })?))
    }
}

impl storage::HostBucket for AttemptState {
    async fn get(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Entry>, HostError>> {
        let _span = self.enter("storage.get")?;
        let space = self.resources.get(&bucket)?.space.clone();
        Ok(self.read_one(space, key).await)
    }

    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<Option<Entry>>, HostError>> {
        let _span = self.enter("storage.get-many")?;
        let space = self.resources.get(&bucket)?.space.clone();
        Ok(self.read(space, keys).await)
    }

    async fn set(
        &mut self,
        bucket: Resource<Bucket>,
        put: Put,
    ) -> wasmtime::Result<Result<(), HostError>> {
        let _span = self.enter("storage.set")?;
        let space = self.resources.get(&bucket)?.space.clone();
        Ok(self.write(space, vec![put]).await)
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        puts: Vec<Put>,
    ) -> wasmtime::Result<Result<(), HostError>> {
        let _span = self.enter("storage.set-many")?;
        let space = self.resources.get(&bucket)?.space.clone();
        Ok(self.write(space, puts).await)
    }

    fn delete(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<(), HostError>> {
        let _span = self.enter("storage.delete")?;
        let space = self.resources.get(&bucket)?.space.clone();
        Ok(self.delete_all(&space, vec![key]))
    }

    fn delete_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<(), HostError>> {
        let _span = self.enter("storage.delete-many")?;
        let space = self.resources.get(&bucket)?.space.clone();
        Ok(self.delete_all(&space, keys))
    }

    fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> wasmtime::Result<Result<(), HostError>> {
        let _span = self.enter("storage.increment")?;
        let space = self.resources.get(&bucket)?.space.clone();
        let incremented = self
            .granted(Interface::Storage)
            .and_then(|_| self.key(space, key))
            .and_then(|key| {
                self.effects
                    .check_room([&key], 0, &self.services.limits)
                    .map_err(HostError::Limit)?;
                self.effects
                    .increment(key, delta)
                    .map_err(HostError::Invalid)
            });
        Ok(incremented)
    }

    async fn list(
        &mut self,
        bucket: Resource<Bucket>,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> wasmtime::Result<Result<Page, HostError>> {
        let _span = self.enter("storage.list")?;
        let space = self.resources.get(&bucket)?.space.clone();
        Ok(self.page(space, prefix, after, limit).await)
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.resources.delete(bucket)?;
        Ok(())
    }
}

impl AttemptState {
    fn key(&self, space: Space, key: String) -> Result<EntryKey, HostError> {
        let max = self.services.limits.storage_key_bytes_max;
        if key.is_empty() || key.len() > max {
            return Err(HostError::Invalid(format!(
                "a key must have 1 to {max} bytes, and has {}",
                key.len()
            )));
        }
        // PostgreSQL cannot store a zero byte in a text, and both databases must accept the same
        // keys.
        if key.contains('\0') {
            return Err(HostError::Invalid(
                "a key must not contain a zero byte".to_owned(),
            ));
        }
        Ok(EntryKey { space, key })
    }

    fn keys(&self, space: &Space, keys: Vec<String>) -> Result<Vec<EntryKey>, HostError> {
        let max = self.services.limits.storage_keys_max;
        if keys.len() > max {
            return Err(HostError::Limit(format!(
                "at most {max} keys a call, and there are {}",
                keys.len()
            )));
        }
        keys.into_iter()
            .map(|key| self.key(space.clone(), key))
            .collect()
    }

    fn delete_all(&mut self, space: &Space, keys: Vec<String>) -> Result<(), HostError> {
        self.granted(Interface::Storage)?;
        let keys = self.keys(space, keys)?;
        self.effects
            .check_room(&keys, 0, &self.services.limits)
            .map_err(HostError::Limit)?;
        keys.into_iter().for_each(|key| self.effects.delete(key));
        Ok(())
    }

    async fn read_one(&mut self, space: Space, key: String) -> Result<Option<Entry>, HostError> {
        let call = self.granted(Interface::Storage)?;
        let key = self.key(space, key)?;
        let committed = self
            .services
            .store
            .entry(&call.team, &key)
            .await
            .map_err(|error| unavailable(&error))?;
        self.seen(&key, committed, self.services.clock.now())
    }

    async fn read(
        &mut self,
        space: Space,
        keys: Vec<String>,
    ) -> Result<Vec<Option<Entry>>, HostError> {
        let call = self.granted(Interface::Storage)?;
        let keys = self.keys(&space, keys)?;
        let committed = self
            .services
            .store
            .entries(&call.team, &keys)
            .await
            .map_err(|error| unavailable(&error))?;
        let now = self.services.clock.now();
        keys.iter()
            .zip(committed)
            .map(|(key, committed)| self.seen(key, committed, now))
            .collect()
    }

    /// Returns the entry that the guest sees: `committed` with the attempt's pending write applied.
    fn seen(
        &self,
        key: &EntryKey,
        committed: Option<effects::Entry>,
        now: Timestamp,
    ) -> Result<Option<Entry>, HostError> {
        let seen = self
            .effects
            .overlay(key, committed, now)
            .map_err(HostError::Invalid)?;
        Ok(seen.map(
            |effects::Entry {
                 value,
                 version,
                 expires_at,
             }| Entry {
                value,
                version,
                expires_at: expires_at.map(|at| u64::try_from(at.as_micros()).unwrap_or(0)),
            },
        ))
    }

    async fn write(&mut self, space: Space, puts: Vec<Put>) -> Result<(), HostError> {
        let call = self.granted(Interface::Storage)?;
        let keys = self.keys(&space, puts.iter().map(|put| put.key.clone()).collect())?;
        if keys.iter().collect::<BTreeSet<_>>().len() < keys.len() {
            return Err(HostError::Invalid(
                "a key may appear once in a call".to_owned(),
            ));
        }
        let max = self.services.limits.storage_value_bytes_max;
        if let Some(large) = puts.iter().find(|put| put.value.len() > max) {
            return Err(HostError::Limit(format!(
                "a value may have {max} bytes, and has {}",
                large.value.len()
            )));
        }
        let bytes = puts.iter().map(|put| put.value.len()).sum();
        self.effects
            .check_room(&keys, bytes, &self.services.limits)
            .map_err(HostError::Limit)?;
        self.check_guards(&call.team, &keys, &puts).await?;
        for (key, put) in keys.into_iter().zip(puts) {
            self.effects
                .put(key, put.value, put.ttl_ms, put.if_version.map(guard));
        }
        Ok(())
    }

    /// Checks guards early. A guard that fails now would also fail at commit time, so the guest
    /// learns it at once. A guard that holds now is checked again in the commit. Guards always
    /// refer to the committed version, even if this attempt has a pending write of the key.
    async fn check_guards(
        &mut self,
        team: &crate::model::Name,
        keys: &[EntryKey],
        puts: &[Put],
    ) -> Result<(), HostError> {
        let guarded: Vec<_> = keys
            .iter()
            .zip(puts)
            .filter(|(_, put)| put.if_version.is_some())
            .collect();
        if guarded.is_empty() {
            return Ok(());
        }
        let read: Vec<_> = guarded.iter().map(|(key, _)| (*key).clone()).collect();
        let committed = self
            .services
            .store
            .entries(team, &read)
            .await
            .map_err(|error| unavailable(&error))?;
        let broken = guarded.iter().zip(committed).find(|((_, put), committed)| {
            put.if_version != Some(committed.as_ref().map_or(0, |entry| entry.version))
        });
        match broken {
            None => Ok(()),
            Some(((key, _), _)) => {
                self.conflict = Some((*key).clone());
                Err(HostError::Conflict)
            }
        }
    }

    async fn page(
        &mut self,
        space: Space,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> Result<Page, HostError> {
        let call = self.granted(Interface::Storage)?;
        if !(1..=1_000).contains(&limit) {
            return Err(HostError::Invalid(format!(
                "limit must be 1 to 1000, and is {limit}"
            )));
        }
        let max = self.services.limits.storage_key_bytes_max;
        if prefix.len() > max || after.as_ref().is_some_and(|after| after.len() > max) {
            return Err(HostError::Invalid(format!(
                "prefix and after may have at most {max} bytes"
            )));
        }
        if prefix.contains('\0') || after.as_ref().is_some_and(|after| after.contains('\0')) {
            return Err(HostError::Invalid(
                "prefix and after must not contain a zero byte".to_owned(),
            ));
        }
        let pending: Vec<_> = self
            .effects
            .keys(&space, &prefix, after.as_deref())
            .collect();
        // Each pending delete may remove one committed key from the page. One more key shows
        // whether there is a next page.
        let deletes = pending.iter().filter(|(_, exists)| !exists).count();
        let wanted = limit
            .saturating_add(u32::try_from(deletes).unwrap_or(u32::MAX))
            .saturating_add(1);
        let committed = self
            .services
            .store
            .storage_keys(&call.team, &space, &prefix, after.as_deref(), wanted)
            .await
            .map_err(|error| unavailable(&error))?;
        let mut keys: BTreeSet<String> = committed.into_iter().collect();
        for (key, exists) in pending {
            if exists {
                keys.insert(key.to_owned());
            } else {
                keys.remove(key);
            }
        }
        let more = keys.len() > limit as usize;
        let keys: Vec<_> = keys.into_iter().take(limit as usize).collect();
        let next = if more { keys.last().cloned() } else { None };
        Ok(Page { keys, next })
    }
}

fn guard(if_version: u64) -> Guard {
    match if_version {
        0 => Guard::Absent,
        version => Guard::Version(version),
    }
}
