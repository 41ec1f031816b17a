//! Plugins: their manifests, versions and grants.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Name;
use crate::Timestamp;

/// A plugin's description of itself, after the host has checked it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Unique in the team.
    pub name: Name,
    /// A semantic version.
    pub version: String,
    /// One sentence for people.
    pub description: String,
    /// The steps that the plugin offers, in its own order.
    pub steps: Vec<StepSpec>,
    /// Names of the metrics that the plugin may record.
    pub metrics: BTreeSet<String>,
}

/// One step that a plugin offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepSpec {
    /// Unique in the plugin.
    pub name: Name,
    /// One sentence for people.
    pub description: String,
}

/// Capabilities of a plugin version. Fixed at upload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// Interfaces of the contract that the plugin imports and was granted.
    pub interfaces: BTreeSet<Interface>,
    /// Shared buckets that the plugin may open.
    #[serde(default)]
    pub shared_buckets: BTreeSet<Name>,
}

/// An interface that needs a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interface {
    /// Cached key-value storage.
    Storage,
    /// Bulk operations on instances.
    Batch,
    /// Reading workflow data.
    Workflows,
}

impl Interface {
    /// Returns the name used in the WIT contract.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Batch => "batch",
            Self::Workflows => "workflows",
        }
    }
}

/// One immutable version of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PluginVersion {
    /// Row id.
    pub id: Uuid,
    /// The owner.
    #[serde(skip)]
    pub team: Name,
    /// The plugin's description of itself.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// SHA-256 of the component, in hexadecimal.
    pub digest: String,
    /// Size of the component, in bytes.
    pub component_bytes: u64,
    /// The capabilities granted at upload.
    pub grants: Grants,
    /// The user who uploaded the version.
    pub uploaded_by: String,
    /// Time of the upload.
    pub uploaded_at: Timestamp,
}

impl PluginVersion {
    /// Returns `name@version`.
    pub fn label(&self) -> String {
        format!("{}@{}", self.manifest.name, self.manifest.version)
    }
}

/// Checks a semantic version: three numbers with dots between, then any suffix of letters, digits,
/// `.`, `-` and `+`; at most 64 bytes in all.
///
/// # Errors
/// A sentence that shows the accepted form.
pub fn check_version(text: &str) -> Result<String, String> {
    let well_formed = text.len() <= 64
        && text.starts_with(|first: char| first.is_ascii_digit())
        && text.split(['-', '+']).next().is_some_and(|core| {
            let numbers: Vec<_> = core.split('.').collect();
            numbers.len() == 3
                && numbers
                    .iter()
                    .all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        })
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'));
    if well_formed {
        Ok(text.to_owned())
    } else {
        let shown: String = text.chars().take(64).flat_map(char::escape_debug).collect();
        Err(format!(
            "'{shown}' is not a version: write for example 1.4.0"
        ))
    }
}
