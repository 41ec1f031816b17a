//! Counts of a team's instances by status, cached for a short time.

use std::collections::BTreeMap;

use super::Services;
use super::error::ApiError;
use super::refresh_cache::RefreshCache;
use crate::model::Name;

/// Number of instances by status.
pub(super) type Counts = BTreeMap<&'static str, u64>;

/// Cached counts by team. Clones share the cache.
#[derive(Clone, Debug, Default)]
pub struct InstanceCounts(RefreshCache<Name, Counts>);

impl InstanceCounts {
    /// Returns the counts of a team, at most 10 s old.
    ///
    /// # Errors
    /// The database's.
    pub(super) async fn get(&self, services: &Services, team: &Name) -> Result<Counts, ApiError> {
        let counted = || async {
            let counts = services.store.count_instances(team).await?;
            Ok(counts
                .into_iter()
                .map(|(status, count)| (status.as_str(), count))
                .collect())
        };
        self.0.get(&services.clock, team.clone(), counted).await
    }
}
