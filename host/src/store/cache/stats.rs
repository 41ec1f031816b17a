//! What the caches say about themselves.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::bounds::Bounds;
use super::held::Tally;

/// One kind of cached data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheKind {
    /// The newest version of a workflow.
    Workflows,
    /// One version of a workflow, which does not change.
    WorkflowVersions,
    /// A plugin version by its id.
    PluginVersions,
    /// What a reference to a plugin means now.
    PluginReferences,
    /// One instance.
    Instances,
    /// What one user still has to decide.
    PendingApprovals,
    /// Entries of plugin storage.
    Storage,
    /// Whom a token stands for.
    Tokens,
    /// Pages of a team's workflows.
    WorkflowLists,
    /// Pages of a team's instances.
    InstanceLists,
    /// Pages of a team's approvals.
    ApprovalLists,
}

impl CacheKind {
    /// All of them.
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

    /// As it is written in statistics and parameters.
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

/// How one kind of cached data does, since the host started.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CacheStats {
    /// What is cached: a [`CacheKind`].
    pub kind: &'static str,
    /// How many are there now.
    pub entries: u64,
    /// About how much memory they take.
    pub bytes: u64,
    /// Answered from memory.
    pub hits: u64,
    /// Answered from the database.
    pub misses: u64,
    /// Hits of all questions, 0 to 1; none before the first.
    pub hit_rate: Option<f64>,
    /// Of the misses, those that waited for the answer to somebody else's question.
    pub coalesced: u64,
    /// Answers that would have been out of date and were not served: because the data had changed while it was read,
    /// or, for lists, since.
    pub stale: u64,
    /// Entries that a write or a command threw out.
    pub invalidated: u64,
    /// Entries whose time was over.
    pub expired: u64,
    /// Entries that had to make room, or that were not let in.
    pub evictions: u64,
    /// Questions to the database; several keys that were read together count one each.
    pub loads: u64,
    /// How long one took on average, in microseconds.
    pub load_avg_us: f64,
    /// What the hits would have taken: their number times the average load, in microseconds.
    pub saved_us: u64,
    /// How long an entry may be served.
    pub ttl_ms: u64,
    /// Most entries.
    pub entries_max: u64,
    /// Most bytes.
    pub bytes_max: u64,
}

impl CacheStats {
    pub(super) fn new(kind: CacheKind, tally: &Tally, bounds: Bounds, ttl: Duration) -> Self {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (hits, misses) = (read(&tally.hits), read(&tally.misses));
        let (loads, load_nanos) = (read(&tally.loads), read(&tally.load_nanos));
        let load_avg_us = if loads == 0 {
            0.0
        } else {
            load_nanos as f64 / loads as f64 / 1e3
        };
        Self {
            kind: kind.as_str(),
            entries: read(&tally.entries),
            bytes: read(&tally.bytes),
            hits,
            misses,
            hit_rate: (hits + misses > 0).then(|| hits as f64 / (hits + misses) as f64),
            coalesced: read(&tally.coalesced),
            stale: read(&tally.stale),
            invalidated: read(&tally.invalidated),
            expired: read(&tally.expired),
            evictions: read(&tally.evicted),
            loads,
            load_avg_us,
            saved_us: (load_avg_us * hits as f64) as u64,
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            entries_max: bounds.entries,
            bytes_max: bounds.bytes,
        }
    }
}

/// How many entries were thrown out, by kind; kinds that lost none are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed(Vec<(CacheKind, u64)>);

impl Removed {
    /// All kinds together.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(_, entries)| entries).sum()
    }

    /// By kind.
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
