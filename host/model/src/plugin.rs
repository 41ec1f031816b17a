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

/// Package and version of the contract in `wit/`.
pub const CONTRACT: (&str, &str) = ("stepwell:plugin", "0.1.0");

/// An interface of the contract that the host offers to plugins. In JSON and in settings, where
/// only interfaces that need a grant are named, it is its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum Interface {
    /// Types that other interfaces share.
    Types,
    /// Cached key-value storage.
    Storage,
    /// Bulk operations on instances.
    Batch,
    /// Counters, gauges, histograms and timers.
    Metrics,
    /// Lines in the host's log.
    Log,
    /// Reading workflow data.
    Workflows,
    /// The clock and randomness.
    Runtime,
}

impl Interface {
    /// The one list of host interfaces. The linker, the scan of uploads, the default of
    /// `plugins.grants` and the OpenAPI document follow it.
    pub const ALL: [Self; 7] = [
        Self::Types,
        Self::Storage,
        Self::Batch,
        Self::Metrics,
        Self::Log,
        Self::Workflows,
        Self::Runtime,
    ];

    /// Returns the name in the contract, the contract's version, and whether a plugin needs a grant
    /// to call the interface.
    const fn row(self) -> (&'static str, &'static str, bool) {
        match self {
            Self::Types => ("types", CONTRACT.1, false),
            Self::Storage => ("storage", CONTRACT.1, true),
            Self::Batch => ("batch", CONTRACT.1, true),
            Self::Metrics => ("metrics", CONTRACT.1, false),
            Self::Log => ("log", CONTRACT.1, false),
            Self::Workflows => ("workflows", CONTRACT.1, true),
            Self::Runtime => ("runtime", CONTRACT.1, false),
        }
    }

    /// Returns the name used in the WIT contract.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// Returns the version of the contract that the host offers the interface in.
    pub const fn version(self) -> &'static str {
        self.row().1
    }

    /// Returns whether a plugin needs a grant to call the interface.
    pub const fn needs_grant(self) -> bool {
        self.row().2
    }

    /// Returns the interfaces that need a grant.
    pub fn needing_grant() -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .filter(|interface| interface.needs_grant())
    }
}

impl From<Interface> for &'static str {
    fn from(interface: Interface) -> Self {
        interface.as_str()
    }
}

impl TryFrom<String> for Interface {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::needing_grant()
            .find(|interface| interface.as_str() == name)
            .ok_or_else(|| {
                let names: Vec<_> = Self::needing_grant()
                    .map(|it| format!("`{}`", it.as_str()))
                    .collect();
                format!(
                    "unknown interface `{name}`, expected one of {}",
                    names.join(", ")
                )
            })
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
