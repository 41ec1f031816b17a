//! Key-value storage of the team, cached by the host.
//!
//! An attempt sees its own writes at once. Other attempts see all of them together, when the step
//! completes. A step that fails leaves no writes. One attempt may write at most 1,000 different
//! keys and 4 MiB.
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
//! // Written only if the key does not exist yet; expires after a day.
//! let put = Put::json("receipt", &paid)?.if_version(0).ttl(Duration::from_secs(86_400));
//! bucket.put(&put)?;
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
/// A page of at most `limit` keys in byte order, with the key where the next page begins.
pub use storage::Page;
/// A write: a key of 1 to 512 bytes and a value of at most 1 MiB.
pub use storage::Put;

/// An open bucket, of one of three kinds that never overlap. At most 64 are open at a time.
#[derive(Debug)]
pub struct Bucket(storage::Bucket);

impl Bucket {
    /// Opens the bucket that lives as long as the workflow instance.
    ///
    /// # Errors
    ///
    /// Fails with `Denied` without the grant, and with `Limit` if 64 buckets are open.
    pub fn open_instance() -> Result<Self, HostError> {
        storage::open(&storage::Space::Instance).map(Self)
    }

    /// Opens the bucket that all runs of this plugin in this team share, in all versions of the
    /// plugin.
    ///
    /// # Errors
    ///
    /// Fails as [`Bucket::open_instance`] does.
    pub fn open_plugin() -> Result<Self, HostError> {
        storage::open(&storage::Space::Plugin).map(Self)
    }

    /// Opens a named bucket that several plugins of the team were granted. The name is 1 to 63 of
    /// a-z, 0-9, '-'.
    ///
    /// # Errors
    ///
    /// Fails as [`Bucket::open_instance`] does, and with `Invalid` if the name is out of bounds.
    pub fn open_shared(name: &str) -> Result<Self, HostError> {
        storage::open(&storage::Space::Shared(name.into())).map(Self)
    }

    /// Reads one entry.
    ///
    /// # Errors
    ///
    /// Fails with `Invalid` if the key is not 1 to 512 bytes long, as all functions with keys do.
    pub fn get(&self, key: &str) -> Result<Option<Entry>, HostError> {
        self.0.get(key)
    }

    /// Reads one value as JSON. A number written by [`Bucket::increment`] reads as `i64`.
    ///
    /// # Errors
    ///
    /// Fails as [`Bucket::get`] does, and with the fatal code `stored-value-invalid` if the value
    /// does not fit the type.
    pub fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Failure> {
        self.get(key)?.map(|entry| entry.json()).transpose()
    }

    /// Reads at most 1,000 entries in one call. Returns them in the order of `keys`; a repeated key
    /// returns its entry each time.
    ///
    /// # Errors
    ///
    /// Fails as [`Bucket::get`] does, and with `Limit` for more keys.
    pub fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Entry>>, HostError> {
        self.0.get_many(keys)
    }

    /// Writes a value of at most 1 MiB that does not expire. The last writer wins.
    ///
    /// # Errors
    ///
    /// Fails with `Limit` if the write would cross a bound of storage, as all functions that write
    /// do.
    pub fn set(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<(), HostError> {
        self.put(&Put::new(key, value))
    }

    /// Writes a value as JSON text that does not expire. The last writer wins.
    ///
    /// # Errors
    ///
    /// Fails as [`Bucket::set`] does, and with the fatal code `not-json` if JSON cannot hold the
    /// value.
    pub fn set_json<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<(), Failure> {
        Ok(self.put(&Put::json(key, value)?)?)
    }

    /// Writes with a time to live or a version guard.
    ///
    /// # Errors
    ///
    /// Fails as [`Bucket::set`] does, and with `Conflict` if the guard does not hold now. If the
    /// guard fails only at the commit, nothing of the attempt is written and the step runs again.
    pub fn put(&self, put: &Put) -> Result<(), HostError> {
        self.0.set(put)
    }

    /// Writes at most 1,000 entries, all or none. A key may appear once.
    ///
    /// # Errors
    ///
    /// Fails as [`Bucket::put`] does, and with `Invalid` for a repeated key.
    pub fn set_many(&self, puts: &[Put]) -> Result<(), HostError> {
        self.0.set_many(puts)
    }

    /// Deletes one entry. Deleting a missing entry is no error.
    ///
    /// # Errors
    ///
    /// Fails as [`Bucket::set`] does.
    pub fn delete(&self, key: &str) -> Result<(), HostError> {
        self.0.delete(key)
    }

    /// Deletes at most 1,000 entries.
    ///
    /// # Errors
    ///
    /// Fails as [`Bucket::set`] does.
    pub fn delete_many(&self, keys: &[String]) -> Result<(), HostError> {
        self.0.delete_many(keys)
    }

    /// Adds to a number at commit time, so that concurrent steps do not conflict. The stored value
    /// is decimal text, and a missing key counts as 0. The sum saturates at the ends of `i64`. The
    /// sum is not known before the commit: a read in the same attempt returns the sum as of now.
    ///
    /// # Errors
    ///
    /// Fails as [`Bucket::set`] does, and with `Invalid` if the stored value is not a number.
    pub fn increment(&self, key: &str, delta: i64) -> Result<(), HostError> {
        self.0.increment(key, delta)
    }

    /// Lists the keys with the prefix in byte order, after the key `after`. `limit` is 1 to 1,000.
    /// To continue, pass the page's `next` as `after`.
    ///
    /// # Errors
    ///
    /// Fails with `Invalid` if the limit is out of bounds.
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Page, HostError> {
        self.0.list(prefix, after, limit)
    }
}

impl Entry {
    /// Parses the value as JSON.
    ///
    /// # Errors
    ///
    /// Fails with the fatal code `stored-value-invalid` if the value does not fit the type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        json::decode(&self.value).map_err(|reason| Failure::fatal("stored-value-invalid", reason))
    }
}

impl Put {
    /// Creates a write that does not expire and has no guard.
    pub fn new(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            ttl_ms: None,
            if_version: None,
        }
    }

    /// Creates a write of a value as JSON text.
    ///
    /// # Errors
    ///
    /// Fails with the fatal code `not-json` if JSON cannot hold the value.
    pub fn json<T: Serialize + ?Sized>(key: impl Into<String>, value: &T) -> Result<Self, Failure> {
        Ok(Self::new(key, json::encode(value)?))
    }

    /// Lets the entry expire this long after the commit, in whole milliseconds.
    #[must_use]
    pub fn ttl(mut self, time_to_live: Duration) -> Self {
        self.ttl_ms = Some(crate::duration_ms(time_to_live));
        self
    }

    /// Lets the commit fail unless the key has this version. Version 0 means that the key must not
    /// exist.
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
