//! Collects the monitor's numbers for the alert rules, separately for each team.

use super::{CacheNumbers, LifecycleNumbers, Numbers, OperationNumbers, Reading, Thresholds};
use crate::monitor::operations::{OperationStats, each_operation_shown};
use crate::monitor::window::View;
use crate::monitor::{Monitor, Window};

impl Monitor {
    /// Returns the readings of the host and of every team that are over their thresholds now, with
    /// enough calls to prove it. `caches` are the store's counts of the last minutes, see
    /// [`RecentHits`](super::RecentHits). An alert fires when its reading stays over the threshold
    /// for long enough, see [`advance`](super::advance).
    #[doc(alias = "check_performance_thresholds")]
    pub fn check_thresholds(
        &self,
        thresholds: &Thresholds,
        caches: Vec<CacheNumbers>,
    ) -> Vec<Reading> {
        let numbers = Numbers {
            caches,
            ..self.watched(thresholds.window())
        };
        super::check_thresholds(thresholds, &numbers)
    }

    /// Returns the input of the alert rules without the caches, which the store counts. Teams
    /// beyond [`TEAMS_MAX`](crate::monitor::TEAMS_MAX) are not watched: their numbers are summed
    /// under no team's name, so no team could be told. Takes about a microsecond for each operation
    /// used since the last call.
    pub fn watched(&self, window: Window) -> Numbers {
        // Resetting a team's numbers therefore ends its alerts. That gives the team no new power,
        // because it could silence them as well.
        let (now, view) = (self.0.ticks.now(), View::own(window));
        let mut numbers = Numbers::default();
        for (team, scope) in self.0.scopes.named() {
            each_operation_shown([&scope.operations], view, now, |operation, stats| {
                let OperationStats {
                    count: calls,
                    errors,
                    p95_ms,
                    ..
                } = stats;
                let operation = operation.into();
                numbers.operations.push(OperationNumbers {
                    team: team.clone(),
                    operation,
                    calls,
                    errors,
                    p95_ms,
                });
            });
            if let Some(team) = team {
                let (ended, rejected) = scope.lifecycle.ended(view, now);
                numbers.lifecycles.push(LifecycleNumbers {
                    team,
                    ended,
                    rejected,
                });
            }
        }
        numbers
    }
}
