//! The monitor's numbers as the rules want them: of each team on its own.

use super::{CacheNumbers, LifecycleNumbers, Numbers, OperationNumbers, Reading, Thresholds};
use crate::monitor::operations::{OperationStats, each_operation_shown};
use crate::monitor::window::View;
use crate::monitor::{Monitor, Window};

impl Monitor {
    /// What is over its threshold at this moment, of the host and of every team, and over enough traffic to say so.
    /// `caches` are the store's, of the last minutes: [`RecentHits`](super::RecentHits). The host's alerts are this, and
    /// that it stays so for long enough: [`advance`](super::advance).
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

    /// What the rules are about, without the caches, which the store counts. Teams beyond
    /// [`TEAMS_MAX`](crate::monitor::TEAMS_MAX) are not watched: their numbers are added up, and belong to nobody who
    /// could be told. Takes about a microsecond for each operation that was used since the last look.
    pub fn watched(&self, window: Window) -> Numbers {
        // A team that has its numbers forgotten has its alerts end, which it could silence as well.
        let (now, view) = (self.0.ticks.now(), View::own(window));
        let mut numbers = Numbers::default();
        for (team, scope) in self.0.scopes.named() {
            each_operation_shown([&scope], view, now, |operation, stats| {
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
