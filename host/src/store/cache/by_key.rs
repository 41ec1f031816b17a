//! Removal of one cache entry by a readable key.

use uuid::Uuid;

use super::Caches;
use super::stats::{CacheKind, Removed};
use crate::model::definition::PluginReference;
use crate::model::{EntryKey, Name, Space};

/// The entry of a team that a readable key names.
pub(in crate::store) enum EntryName {
    Workflow(Name),
    WorkflowVersion(Name, u32),
    PluginReference(PluginReference),
    Instance(Uuid),
    PendingApprovals(String),
    Entry(EntryKey),
}

impl EntryName {
    /// Parses the key of an entry. `None` if the key is invalid, or if entries of this kind have no
    /// readable keys.
    pub(in crate::store) fn parse(kind: CacheKind, key: &str) -> Option<Self> {
        Some(match kind {
            CacheKind::Workflows => Self::Workflow(key.parse().ok()?),
            CacheKind::WorkflowVersions => {
                let (name, version) = key.split_once('@')?;
                Self::WorkflowVersion(name.parse().ok()?, version.parse().ok()?)
            }
            CacheKind::PluginReferences => Self::PluginReference(key.parse().ok()?),
            CacheKind::Instances => Self::Instance(key.parse().ok()?),
            CacheKind::PendingApprovals => Self::PendingApprovals(key.to_owned()),
            CacheKind::Storage => Self::Entry(entry_key(key)?),
            // Ids and hashes do not name a team, and list pages are invalidated all together.
            CacheKind::PluginVersions
            | CacheKind::Tokens
            | CacheKind::WorkflowLists
            | CacheKind::InstanceLists
            | CacheKind::ApprovalLists => return None,
        })
    }
}

impl Caches {
    /// Removes a team's entry, and keeps a load of it in progress from being cached.
    pub(in crate::store) fn clear_named(&self, team: &Name, named: EntryName) -> Removed {
        let team = team.clone();
        let (kind, was_there) = match named {
            EntryName::Workflow(name) => (
                CacheKind::Workflows,
                self.workflows.invalidate(&(team, name)),
            ),
            EntryName::WorkflowVersion(name, version) => (
                CacheKind::WorkflowVersions,
                self.workflow_versions.invalidate(&(team, name, version)),
            ),
            EntryName::PluginReference(PluginReference { name, version }) => (
                CacheKind::PluginReferences,
                self.plugin_references.invalidate(&(team, name, version)),
            ),
            EntryName::Instance(id) => {
                (CacheKind::Instances, self.instances.invalidate(&(team, id)))
            }
            EntryName::PendingApprovals(user) => (
                CacheKind::PendingApprovals,
                self.pending_approvals.invalidate(&(team, user)),
            ),
            EntryName::Entry(key) => (CacheKind::Storage, self.storage.invalidate(&(team, key))),
        };
        [(kind, u64::from(was_there))].into_iter().collect()
    }
}

/// Parses `KIND:NAME:KEY`: a bucket in its displayed form, a colon, and a key in the bucket.
fn entry_key(text: &str) -> Option<EntryKey> {
    let (kind, rest) = text.split_once(':')?;
    let (name, key) = rest.split_once(':')?;
    let space = match kind {
        "instance" => Space::Instance(name.parse().ok()?),
        "plugin" => Space::Plugin(name.parse().ok()?),
        "shared" => Space::Shared(name.parse().ok()?),
        _ => return None,
    };
    Some(EntryKey {
        space,
        key: key.to_owned(),
    })
}
