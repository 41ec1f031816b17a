//! Writes that a step asks for. They are collected while the step runs, and committed together with
//! its outcome or not at all.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Json, Name, NewInstance, StepAddress};
use crate::Timestamp;

/// All writes of one attempt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// At most one write per key, in the order in which the keys were first written.
    pub storage: Vec<StorageWrite>,
    /// New instances, with their ids.
    pub instances: Vec<NewInstance>,
    /// New metadata for instances of the same team.
    pub metadata: Vec<(Uuid, Json)>,
    /// Log lines, which are also kept of an attempt that failed.
    pub logs: Vec<AttemptLog>,
}

/// The log lines of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptLog {
    /// The step.
    pub step: StepAddress,
    /// The number of the attempt; 1 for the first.
    pub number: u32,
    /// The end of the attempt.
    pub finished_at: Timestamp,
    /// Number of lines that were dropped because of the limits of an attempt.
    pub dropped: u32,
    /// A list of [`LogLine`].
    pub lines: Json,
}

/// A line of an attempt's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The time of the line.
    pub at: Timestamp,
    /// The level.
    pub level: LogLevel,
    /// The text, without harmful characters.
    pub line: String,
}

/// The level of a line, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Finest.
    Trace,
    /// For the plugin's author.
    Debug,
    /// Normal; also a line of stdout.
    Info,
    /// Something is odd; also a line of stderr.
    Warn,
    /// Something failed.
    Error,
}

impl LogLevel {
    /// Every level.
    pub const ALL: [Self; 5] = [
        Self::Trace,
        Self::Debug,
        Self::Info,
        Self::Warn,
        Self::Error,
    ];

    /// Returns the name used in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }

    /// Parses a name written by [`LogLevel::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == text)
    }
}

impl Effects {
    /// Adds the writes of another attempt that writes other keys.
    pub fn extend(&mut self, other: Self) {
        self.storage.extend(other.storage);
        self.instances.extend(other.instances);
        self.metadata.extend(other.metadata);
        self.logs.extend(other.logs);
    }

    /// Returns true if both attempts write the same key, or the metadata of the same instance.
    pub fn overlaps(&self, other: &Self) -> bool {
        let storage = self
            .storage
            .iter()
            .any(|write| other.storage.iter().any(|its| its.key == write.key));
        let mut metadata = self.metadata.iter();
        storage || metadata.any(|(id, _)| other.metadata.iter().any(|(its, _)| its == id))
    }
}

/// A storage bucket of a team.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Space {
    /// Private to one instance, and deleted with it.
    Instance(Uuid),
    /// Shared by all versions of a plugin.
    Plugin(Name),
    /// A shared bucket, by name.
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
    /// The key within the bucket: 1 to 512 bytes.
    pub key: String,
}

/// An entry of plugin storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The stored bytes: at most 1 MiB.
    pub value: Vec<u8>,
    /// Grows with every write, and is never reused after a delete.
    pub version: u64,
    /// Time from which the entry counts as absent.
    pub expires_at: Option<Timestamp>,
}

/// The write of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageWrite {
    /// The key to write.
    pub key: EntryKey,
    /// The change.
    pub action: WriteAction,
    /// The condition under which the write is committed.
    pub guard: Option<Guard>,
}

/// The change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteAction {
    /// Replace the value.
    Put {
        /// The new value.
        value: Vec<u8>,
        /// Time to live from the commit on, in milliseconds.
        ttl_ms: Option<u64>,
    },
    /// Remove the entry.
    Delete,
    /// Add to the decimal number that the value holds. A missing entry counts as 0; the result
    /// saturates.
    Increment(i64),
}

/// A condition on the entry's version at commit time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// There must be no entry.
    Absent,
    /// The entry must have this version.
    Version(u64),
}
