//! Throwing out one entry, by a text that names it for people.

use super::Caches;
use super::stats::{CacheKind, Removed};
use crate::model::definition::PluginReference;
use crate::model::{EntryKey, Name, Space};

impl Caches {
    /// Throws out what is kept under a team's key, the load of it that is under way included. None: entries of this kind
    /// are not named so, or not named at all.
    pub(in crate::store) fn clear_key(&self, kind: CacheKind, team: &Name, key: &str) -> Option<Removed> {
        let team = team.clone();
        let was_there = match kind {
            CacheKind::Workflows => self.workflows.invalidate(&(team, key.parse().ok()?)),
            CacheKind::WorkflowVersions => {
                let (name, version) = key.split_once('@')?;
                self.workflow_versions.invalidate(&(team, name.parse().ok()?, version.parse().ok()?))
            }
            CacheKind::PluginReferences => {
                let PluginReference { name, version } = key.parse().ok()?;
                self.plugin_references.invalidate(&(team, name, version))
            }
            CacheKind::Instances => self.instances.invalidate(&(team, key.parse().ok()?)),
            CacheKind::PendingApprovals => self.pending_approvals.invalidate(&(team, key.to_owned())),
            CacheKind::Storage => self.storage.invalidate(&(team, entry_key(key)?)),
            // Ids and hashes that say nothing of a team, and pages of lists, which are out of date all together.
            CacheKind::PluginVersions
            | CacheKind::Tokens
            | CacheKind::WorkflowLists
            | CacheKind::InstanceLists
            | CacheKind::ApprovalLists => return None,
        };
        Some([(kind, u64::from(was_there))].into_iter().collect())
    }
}

/// Reads a bucket as it is displayed, a colon, and a key in it.
fn entry_key(text: &str) -> Option<EntryKey> {
    let (kind, rest) = text.split_once(':')?;
    let (name, key) = rest.split_once(':')?;
    let space = match kind {
        "instance" => Space::Instance(name.parse().ok()?),
        "plugin" => Space::Plugin(name.parse().ok()?),
        "shared" => Space::Shared(name.parse().ok()?),
        _ => return None,
    };
    Some(EntryKey { space, key: key.to_owned() })
}
