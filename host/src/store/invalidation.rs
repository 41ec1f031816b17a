//! Cache invalidation after writes. Every write lists the cache entries that it makes out of date
//! and passes the list to [`Core::commit`], so that no cache is missed.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::backend::Transaction;
use super::cache::{CacheKind, Caches, ListKind};
use super::{Core, StoreError};
use crate::model::{EntryKey, Name};

/// One invalidation: the subject of a write, whose cached copies are out of date.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Invalidation {
    /// A workflow has a new newest version or a new status. `version` is the newest version.
    Workflow {
        team: Name,
        name: Name,
        version: u32,
    },
    /// A plugin version was added or removed, so references to the plugin may resolve to another
    /// version.
    Plugin {
        team: Name,
        name: Name,
        version: String,
        id: Uuid,
    },
    /// An instance changed.
    Instance { team: Name, id: Uuid },
    /// A team has new instances. New instances were never read, so only lists are out of date.
    NewInstances { team: Name },
    /// An approval was requested from this approver, or one of the approver's approvals was
    /// decided.
    Approver { team: Name, approver: String },
    /// Old decided approvals of a team were deleted. Only lists are out of date.
    DecidedApprovals { team: Name },
    /// An entry of plugin storage was written or deleted.
    Entry { team: Name, key: EntryKey },
    /// A token was created or revoked.
    Token { hash: [u8; 32] },
}

impl Core {
    /// Commits a transaction. Returns after this host's caches have dropped the entries in
    /// `invalidations` and the other hosts were told. The entries are dropped after a failed COMMIT
    /// too, because a COMMIT whose result was lost may have happened.
    pub(super) async fn commit(
        &self,
        mut transaction: Transaction,
        invalidations: &[Invalidation],
    ) -> Result<(), StoreError> {
        if self.broken.is_cancelled() {
            // Dropping the transaction rolls it back.
            return Err(StoreError::Closed);
        }
        let session = match &self.redis {
            Some(redis) => redis.set_tombstones(invalidations).await,
            None => None,
        };
        if session.is_none() {
            self.announce(&mut transaction, invalidations).await?;
        }
        let result = transaction.commit().await;
        if let Some(redis) = &self.redis {
            redis.confirm(session.as_ref(), invalidations).await;
        }
        self.caches.forget(invalidations);
        if let Some(session) = session {
            self.publish(&session, invalidations).await;
        }
        if let Err(error) = &result {
            self.notice(error);
        }
        result
    }

    /// Stops all writes if the error says that the disk failed. After a failed fsync, the next
    /// fsync may succeed although the data is lost.
    pub(super) fn notice(&self, error: &StoreError) {
        if matches!(error, StoreError::Broken(_)) {
            // The process ends because of the disk, so the instances that it drives must not count
            // a crash.
            self.driven_instances.clear();
            self.broken.cancel();
        }
    }
}

impl Caches {
    /// Drops all entries, because an invalidation may have been missed.
    pub(super) fn forget_everything(&self) {
        self.clear(&CacheKind::ALL, None);
    }

    /// Drops the entries that are out of date.
    pub(super) fn forget(&self, invalidations: &[Invalidation]) {
        for invalidation in invalidations {
            match invalidation {
                Invalidation::Workflow {
                    team,
                    name,
                    version,
                } => {
                    self.workflows.invalidate(&(team.clone(), name.clone()));
                    // The cache may hold the fact that this version did not exist.
                    self.workflow_versions
                        .invalidate(&(team.clone(), name.clone(), *version));
                    self.generations.bump(team, ListKind::Workflows);
                }
                Invalidation::Plugin {
                    team,
                    name,
                    version,
                    id,
                } => {
                    self.plugin_versions.invalidate(id);
                    for version in [None, Some(version.clone())] {
                        self.plugin_references
                            .invalidate(&(team.clone(), name.clone(), version));
                    }
                }
                Invalidation::Instance { team, id } => {
                    self.instances.invalidate(&(team.clone(), *id));
                    self.generations.bump(team, ListKind::Instances);
                }
                Invalidation::NewInstances { team } => {
                    self.generations.bump(team, ListKind::Instances)
                }
                Invalidation::Approver { team, approver } => {
                    self.pending_approvals
                        .invalidate(&(team.clone(), approver.clone()));
                    self.generations.bump(team, ListKind::Approvals);
                }
                Invalidation::DecidedApprovals { team } => {
                    self.generations.bump(team, ListKind::Approvals)
                }
                Invalidation::Entry { team, key } => {
                    self.storage.invalidate(&(team.clone(), key.clone()));
                }
                Invalidation::Token { hash } => {
                    self.tokens.invalidate(hash);
                }
            }
        }
    }
}
