//! Caches in front of the database. They are private to the store, and serve displays and steps but
//! never decisions.
//!
//! Each kind of data has one [`Cache`], with bounds and a time to live of its own. A key contains
//! the team and all parameters of the query. The caches are not least-recently-used lists:
//! mini-moka admits entries by frequency (TinyLFU) and evicts them by recency. So a scan over many
//! rows that are read once does not evict the entries in use. A full cache may reject a new entry
//! at once, and admits the entry when its key is read more often than the key that it would evict.
//!
//! Lists are cached like all other entries, but a write cannot name every list that it changes. So
//! each list carries the [`Generations`] number of its team and kind of list. A write increments
//! that number, and a list with an old number is not served.

mod advice;
mod bounds;
mod by_key;
mod entry;
mod flight;
mod generations;
mod keys;
mod kind;
#[cfg(test)]
mod model;
mod read;
mod reuse;
mod stats;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use uuid::Uuid;

use super::instances::InstanceFilter;
use super::workflows::{Workflow, WorkflowSummary, WorkflowVersion};
use super::{ApprovalFilter, Cursor, InstanceSummary, Page, WorkflowFilter};
use crate::clock::Clock;
use crate::config::CacheConfig;
use crate::model::effects::Entry;
use crate::model::{Approval, EntryKey, Instance, Name, PluginVersion, Principal};

pub use advice::{CacheAdvice, CacheSuggestion, CurvePoint, MissCauses};
pub(super) use by_key::EntryName;
pub(super) use flight::{Flight, Join, Waiter};
pub(super) use generations::{Generations, ListKind};
pub(super) use keys::PairKey;
pub(super) use kind::{Cache, Loaded};
pub use stats::{CacheKind, CacheStats, Removed};

use kind::{AnyCache, Settings};

type Shared<K, V> = Arc<Cache<K, V>>;
type WorkflowList = (Name, WorkflowFilter, Page<Cursor<Name>>);
/// The rows of one page of a list.
pub(super) type Rows<T> = Arc<Vec<T>>;

/// All caches of a store.
pub(super) struct Caches {
    pub(super) workflows: Shared<(Name, Name), Workflow>,
    pub(super) workflow_versions: Shared<(Name, Name, u32), Arc<WorkflowVersion>>,
    pub(super) plugin_versions: Shared<Uuid, Arc<PluginVersion>>,
    pub(super) plugin_references: Shared<(Name, Name, Option<String>), Arc<PluginVersion>>,
    pub(super) instances: Shared<(Name, Uuid), Arc<Instance>>,
    /// The first page of a user's pending approvals.
    pub(super) pending_approvals: Shared<(Name, String), Rows<Approval>>,
    pub(super) storage: Shared<(Name, EntryKey), Arc<Entry>>,
    pub(super) tokens: Shared<[u8; 32], Arc<Principal>>,
    pub(super) workflow_lists: Shared<WorkflowList, Rows<WorkflowSummary>>,
    pub(super) instance_lists:
        Shared<(Name, InstanceFilter, Page<Cursor>), Rows<Arc<InstanceSummary>>>,
    pub(super) approval_lists: Shared<(Name, ApprovalFilter, Page<Cursor>), Rows<Approval>>,
    pub(super) generations: Generations,
}

impl Caches {
    pub(super) fn new(config: &CacheConfig, clock: &Clock) -> Self {
        let with = |bounds| Settings {
            bounds,
            absence_ttl: config.absence_ttl,
            clock: clock.clone(),
            sampled_keys_max: config.ghosts,
        };
        // The invalidation of a new instance names only its team, so the absence of an instance
        // must not be cached.
        let without_absence = |bounds| Settings {
            absence_ttl: std::time::Duration::ZERO,
            ..with(bounds)
        };
        Self {
            workflows: Cache::new(with(&config.workflows), |(team, _), _| Some(team)),
            workflow_versions: Cache::new(with(&config.workflow_versions), |(team, ..), _| {
                Some(team)
            }),
            plugin_versions: Cache::new(with(&config.plugin_versions), |_, version| {
                Some(&version?.team)
            }),
            plugin_references: Cache::new(with(&config.plugin_references), |(team, ..), _| {
                Some(team)
            }),
            instances: Cache::new(without_absence(&config.instances), |(team, _), _| {
                Some(team)
            }),
            pending_approvals: Cache::new(with(&config.pending_approvals), |(team, _), _| {
                Some(team)
            }),
            storage: Cache::new(with(&config.storage), |(team, _), _| Some(team)),
            tokens: Cache::new(with(&config.tokens), |_, principal| Some(&principal?.team)),
            workflow_lists: Cache::new(with(&config.queries), |(team, ..), _| Some(team)),
            instance_lists: Cache::new(with(&config.queries), |(team, ..), _| Some(team)),
            approval_lists: Cache::new(with(&config.queries), |(team, ..), _| Some(team)),
            generations: Generations::default(),
        }
    }

    pub(super) fn stats(&self) -> Vec<CacheStats> {
        CacheKind::ALL
            .into_iter()
            .map(|kind| self.of(kind).stats(kind))
            .collect()
    }

    pub(super) fn advice(&self) -> Vec<CacheAdvice> {
        CacheKind::ALL
            .into_iter()
            .map(|kind| self.of(kind).advice(kind))
            .collect()
    }

    /// Removes all entries of these kinds, or only one team's. The results of loads in progress are
    /// not cached either, because an operator who clears a cache may have changed the database by
    /// hand.
    pub(super) fn clear(&self, kinds: &[CacheKind], team: Option<&Name>) -> Removed {
        kinds
            .iter()
            .map(|kind| (*kind, self.of(*kind).clear(team)))
            .collect()
    }

    /// Removes expired entries to free their memory. Reads never serve an expired entry.
    pub(super) fn clean_up(&self) -> Removed {
        CacheKind::ALL
            .into_iter()
            .map(|kind| (kind, self.of(kind).clean_up()))
            .collect()
    }

    fn of(&self, kind: CacheKind) -> &dyn AnyCache {
        match kind {
            CacheKind::Workflows => &*self.workflows,
            CacheKind::WorkflowVersions => &*self.workflow_versions,
            CacheKind::PluginVersions => &*self.plugin_versions,
            CacheKind::PluginReferences => &*self.plugin_references,
            CacheKind::Instances => &*self.instances,
            CacheKind::PendingApprovals => &*self.pending_approvals,
            CacheKind::Storage => &*self.storage,
            CacheKind::Tokens => &*self.tokens,
            CacheKind::WorkflowLists => &*self.workflow_lists,
            CacheKind::InstanceLists => &*self.instance_lists,
            CacheKind::ApprovalLists => &*self.approval_lists,
        }
    }
}
