//! Statistics of the caches.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::bounds::Bounds;
use super::entry::Counters;

/// A kind of cached data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheKind {
    /// The newest version of a workflow.
    Workflows,
    /// One version of a workflow. A version never changes.
    WorkflowVersions,
    /// A plugin version by its id.
    PluginVersions,
    /// The plugin version that a reference resolves to.
    PluginReferences,
    /// One instance.
    Instances,
    /// The pending approvals of one user.
    PendingApprovals,
    /// Entries of plugin storage.
    Storage,
    /// The principal of a token.
    Tokens,
    /// Pages of a team's workflows.
    WorkflowLists,
    /// Pages of a team's instances.
    InstanceLists,
    /// Pages of a team's approvals.
    ApprovalLists,
}

impl CacheKind {
    /// All kinds, in the order of the statistics.
    pub const ALL: [Self; 11] = [
        Self::Workflows,
        Self::WorkflowVersions,
        Self::PluginVersions,
        Self::PluginReferences,
        Self::Instances,
        Self::PendingApprovals,
        Self::Storage,
        Self::Tokens,
        Self::WorkflowLists,
        Self::InstanceLists,
        Self::ApprovalLists,
    ];

    /// The kind's name in statistics and parameters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Workflows => "workflows",
            Self::WorkflowVersions => "workflow_versions",
            Self::PluginVersions => "plugin_versions",
            Self::PluginReferences => "plugin_references",
            Self::Instances => "instances",
            Self::PendingApprovals => "pending_approvals",
            Self::Storage => "storage",
            Self::Tokens => "tokens",
            Self::WorkflowLists => "workflow_lists",
            Self::InstanceLists => "instance_lists",
            Self::ApprovalLists => "approval_lists",
        }
    }
}

impl fmt::Display for CacheKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for CacheKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| format!("must be one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

impl Serialize for CacheKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Statistics of one cache since the host started.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CacheStats {
    /// The name of the [`CacheKind`].
    pub kind: &'static str,
    /// Entries in the cache now.
    pub entries: u64,
    /// The estimated memory of these entries, in bytes.
    pub bytes: u64,
    /// Reads served from memory.
    pub hits: u64,
    /// Reads that needed the database.
    pub misses: u64,
    /// Hits divided by all reads, 0 to 1; `None` before the first read.
    pub hit_rate: Option<f64>,
    /// Misses that joined a load in progress instead of starting their own.
    pub coalesced: u64,
    /// Values that were out of date and not served or not kept: the data had changed during the
    /// load or, for lists, since the load.
    pub stale: u64,
    /// Entries removed by a write or a command.
    pub invalidated: u64,
    /// Entries removed because they had expired.
    pub expired: u64,
    /// Entries evicted to make room, or rejected when they were new.
    pub evictions: u64,
    /// Loads from the database. Keys loaded by one statement count one each.
    pub loads: u64,
    /// The average time of a load, in microseconds.
    pub load_avg_us: f64,
    /// The estimated time that hits saved, in microseconds: hits times the average load.
    pub saved_us: u64,
    /// The time to live of an entry, in milliseconds.
    pub ttl_ms: u64,
    /// The largest number of entries.
    pub entries_max: u64,
    /// The largest total size of the entries, in bytes.
    pub bytes_max: u64,
}

impl CacheStats {
    pub(super) fn new(kind: CacheKind, counters: &Counters, bounds: Bounds, ttl: Duration) -> Self {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (hits, misses) = (read(&counters.hits), read(&counters.misses));
        let (loads, load_nanos) = (read(&counters.loads), read(&counters.load_nanos));
        let load_avg_us = if loads == 0 {
            0.0
        } else {
            load_nanos as f64 / loads as f64 / 1e3
        };
        Self {
            kind: kind.as_str(),
            entries: read(&counters.entries),
            bytes: read(&counters.bytes),
            hits,
            misses,
            hit_rate: (hits + misses > 0).then(|| hits as f64 / (hits + misses) as f64),
            coalesced: read(&counters.coalesced),
            stale: read(&counters.stale),
            invalidated: read(&counters.invalidated),
            expired: read(&counters.expired),
            evictions: read(&counters.evicted),
            loads,
            load_avg_us,
            saved_us: (load_avg_us * hits as f64) as u64,
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            entries_max: bounds.entries,
            bytes_max: bounds.bytes,
        }
    }
}

/// The number of removed entries by kind. Kinds without removed entries are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed(Vec<(CacheKind, u64)>);

impl Removed {
    /// The total over all kinds.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(_, entries)| entries).sum()
    }

    /// The number of removed entries of each kind.
    pub fn kinds(&self) -> impl Iterator<Item = (CacheKind, u64)> {
        self.0.iter().copied()
    }
}

impl FromIterator<(CacheKind, u64)> for Removed {
    fn from_iter<I: IntoIterator<Item = (CacheKind, u64)>>(counts: I) -> Self {
        Self(
            counts
                .into_iter()
                .filter(|(_, entries)| *entries > 0)
                .collect(),
        )
    }
}
