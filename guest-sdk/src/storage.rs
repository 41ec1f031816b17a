//! Key-value storage of the team, cached by the host.
//!
//! Writes become visible to others when the step completes, all at once; this attempt sees its own writes at once. A
//! step that fails leaves nothing. One attempt may name at most 1,000 different keys in writes, and write at most 4 MiB.
//!
//! ```no_run
//! # use stepwell_guest::{Context, Failure};
//! use std::time::Duration;
//! use stepwell_guest::storage::{Bucket, Put};
//!
//! # fn example(context: &Context) -> Result<(), Failure> {
//! let bucket = Bucket::open_plugin()?;
//! bucket.increment("paid:ada", 4_200)?;
//! let paid: Option<i64> = bucket.get_json("paid:ada")?;
//! // Written only if nobody else wrote it first; gone after a day.
//! bucket.put(&Put::json("receipt", &paid)?.if_version(0).ttl(Duration::from_secs(86_400)))?;
//! # Ok(())
//! # }
//! ```

use core::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::stepwell::plugin::storage;
use crate::{Failure, HostError, json};

/// A value with its version. `expires_at` is in microseconds since 1970-01-01T00:00:00Z.
pub use storage::Entry;
/// Up to `limit` keys in byte order, and where to go on.
pub use storage::Page;
/// One write: a key of 1 to 512 bytes and a value of at most 1 MiB.
pub use storage::Put;

/// One of the three kinds of bucket; they never overlap. At most 64 are open at a time.
#[derive(Debug)]
pub struct Bucket(storage::Bucket);

impl Bucket {
    /// Opens the bucket that lives as long as the workflow instance.
    ///
    /// # Errors
    ///
    /// `Denied` without the grant, `Limit` when 64 buckets are open; so do the other two.
    pub fn open_instance() -> Result<Self, HostError> {
        storage::open(&storage::Space::Instance).map(Self)
    }

    /// Opens the bucket that all runs of this plugin in this team share, whatever the plugin's version.
    ///
    /// # Errors
    ///
    /// As [`Bucket::open_instance`].
    pub fn open_plugin() -> Result<Self, HostError> {
        storage::open(&storage::Space::Plugin).map(Self)
    }

    /// Opens a named bucket that several plugins of the team were granted. The name is 1 to 63 of a-z, 0-9, '-'.
    ///
    /// # Errors
    ///
    /// As [`Bucket::open_instance`], and `Invalid` for a name out of bounds.
    pub fn open_shared(name: &str) -> Result<Self, HostError> {
        storage::open(&storage::Space::Shared(name.into())).map(Self)
    }

    /// Reads one entry.
    ///
    /// # Errors
    ///
    /// `Invalid` for a key that is not 1 to 512 bytes; so do all that take keys.
    pub fn get(&self, key: &str) -> Result<Option<Entry>, HostError> {
        self.0.get(key)
    }

    /// Reads one value as JSON. A number kept by [`Bucket::increment`] reads as `i64`.
    ///
    /// # Errors
    ///
    /// As [`Bucket::get`], and the fatal code `stored-value-invalid` for a value that does not fit the type.
    pub fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Failure> {
        self.get(key)?.map(|entry| entry.json()).transpose()
    }

    /// Reads at most 1,000 entries in one call; answers in the order of `keys`, a repeated key each time.
    ///
    /// # Errors
    ///
    /// As [`Bucket::get`], and `Limit` for more keys.
    pub fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Entry>>, HostError> {
        self.0.get_many(keys)
    }

    /// Writes a value of at most 1 MiB; it stays, and the last writer wins.
    ///
    /// # Errors
    ///
    /// `Limit` when a bound of storage would be crossed; so do all that write.
    pub fn set(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<(), HostError> {
        self.put(&Put::new(key, value))
    }

    /// Writes a value as JSON text; it stays, and the last writer wins.
    ///
    /// # Errors
    ///
    /// As [`Bucket::set`], and the fatal code `not-json` for a value that JSON cannot hold.
    pub fn set_json<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<(), Failure> {
        Ok(self.put(&Put::json(key, value)?)?)
    }

    /// Writes with a time to live or a version guard.
    ///
    /// # Errors
    ///
    /// As [`Bucket::set`], and `Conflict` when the guard already does not hold. When it ceases to hold before the
    /// commit, nothing of the attempt is written and the step runs again.
    pub fn put(&self, put: &Put) -> Result<(), HostError> {
        self.0.set(put)
    }

    /// Writes at most 1,000 entries, all or nothing. A key may appear once.
    ///
    /// # Errors
    ///
    /// As [`Bucket::put`], and `Invalid` for a repeated key.
    pub fn set_many(&self, puts: &[Put]) -> Result<(), HostError> {
        self.0.set_many(puts)
    }

    /// Deletes one entry. Deleting what is not there is not an error.
    ///
    /// # Errors
    ///
    /// As [`Bucket::set`].
    pub fn delete(&self, key: &str) -> Result<(), HostError> {
        self.0.delete(key)
    }

    /// Deletes at most 1,000 entries.
    ///
    /// # Errors
    ///
    /// As [`Bucket::set`].
    pub fn delete_many(&self, keys: &[String]) -> Result<(), HostError> {
        self.0.delete_many(keys)
    }

    /// Adds at commit time, so that concurrent steps do not conflict. The value is decimal text; a missing key counts
    /// as 0. The sum is not known before the commit: a read in the same attempt answers what it would be now. It
    /// saturates at the ends of `i64`.
    ///
    /// # Errors
    ///
    /// As [`Bucket::set`], and `Invalid` when the value is not a number.
    pub fn increment(&self, key: &str, delta: i64) -> Result<(), HostError> {
        self.0.increment(key, delta)
    }

    /// Lists the keys with the prefix in byte order, after the key `after`; `limit` is 1 to 1,000. Give the page's
    /// `next` as `after` to go on.
    ///
    /// # Errors
    ///
    /// `Invalid` for a limit out of bounds.
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Page, HostError> {
        self.0.list(prefix, after, limit)
    }
}

impl Entry {
    /// Reads the value as JSON.
    ///
    /// # Errors
    ///
    /// The fatal code `stored-value-invalid` when it does not fit the type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        json::decode(&self.value).map_err(|reason| Failure::fatal("stored-value-invalid", reason))
    }
}

impl Put {
    /// A write that stays and wins over earlier ones.
    pub fn new(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            ttl_ms: None,
            if_version: None,
        }
    }

    /// The same with a value as JSON text.
    ///
    /// # Errors
    ///
    /// The fatal code `not-json` for a value that JSON cannot hold.
    pub fn json<T: Serialize + ?Sized>(key: impl Into<String>, value: &T) -> Result<Self, Failure> {
        Ok(Self::new(key, json::encode(value)?))
    }

    /// The entry disappears this long after the commit, in whole milliseconds.
    #[must_use]
    pub fn ttl(mut self, time_to_live: Duration) -> Self {
        self.ttl_ms = Some(crate::duration_ms(time_to_live));
        self
    }

    /// Commit only if the key's version is this; 0 = the key must not exist.
    #[must_use]
    pub fn if_version(mut self, version: u64) -> Self {
        self.if_version = Some(version);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_reads_as_a_number() {
        let entry = Entry {
            value: b"-42".to_vec(),
            version: 3,
            expires_at: None,
        };
        assert_eq!(entry.json(), Ok(-42));
    }

    #[test]
    fn a_stored_value_of_another_shape_is_fatal() {
        let entry = Entry {
            value: b"\"text\"".to_vec(),
            version: 3,
            expires_at: None,
        };
        assert_eq!(
            entry.json::<i64>().unwrap_err().code(),
            "stored-value-invalid"
        );
    }
}
