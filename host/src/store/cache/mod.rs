//! Caches in front of the database: private to the store, for display and for steps, never for decisions.
//!
//! One [`Cache`] for each kind of data, with bounds and a time to live of its own. Keys hold the team and the full
//! parameters. What surprises: nothing here is a least-recently-used list. mini-moka admits by frequency (TinyLFU) and
//! evicts by recency, so one pass over many rows that nobody asks for again does not wash out what is in use; a new
//! entry of a full cache may therefore be turned away at once, and comes in when it is asked for more often than what
//! it would push out.
//!
//! Lists are entries like all others, but no write could name every list that it changes: each has the [`Generations`]
//! number of its team and noun, a write only counts that number up, and a list with an old number is not served.

mod advice;
mod bounds;
mod by_key;
mod flight;
mod generations;
mod ghosts;
mod held;
mod keys;
mod kind;
#[cfg(test)]
mod model;
mod read;
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
pub(super) use by_key::Named;
pub(super) use flight::{Flight, Join, Waiter};
pub(super) use generations::{Generations, Noun};
pub(super) use keys::Pair;
pub(super) use kind::{Cache, Fresh};
pub use stats::{CacheKind, CacheStats, Removed};

use kind::{AnyCache, Settings};

type Shared<K, V> = Arc<Cache<K, V>>;
type WorkflowList = (Name, WorkflowFilter, Page<Cursor<Name>>);
/// A page of a list.
pub(super) type Rows<T> = Arc<Vec<T>>;

/// All caches.
pub(super) struct Caches {
    pub(super) workflows: Shared<(Name, Name), Workflow>,
    pub(super) workflow_versions: Shared<(Name, Name, u32), Arc<WorkflowVersion>>,
    pub(super) plugin_versions: Shared<Uuid, Arc<PluginVersion>>,
    pub(super) plugin_references: Shared<(Name, Name, Option<String>), Arc<PluginVersion>>,
    pub(super) instances: Shared<(Name, Uuid), Arc<Instance>>,
    /// The first page of what a user still has to decide.
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
            ghosts: config.ghosts,
        };
        // A new instance is announced by its team alone, so that it was not there must not be remembered.
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

    /// Throws out all of these kinds, or what is one team's. Loads under way are not kept either: whoever empties a
    /// cache by hand has changed the database by hand.
    pub(super) fn clear(&self, kinds: &[CacheKind], team: Option<&Name>) -> Removed {
        kinds
            .iter()
            .map(|kind| (*kind, self.of(*kind).clear(team)))
            .collect()
    }

    /// Throws out what has run out. Reads do not serve it anyway; this gives its memory back.
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
