//! One evaluation of all alerts. The module is pure: alerts and readings come in, rows to write
//! come out.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::{Clock, Timestamp};
use crate::model::{AlertEventKind, AlertState};
use crate::monitor::alerts::{LastNotice, Limit, Reading, ThresholdVerdict, Thresholds, advance};
use crate::store::{Alert, AlertChanges, AlertKey, AlertReading, WatchedAlerts};

/// The settings of an evaluation.
pub(super) struct EvaluationContext<'a> {
    pub(super) thresholds: &'a Thresholds,
    /// The source of ids.
    pub(super) clock: &'a Clock,
    /// `alerts.active_max`, the maximum number of active alerts.
    pub(super) active_max: usize,
    pub(super) now: Timestamp,
}

/// The result of an evaluation.
#[derive(Debug, Default)]
pub(super) struct EvaluationResult {
    /// The rows to write.
    pub(super) changes: AlertChanges,
    /// Events, each with the alert as it is after the event.
    pub(super) news: Vec<(AlertEventKind, Alert)>,
    /// Number of alerts left out because `active_max` is reached.
    pub(super) left_out: usize,
}

pub(super) fn evaluate(
    context: &EvaluationContext<'_>,
    readings: &[Reading],
    watched: &WatchedAlerts,
) -> EvaluationResult {
    let mut result = EvaluationResult::default();
    let read: BTreeMap<AlertKey, &Reading> = readings
        .iter()
        .map(|reading| (AlertKey::of(reading), reading))
        .collect();
    let is_active = |alert: &&Alert| alert.condition.state != AlertState::Resolved;
    let active: BTreeMap<&AlertKey, &Alert> = watched
        .alerts
        .iter()
        .filter(is_active)
        .map(|alert| (&alert.key, alert))
        .collect();
    for (key, alert) in &active {
        if watched.is_ours(alert) {
            context.go_on(alert, read.get(*key).copied(), watched, &mut result);
        }
    }
    let over = read.into_iter().filter(|(key, reading)| {
        reading.verdict == ThresholdVerdict::Over && !active.contains_key(key)
    });
    let mut room = context.active_max.saturating_sub(active.len());
    for (key, reading) in over {
        if room == 0 {
            result.left_out += 1;
        } else {
            room -= 1;
            context.begin(key, reading, watched, &mut result);
        }
    }
    result
}

impl EvaluationResult {
    fn remember(&mut self, events: &[AlertEventKind], alert: &Alert) {
        self.news
            .extend(events.iter().map(|event| (*event, alert.clone())));
    }
}

impl EvaluationContext<'_> {
    fn begin(
        &self,
        key: AlertKey,
        reading: &Reading,
        watched: &WatchedAlerts,
        result: &mut EvaluationResult,
    ) {
        let change = advance(None, reading.verdict, &reading.limit, self.now);
        let Some(condition) = change.condition else {
            return;
        };
        let alert = Alert {
            id: self.clock.new_id(),
            key,
            severity: reading.limit.severity,
            condition,
            reading: AlertReading::from(reading),
            acknowledged: None,
            silenced_until: None,
            told: LastNotice::default(),
            host: watched.own,
        };
        result.remember(change.events, &alert);
        result.changes.begun.push(alert);
    }

    fn go_on(
        &self,
        alert: &Alert,
        reading: Option<&Reading>,
        watched: &WatchedAlerts,
        result: &mut EvaluationResult,
    ) {
        // A missing reading means that the subject has no calls any more or is not watched any
        // more.
        let limit = reading.map_or_else(|| self.limit(alert), |reading| reading.limit);
        let verdict = reading.map_or(ThresholdVerdict::TooFew, |reading| reading.verdict);
        let change = advance(Some(alert.condition), verdict, &limit, self.now);
        let Some(condition) = change.condition else {
            result.changes.dropped.push(alert.clone());
            return;
        };
        // A reading with too few calls is not worth showing.
        let reading = reading.filter(|reading| reading.verdict != ThresholdVerdict::TooFew);
        let reading = reading.map_or_else(|| alert.reading.clone(), AlertReading::from);
        let after = Alert {
            condition,
            severity: limit.severity,
            reading,
            ..alert.clone()
        };
        result.remember(change.events, &after);
        if after != *alert || alert.host != watched.own {
            result.changes.changed.push(after);
        }
    }

    /// Returns the limit of the alert. An alert about a subject that is no longer watched gets a
    /// limit that ends it at once.
    fn limit(&self, alert: &Alert) -> Limit {
        let AlertKey {
            rule,
            team,
            subject,
        } = &alert.key;
        self.thresholds
            .limit(*rule, team.as_ref(), subject)
            .unwrap_or(Limit {
                severity: alert.severity,
                threshold: alert.reading.threshold,
                resolve_threshold: alert.reading.threshold,
                calls_min: 1,
                fire_after: Duration::ZERO,
                resolve_after: Duration::ZERO,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::monitor::alerts::{Numbers, OperationNumbers, read};

    const START: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    struct World {
        thresholds: Thresholds,
        clock: Clock,
        watched: WatchedAlerts,
        now: Timestamp,
    }

    impl World {
        fn new(change: impl FnOnce(&mut Config)) -> Self {
            let mut config = Config::defaults().expect("the defaults load");
            config.alerts.fire_after = Duration::from_secs(60);
            config.alerts.resolve_after = Duration::from_secs(60);
            change(&mut config);
            let thresholds = Thresholds::new(&config.alerts);
            Self {
                thresholds,
                clock: Clock::manual(START),
                watched: WatchedAlerts::default(),
                now: START,
            }
        }

        /// Evaluates operations with 100 calls each, of which the given number failed, and applies
        /// the result.
        fn evaluate(
            &mut self,
            second: u64,
            operations: &[(&str, u64)],
            active_max: usize,
        ) -> EvaluationResult {
            self.now = START.after(Duration::from_secs(second));
            let number = |(name, errors): &(&str, u64)| OperationNumbers {
                operation: (*name).to_owned(),
                calls: 100,
                errors: *errors,
                ..OperationNumbers::default()
            };
            let numbers = Numbers {
                operations: operations.iter().map(number).collect(),
                ..Numbers::default()
            };
            let readings = read(&self.thresholds, &numbers);
            let Self {
                thresholds,
                clock,
                watched,
                now,
            } = self;
            let context = EvaluationContext {
                thresholds,
                clock,
                active_max,
                now: *now,
            };
            let result = evaluate(&context, &readings, watched);
            let changes = &result.changes;
            for alert in changes.changed.iter().chain(&changes.begun) {
                watched.alerts.retain(|known| known.id != alert.id);
                watched.alerts.push(alert.clone());
            }
            watched
                .alerts
                .retain(|known| changes.dropped.iter().all(|dropped| dropped.id != known.id));
            result
        }

        fn states(&self) -> Vec<AlertState> {
            self.watched
                .alerts
                .iter()
                .map(|alert| alert.condition.state)
                .collect()
        }
    }

    #[test]
    fn an_alert_begins_fires_and_ends_and_the_next_one_is_another() {
        let mut world = World::new(|_| {});
        world.evaluate(0, &[("commit_step", 50)], 9);
        assert_eq!(world.states(), [AlertState::Pending]);
        world.evaluate(60, &[("commit_step", 60)], 9);
        assert_eq!(world.states(), [AlertState::Firing]);
        assert_eq!(world.watched.alerts[0].reading.value, 0.6);
        let result = world.evaluate(70, &[("commit_step", 60)], 9);
        assert!(
            result.changes.is_empty() && result.news.is_empty(),
            "nothing is new"
        );
        world.evaluate(80, &[("commit_step", 0)], 9);
        // The operation has no calls any more.
        let news = world.evaluate(140, &[], 9).news;
        assert_eq!(
            news,
            [(AlertEventKind::Resolved, world.watched.alerts[0].clone())]
        );
        assert_eq!(world.states(), [AlertState::Resolved]);
        let EvaluationResult { changes, .. } = world.evaluate(150, &[("commit_step", 50)], 9);
        assert_eq!((changes.begun.len(), changes.changed.len()), (1, 0));
    }

    #[test]
    fn what_came_to_nothing_is_dropped() {
        let mut world = World::new(|_| {});
        world.evaluate(0, &[("commit_step", 50)], 9);
        let EvaluationResult { changes, .. } = world.evaluate(10, &[("commit_step", 0)], 9);
        assert_eq!(changes.dropped.len(), 1);
        assert_eq!(world.states(), []);
    }

    #[test]
    fn a_rule_that_was_switched_off_ends_its_alerts() {
        let mut world = World::new(|config| config.alerts.fire_after = Duration::ZERO);
        world.evaluate(0, &[("commit_step", 50)], 9);
        assert_eq!(world.states(), [AlertState::Firing]);
        let mut off = World::new(|config| config.alerts.error_rate.enabled = false);
        off.watched = world.watched;
        off.evaluate(1, &[("commit_step", 50)], 9);
        assert_eq!(off.states(), [AlertState::Resolved]);
    }

    #[test]
    fn there_are_no_more_than_may_be() {
        let mut world = World::new(|_| {});
        let EvaluationResult {
            changes, left_out, ..
        } = world.evaluate(0, &[("one", 50), ("two", 50), ("three", 50)], 2);
        assert_eq!((changes.begun.len(), left_out), (2, 1));
        let EvaluationResult {
            changes, left_out, ..
        } = world.evaluate(1, &[("one", 50), ("two", 50), ("three", 50)], 2);
        assert_eq!((changes.begun.len(), left_out), (0, 1));
    }
}
