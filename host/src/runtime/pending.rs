//! The writes of an attempt so far. Reads see them before the store; at the end they become
//! [`Effects`].

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::config::Limits;
use crate::model::effects::{Effects, Entry, EntryKey, Guard, Space, StorageWrite, WriteAction};
use crate::model::schema::CHECK_WORK_MAX;
use crate::model::{Json, NewInstance};
use crate::store::{KeyHolder, KeyHolders};

/// Writes of one attempt.
#[derive(Debug)]
pub(super) struct PendingEffects {
    storage: BTreeMap<EntryKey, (WriteAction, Option<Guard>)>,
    instances: Vec<NewInstance>,
    /// New instances that have an idempotency key, by workflow and key.
    keys: KeyHolders,
    metadata: BTreeMap<Uuid, Json>,
    storage_bytes: usize,
    batch_bytes: usize,
    /// Work left for checks of inputs. No deadline interrupts a check, so that the checks of an
    /// attempt share the work of one.
    schema_work: u64,
}

impl Default for PendingEffects {
    fn default() -> Self {
        Self {
            storage: BTreeMap::new(),
            instances: Vec::new(),
            keys: KeyHolders::new(),
            metadata: BTreeMap::new(),
            storage_bytes: 0,
            batch_bytes: 0,
            schema_work: CHECK_WORK_MAX,
        }
    }
}

impl PendingEffects {
    pub(super) fn into_effects(self) -> Effects {
        Effects {
            storage: self
                .storage
                .into_iter()
                .map(|(key, (action, guard))| StorageWrite { key, action, guard })
                .collect(),
            instances: self.instances,
            metadata: self.metadata.into_iter().collect(),
            logs: Vec::new(),
        }
    }

    /// Returns the work left for checks of inputs against schemas.
    pub(super) fn schema_work(&mut self) -> &mut u64 {
        &mut self.schema_work
    }

    /// Checks that writing these keys and this many bytes of values stays within the limits. The
    /// error names the limit.
    pub(super) fn check_room<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a EntryKey>,
        bytes: usize,
        limits: &Limits,
    ) -> Result<(), String> {
        let new_keys = keys
            .into_iter()
            .filter(|key| !self.storage.contains_key(key))
            .count();
        if self.storage.len() + new_keys > limits.storage_keys_max {
            return Err(format!(
                "an attempt may write at most {} keys",
                limits.storage_keys_max
            ));
        }
        // Overwriting a pending value counts again: the limit bounds the work, not only the final
        // size.
        if self.storage_bytes.saturating_add(bytes) > limits.storage_write_bytes_max {
            return Err(format!(
                "an attempt may write at most {} bytes of values",
                limits.storage_write_bytes_max
            ));
        }
        Ok(())
    }

    pub(super) fn put(
        &mut self,
        key: EntryKey,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
        guard: Option<Guard>,
    ) {
        self.storage_bytes = self.storage_bytes.saturating_add(value.len());
        self.write(key, WriteAction::Put { value, ttl_ms }, guard);
    }

    pub(super) fn delete(&mut self, key: EntryKey) {
        self.write(key, WriteAction::Delete, None);
    }

    pub(super) fn increment(&mut self, key: EntryKey, delta: i64) -> Result<(), String> {
        let action = match self.storage.get(&key) {
            None => WriteAction::Increment(delta),
            Some((WriteAction::Increment(sum), _)) => {
                WriteAction::Increment(sum.saturating_add(delta))
            }
            Some((WriteAction::Delete, _)) => WriteAction::Put {
                value: delta.to_string().into(),
                ttl_ms: None,
            },
            Some((WriteAction::Put { value, ttl_ms }, _)) => WriteAction::Put {
                value: add(value, delta)?,
                ttl_ms: *ttl_ms,
            },
        };
        self.write(key, action, None);
        Ok(())
    }

    /// Records a write. A later write of a key replaces an earlier one, but the first guard stays:
    /// it refers to the version committed before this attempt, which no write of this attempt
    /// changes.
    fn write(&mut self, key: EntryKey, action: WriteAction, guard: Option<Guard>) {
        let earlier = self.storage.get(&key).and_then(|(_, guard)| *guard);
        self.storage.insert(key, (action, earlier.or(guard)));
    }

    /// Returns the entry that this attempt sees: `committed` with the pending write applied.
    pub(super) fn overlay(
        &self,
        key: &EntryKey,
        committed: Option<Entry>,
        now: Timestamp,
    ) -> Result<Option<Entry>, String> {
        let version = committed.as_ref().map_or(0, |entry| entry.version);
        Ok(match self.storage.get(key) {
            None => committed,
            Some((WriteAction::Delete, _)) => None,
            Some((WriteAction::Put { value, ttl_ms }, _)) => Some(Entry {
                value: value.clone(),
                version,
                expires_at: ttl_ms.map(|ms| now.after(std::time::Duration::from_millis(ms))),
            }),
            Some((WriteAction::Increment(delta), _)) => Some(match committed {
                Some(entry) => Entry {
                    value: add(&entry.value, *delta)?,
                    ..entry
                },
                None => Entry {
                    value: delta.to_string().into(),
                    version: 0,
                    expires_at: None,
                },
            }),
        })
    }

    /// Returns the pending keys of a bucket that begin with `prefix` and come after `after`, each
    /// with false if it is deleted.
    pub(super) fn keys<'a>(
        &'a self,
        space: &'a Space,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a str, bool)> {
        self.storage.iter().filter_map(move |(key, (action, _))| {
            let listed = key.space == *space
                && key.key.starts_with(prefix)
                && after.is_none_or(|after| key.key.as_str() > after);
            listed.then(|| (key.key.as_str(), *action != WriteAction::Delete))
        })
    }

    pub(super) fn instances(&self) -> &[NewInstance] {
        &self.instances
    }

    /// Returns the new instance of a workflow with this idempotency key.
    pub(super) fn instance_with_key(&self, key: &(Uuid, String)) -> Option<KeyHolder> {
        self.keys.get(key).copied()
    }

    pub(super) fn create_instance(&mut self, instance: NewInstance) {
        if let Some(key) = &instance.idempotency_key {
            self.keys.insert(
                (instance.workflow_id, key.text.clone()),
                KeyHolder {
                    id: instance.id,
                    request_hash: Some(key.request_hash),
                },
            );
        }
        self.instances.push(instance);
    }

    pub(super) fn set_metadata(&mut self, instance_id: Uuid, metadata: Json) {
        self.metadata.insert(instance_id, metadata);
    }

    /// Takes bytes from the budget for inputs and metadata.
    pub(super) fn spend_batch_bytes(
        &mut self,
        bytes: usize,
        limits: &Limits,
    ) -> Result<(), String> {
        let spent = self.batch_bytes.saturating_add(bytes);
        if spent > limits.batch_bytes_max {
            return Err(format!(
                "an attempt may pass at most {} bytes to batch",
                limits.batch_bytes_max
            ));
        }
        self.batch_bytes = spent;
        Ok(())
    }
}

fn add(value: &[u8], delta: i64) -> Result<Vec<u8>, String> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse::<i64>().ok())
        .map(|number| number.saturating_add(delta).to_string().into())
        .ok_or_else(|| "the value is not a decimal number, so it cannot be incremented".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> EntryKey {
        EntryKey {
            space: Space::Plugin("p".parse().expect("is a name")),
            key: text.to_owned(),
        }
    }

    fn entry(value: &str) -> Option<Entry> {
        Some(Entry {
            value: value.into(),
            version: 7,
            expires_at: None,
        })
    }

    #[test]
    fn increments_add_up_over_every_earlier_write() {
        let now = Timestamp::from_micros(0);
        let read = |pending: &PendingEffects, committed| {
            pending
                .overlay(&key("k"), committed, now)
                .expect("is a number")
                .map(|entry| entry.value)
        };
        let mut pending = PendingEffects::default();
        pending.increment(key("k"), 2).expect("adds");
        pending.increment(key("k"), 3).expect("adds");
        assert_eq!(read(&pending, entry("10")), Some("15".into()));
        assert_eq!(read(&pending, None), Some("5".into()));
        pending.delete(key("k"));
        assert_eq!(read(&pending, entry("10")), None);
        pending.increment(key("k"), 1).expect("adds");
        assert_eq!(read(&pending, entry("10")), Some("1".into()));
        pending.put(key("k"), "9".into(), None, None);
        pending.increment(key("k"), i64::MAX).expect("saturates");
        assert_eq!(read(&pending, None), Some(i64::MAX.to_string().into()));
        pending.put(key("k"), "x".into(), None, None);
        assert!(pending.increment(key("k"), 1).is_err());
    }

    #[test]
    fn the_first_guard_stays() {
        let mut pending = PendingEffects::default();
        pending.put(key("k"), "1".into(), None, Some(Guard::Absent));
        pending.put(key("k"), "2".into(), None, None);
        let effects = pending.into_effects();
        assert_eq!(
            effects.storage.first().and_then(|write| write.guard),
            Some(Guard::Absent)
        );
    }
}
