//! What a write makes out of date. Every write says it in one place, [`Core::commit`], so that no cache is forgotten.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::backend::Writing;
use super::cache::{CacheKind, Caches, Noun};
use super::{Core, StoreError};
use crate::model::{EntryKey, Name};

/// Something whose cached copies are out of date after a write.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Stale {
    /// A workflow has another newest version, or another status: this is its newest version.
    Workflow {
        team: Name,
        name: Name,
        version: u32,
    },
    /// A plugin version came or went, and with it what references mean.
    Plugin {
        team: Name,
        name: Name,
        version: String,
        id: Uuid,
    },
    /// An instance changed.
    Instance { team: Name, id: Uuid },
    /// A team has new instances. They were never read, so only lists are out of date.
    NewInstances { team: Name },
    /// An approver was asked, or an approval of theirs was decided.
    Approver { team: Name, approver: String },
    /// Approvals of a team that were decided long ago are gone: only from lists.
    DecidedApprovals { team: Name },
    /// An entry of plugin storage was written or deleted.
    Entry { team: Name, key: EntryKey },
    /// A token came or went.
    Token { hash: [u8; 32] },
}

impl Core {
    /// Commits, and answers after the caches have forgotten what was written and other hosts were told. They forget
    /// after a failure too: a COMMIT whose answer was lost may have happened.
    pub(super) async fn commit(
        &self,
        mut writing: Writing,
        stale: &[Stale],
    ) -> Result<(), StoreError> {
        if self.broken.is_cancelled() {
            // Dropped, it is rolled back.
            return Err(StoreError::Closed);
        }
        let session = match &self.redis {
            Some(redis) => redis.mark(stale).await,
            None => None,
        };
        if session.is_none() {
            self.announce(&mut writing, stale).await?;
        }
        let result = writing.commit().await;
        if let Some(redis) = &self.redis {
            redis.confirm(session.as_ref(), stale).await;
        }
        self.caches.forget(stale);
        if let Some(session) = session {
            self.publish(&session, stale).await;
        }
        if let Err(error) = &result {
            self.notice(error);
        }
        result
    }

    /// Writes no more after the disk has failed: after a failed fsync, the next may succeed although what was to be
    /// written is lost.
    pub(super) fn notice(&self, error: &StoreError) {
        if matches!(error, StoreError::Broken(_)) {
            // The disk is to blame for the end of the process, and no instance.
            self.in_hand.clear();
            self.broken.cancel();
        }
    }
}

impl Caches {
    /// Throws out all, because something was missed.
    pub(super) fn forget_everything(&self) {
        self.clear(&CacheKind::ALL, None);
    }

    /// Throws out what is out of date.
    pub(super) fn forget(&self, stale: &[Stale]) {
        for stale in stale {
            match stale {
                Stale::Workflow {
                    team,
                    name,
                    version,
                } => {
                    self.workflows.invalidate(&(team.clone(), name.clone()));
                    // That it was not there may have been remembered.
                    self.workflow_versions
                        .invalidate(&(team.clone(), name.clone(), *version));
                    self.generations.end(team, Noun::Workflows);
                }
                Stale::Plugin {
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
                Stale::Instance { team, id } => {
                    self.instances.invalidate(&(team.clone(), *id));
                    self.generations.end(team, Noun::Instances);
                }
                Stale::NewInstances { team } => self.generations.end(team, Noun::Instances),
                Stale::Approver { team, approver } => {
                    self.pending_approvals
                        .invalidate(&(team.clone(), approver.clone()));
                    self.generations.end(team, Noun::Approvals);
                }
                Stale::DecidedApprovals { team } => self.generations.end(team, Noun::Approvals),
                Stale::Entry { team, key } => {
                    self.storage.invalidate(&(team.clone(), key.clone()));
                }
                Stale::Token { hash } => {
                    self.tokens.invalidate(hash);
                }
            }
        }
    }
}
