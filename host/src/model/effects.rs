//! What a step wants to have written. Collected while it runs, committed with its outcome or not at all.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Json, Name, NewInstance};
use crate::clock::Timestamp;

/// Everything one attempt wants to have written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// One per key, in the order of first mention.
    pub storage: Vec<StorageWrite>,
    /// New instances, with their ids.
    pub instances: Vec<NewInstance>,
    /// Instances of the same team whose metadata is replaced.
    pub metadata: Vec<(Uuid, Json)>,
}

/// Which bucket of a team.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Space {
    /// Lives as long as the instance.
    Instance(Uuid),
    /// All versions of a plugin.
    Plugin(Name),
    /// A named bucket.
    Shared(Name),
}

impl std::fmt::Display for Space {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Instance(id) => write!(formatter, "instance:{id}"),
            Self::Plugin(name) => write!(formatter, "plugin:{name}"),
            Self::Shared(name) => write!(formatter, "shared:{name}"),
        }
    }
}

/// A key in a bucket. The team is not part of it: it comes from the attempt, never from the guest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryKey {
    /// The bucket.
    pub space: Space,
    /// 1 to 512 bytes.
    pub key: String,
}

/// An entry of plugin storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// At most 1 MiB.
    pub value: Vec<u8>,
    /// Grows with every write and never starts again.
    pub version: u64,
    /// Not there any more from this time on.
    pub expires_at: Option<Timestamp>,
}

/// One key's write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageWrite {
    /// Where.
    pub key: EntryKey,
    /// What.
    pub action: WriteAction,
    /// Under which condition.
    pub guard: Option<Guard>,
}

/// What to do with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteAction {
    /// Replace the value.
    Put {
        /// The new value.
        value: Vec<u8>,
        /// How long it stays, from the commit on, in milliseconds.
        ttl_ms: Option<u64>,
    },
    /// Remove the entry.
    Delete,
    /// Add to the decimal text; a missing entry counts as 0; saturates.
    Increment(i64),
}

/// A condition on the version at commit time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// There must be no entry.
    Absent,
    /// The entry must have this version.
    Version(u64),
}
