//! The plugin versions that an instance is pinned to.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::Json;

/// Maps `plugin` or `plugin@version`, as written in the definition, to the version's row id. Clones
/// share the map and its JSON, so instances that are created together share both.
#[derive(Clone, Debug, PartialEq)]
pub struct Pins {
    versions: Arc<BTreeMap<String, Uuid>>,
    json: Json,
}

impl Pins {
    /// Parses a stored JSON object.
    ///
    /// # Errors
    /// A text that is no object of ids.
    pub fn stored(text: String) -> Result<Self, serde_json::Error> {
        Ok(Self {
            versions: Arc::new(serde_json::from_str(&text)?),
            json: Json::stored(text),
        })
    }

    /// Returns the row id of the version for a reference as written in the definition.
    pub fn get(&self, reference: &str) -> Option<&Uuid> {
        self.versions.get(reference)
    }

    /// Returns the JSON object.
    pub fn json(&self) -> &Json {
        &self.json
    }
}

impl From<BTreeMap<String, Uuid>> for Pins {
    fn from(versions: BTreeMap<String, Uuid>) -> Self {
        let json = serde_json::to_string(&versions).expect("a map of texts is JSON");
        Self {
            versions: Arc::new(versions),
            json: Json::stored(json),
        }
    }
}

impl<const N: usize> From<[(String, Uuid); N]> for Pins {
    fn from(versions: [(String, Uuid); N]) -> Self {
        BTreeMap::from(versions).into()
    }
}

impl Default for Pins {
    fn default() -> Self {
        BTreeMap::new().into()
    }
}
