//! The states of an alert over time.
//!
//! ```text
//!            over                over for fire_after            well for resolve_after
//!   nothing ──────► pending ───────────────────────► firing ──────────────────────────► resolved
//!      ▲               │ well again
//!      └───────────────┘
//! ```
//!
//! A value between its two thresholds follows none of these arrows, in either direction. It only
//! restarts the time that is measured for the next arrow. So a value that swings around its
//! threshold neither fires nor resolves at every swing.
//!
//! Too few calls count as well again. They prove nothing bad, and an alert about a plugin that is
//! no longer called must end.
//!
//! A clock that was set back restarts the measured time too. So a time stamp in the future cannot
//! keep an alert from firing for ever, and a jump of the clock cannot make it fire.

use std::time::Duration;

use serde::Serialize;

use super::{Limit, ThresholdVerdict};
use crate::clock::Timestamp;
use crate::model::{AlertEventKind, AlertState};

/// The state of an alert and the times of its changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// The current state.
    pub state: AlertState,
    /// The time of the first value over the threshold.
    pub since: Timestamp,
    /// While pending: the time since which every evaluation found the value over its threshold.
    /// While firing: the time since which every evaluation found it well.
    #[serde(skip)]
    pub held_since: Option<Timestamp>,
    /// The time when the alert fired.
    pub fired_at: Option<Timestamp>,
    /// The time when the alert was resolved.
    pub resolved_at: Option<Timestamp>,
}

/// The result of one evaluation of an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionChange {
    /// The new condition; none if there is no alert, or no longer one.
    pub condition: Option<Condition>,
    /// Events to record in the alert's history, in order.
    pub events: &'static [AlertEventKind],
}

/// Evaluates a value at a time. `before` is the condition that the last evaluation left: none,
/// pending or firing. A resolved condition stays unchanged, because the next value over the
/// threshold begins a new alert.
pub fn advance(
    before: Option<Condition>,
    verdict: ThresholdVerdict,
    limit: &Limit,
    now: Timestamp,
) -> ConditionChange {
    let unchanged = |condition| ConditionChange {
        condition,
        events: &[],
    };
    match before {
        None if verdict == ThresholdVerdict::Over => begin(limit, now),
        None => unchanged(None),
        Some(condition) => match condition.state {
            AlertState::Pending => pending(condition, verdict, limit, now),
            AlertState::Firing => firing(condition, verdict, limit, now),
            AlertState::Resolved => unchanged(before),
        },
    }
}

fn begin(limit: &Limit, now: Timestamp) -> ConditionChange {
    let pending = Condition {
        state: AlertState::Pending,
        since: now,
        held_since: Some(now),
        fired_at: None,
        resolved_at: None,
    };
    if limit.fire_after.is_zero() {
        let events = &[AlertEventKind::Pending, AlertEventKind::Fired];
        return ConditionChange {
            condition: Some(fire(pending, now)),
            events,
        };
    }
    ConditionChange {
        condition: Some(pending),
        events: &[AlertEventKind::Pending],
    }
}

fn fire(condition: Condition, now: Timestamp) -> Condition {
    Condition {
        state: AlertState::Firing,
        held_since: None,
        fired_at: Some(now),
        ..condition
    }
}

fn pending(
    condition: Condition,
    verdict: ThresholdVerdict,
    limit: &Limit,
    now: Timestamp,
) -> ConditionChange {
    let held_since = match verdict {
        ThresholdVerdict::Under | ThresholdVerdict::TooFew => {
            return ConditionChange {
                condition: None,
                events: &[],
            };
        }
        ThresholdVerdict::Between => None,
        ThresholdVerdict::Over => Some(count_from(condition.held_since, now)),
    };
    if held_since.is_some_and(|since| held(since, limit.fire_after, now)) {
        return ConditionChange {
            condition: Some(fire(condition, now)),
            events: &[AlertEventKind::Fired],
        };
    }
    ConditionChange {
        condition: Some(Condition {
            held_since,
            ..condition
        }),
        events: &[],
    }
}

fn firing(
    condition: Condition,
    verdict: ThresholdVerdict,
    limit: &Limit,
    now: Timestamp,
) -> ConditionChange {
    let held_since = match verdict {
        ThresholdVerdict::Over | ThresholdVerdict::Between => None,
        ThresholdVerdict::Under | ThresholdVerdict::TooFew => {
            Some(count_from(condition.held_since, now))
        }
    };
    if held_since.is_some_and(|since| held(since, limit.resolve_after, now)) {
        let state = AlertState::Resolved;
        let condition = Condition {
            state,
            held_since,
            resolved_at: Some(now),
            ..condition
        };
        return ConditionChange {
            condition: Some(condition),
            events: &[AlertEventKind::Resolved],
        };
    }
    ConditionChange {
        condition: Some(Condition {
            held_since,
            ..condition
        }),
        events: &[],
    }
}

/// Returns the start of the measured time. That is `now` if nothing was measured yet, or if the
/// clock was set back to before the start.
fn count_from(since: Option<Timestamp>, now: Timestamp) -> Timestamp {
    since.filter(|since| *since <= now).unwrap_or(now)
}

fn held(since: Timestamp, time: Duration, now: Timestamp) -> bool {
    now.since(since) >= time
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Severity;

    const FIRE_AFTER_S: i64 = 60;
    const RESOLVE_AFTER_S: i64 = 300;

    fn limit(fire_after_s: i64, resolve_after_s: i64) -> Limit {
        Limit {
            severity: Severity::Warning,
            threshold: 0.05,
            resolve_threshold: 0.04,
            calls_min: 20,
            fire_after: Duration::from_secs(u64::try_from(fire_after_s).expect("is positive")),
            resolve_after: Duration::from_secs(
                u64::try_from(resolve_after_s).expect("is positive"),
            ),
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    /// Evaluates each verdict at its second. Returns the change of each evaluation.
    fn run(evaluations: &[(i64, ThresholdVerdict)], limit: &Limit) -> Vec<ConditionChange> {
        let mut before = None;
        let evaluate = |&(second, verdict): &(i64, ThresholdVerdict)| {
            let change = advance(before, verdict, limit, at(second));
            before = change
                .condition
                .filter(|condition| condition.state != AlertState::Resolved);
            change
        };
        evaluations.iter().map(evaluate).collect()
    }

    fn states(changes: &[ConditionChange]) -> Vec<Option<AlertState>> {
        changes
            .iter()
            .map(|change| change.condition.map(|condition| condition.state))
            .collect()
    }

    #[test]
    fn an_alert_goes_from_pending_over_firing_to_resolved() {
        use AlertState::{Firing, Pending, Resolved};
        use ThresholdVerdict::{Over, TooFew, Under};
        let evaluations = [
            (0, Over),
            (30, Over),
            (60, Over),
            (70, Under),
            (300, TooFew),
            (370, Under),
            (380, Under),
        ];
        let changes = run(&evaluations, &limit(FIRE_AFTER_S, RESOLVE_AFTER_S));
        let expected = [
            Some(Pending),
            Some(Pending),
            Some(Firing),
            Some(Firing),
            Some(Firing),
            Some(Resolved),
            None,
        ];
        assert_eq!(states(&changes), expected);
        let resolved = changes[5].condition.expect("is resolved");
        assert_eq!(
            (resolved.since, resolved.fired_at, resolved.resolved_at),
            (at(0), Some(at(60)), Some(at(370)))
        );
        let events: Vec<_> = changes
            .iter()
            .flat_map(|change| change.events)
            .copied()
            .collect();
        assert_eq!(
            events,
            [
                AlertEventKind::Pending,
                AlertEventKind::Fired,
                AlertEventKind::Resolved
            ]
        );
    }

    #[test]
    fn without_a_wait_it_fires_at_once() {
        let changes = run(
            &[(0, ThresholdVerdict::Over), (1, ThresholdVerdict::Under)],
            &limit(0, 0),
        );
        assert_eq!(
            states(&changes),
            [Some(AlertState::Firing), Some(AlertState::Resolved)]
        );
    }

    #[test]
    fn a_clock_that_is_set_back_neither_fires_nor_blocks() {
        use AlertState::{Firing, Pending};
        let evaluations = [
            (1_000, ThresholdVerdict::Over),
            (0, ThresholdVerdict::Over),
            (59, ThresholdVerdict::Over),
            (60, ThresholdVerdict::Over),
        ];
        let changes = run(&evaluations, &limit(FIRE_AFTER_S, RESOLVE_AFTER_S));
        assert_eq!(
            states(&changes),
            [Some(Pending), Some(Pending), Some(Pending), Some(Firing)]
        );
    }

    fn verdict() -> impl Strategy<Value = ThresholdVerdict> {
        prop_oneof![
            4 => Just(ThresholdVerdict::Over), 2 => Just(ThresholdVerdict::Between), 4 => Just(ThresholdVerdict::Under), 1 => Just(ThresholdVerdict::TooFew)
        ]
    }

    /// Generates evaluations whose times mostly increase and sometimes jump back.
    fn evaluations() -> impl Strategy<Value = Vec<(i64, ThresholdVerdict)>> {
        let step = prop_oneof![8 => 1..90_i64, 1 => -500..0_i64, 1 => 300..2_000_i64];
        prop::collection::vec((step, verdict()), 0..80).prop_map(|steps| {
            let mut second = 0;
            steps
                .into_iter()
                .map(|(step, verdict)| {
                    second += step;
                    (second, verdict)
                })
                .collect()
        })
    }

    /// Returns the seconds for which the verdicts up to the last evaluation have been `wanted`
    /// without the clock going back; -1 if the last verdict is not `wanted`.
    fn held_for(
        evaluations: &[(i64, ThresholdVerdict)],
        wanted: impl Fn(ThresholdVerdict) -> bool,
    ) -> i64 {
        let mut from: Option<i64> = None;
        for &(second, verdict) in evaluations {
            from = if wanted(verdict) {
                Some(from.filter(|from| *from <= second).unwrap_or(second))
            } else {
                None
            };
        }
        from.zip(evaluations.last())
            .map_or(-1, |(from, last)| last.0 - from)
    }

    proptest! {
        #[test]
        fn it_fires_only_after_it_was_over_for_long_enough(evaluations in evaluations()) {
            let changes = run(&evaluations, &limit(FIRE_AFTER_S, RESOLVE_AFTER_S));
            for (index, change) in changes.iter().enumerate() {
                let held = held_for(&evaluations[..=index], |verdict| verdict == ThresholdVerdict::Over);
                if change.events.contains(&AlertEventKind::Fired) {
                    prop_assert!(held >= FIRE_AFTER_S);
                    prop_assert_eq!(evaluations[index].1, ThresholdVerdict::Over, "nothing fires without traffic");
                }
                // The alert does fire then, whatever came before.
                if held >= FIRE_AFTER_S {
                    prop_assert_eq!(change.condition.map(|condition| condition.state), Some(AlertState::Firing));
                }
            }
        }

        #[test]
        fn it_resolves_only_after_it_was_well_for_long_enough(evaluations in evaluations()) {
            let changes = run(&evaluations, &limit(FIRE_AFTER_S, RESOLVE_AFTER_S));
            let well = |verdict| matches!(verdict, ThresholdVerdict::Under | ThresholdVerdict::TooFew);
            for (index, change) in changes.iter().enumerate() {
                if change.events.contains(&AlertEventKind::Resolved) {
                    prop_assert!(held_for(&evaluations[..=index], well) >= RESOLVE_AFTER_S);
                }
            }
        }

        #[test]
        fn between_the_thresholds_nothing_changes(evaluations in evaluations(), seconds in prop::collection::vec(-90..900_i64, 1..40)) {
            let limit = limit(FIRE_AFTER_S, RESOLVE_AFTER_S);
            let last = run(&evaluations, &limit).last().and_then(|change| change.condition);
            let mut condition = last.filter(|condition| condition.state != AlertState::Resolved);
            let before = condition.map(|condition| (condition.state, condition.since, condition.fired_at));
            let mut second = evaluations.last().map_or(0, |evaluation| evaluation.0);
            for step in seconds {
                second += step;
                let change = advance(condition, ThresholdVerdict::Between, &limit, at(second));
                prop_assert!(change.events.is_empty());
                condition = change.condition;
                prop_assert_eq!(condition.map(|condition| (condition.state, condition.since, condition.fired_at)), before);
            }
        }

        #[test]
        fn the_events_are_those_of_the_states(evaluations in evaluations()) {
            let mut before = None;
            for change in run(&evaluations, &limit(FIRE_AFTER_S, RESOLVE_AFTER_S)) {
                let after = change.condition.map(|condition| condition.state);
                let expected: &[AlertEventKind] = match (before, after) {
                    (None, Some(AlertState::Pending)) => &[AlertEventKind::Pending],
                    (Some(AlertState::Pending), Some(AlertState::Firing)) => &[AlertEventKind::Fired],
                    (Some(AlertState::Firing), Some(AlertState::Resolved)) => &[AlertEventKind::Resolved],
                    (before, after) => {
                        prop_assert!(before == after || (before, after) == (Some(AlertState::Pending), None));
                        &[]
                    }
                };
                prop_assert_eq!(change.events, expected);
                before = after.filter(|state| *state != AlertState::Resolved);
            }
        }
    }
}
