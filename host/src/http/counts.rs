//! How many instances a team has of each status, as it was a moment ago.

use std::collections::BTreeMap;

use super::Services;
use super::error::ApiError;
use super::moments::Moments;
use crate::model::Name;

/// By status.
pub(super) type Counts = BTreeMap<&'static str, u64>;

/// What was counted last, by team. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct InstanceCounts(Moments<Name, Counts>);

impl InstanceCounts {
    /// A team's instances.
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
