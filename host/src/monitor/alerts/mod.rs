//! Alert rules: compare the monitor's numbers with thresholds and follow each alert over time.
//!
//! The module is pure. Numbers, settings and `now` come in; [`Reading`]s and [`ConditionChange`]s
//! come out. The store keeps the alerts, and `background` sends the messages about them.
//!
//! ```
//! use stepwell::config::Config;
//! use stepwell::monitor::alerts::{Numbers, OperationNumbers, Thresholds, check_thresholds};
//!
//! let config = Config::defaults().expect("the defaults load");
//! let thresholds = Thresholds::new(&config.alerts);
//! let pay = OperationNumbers {
//!     operation: "step expense/pay".into(),
//!     calls: 200,
//!     errors: 30,
//!     ..Default::default()
//! };
//! let numbers = Numbers { operations: vec![pay], ..Numbers::default() };
//! let over = check_thresholds(&thresholds, &numbers);
//! assert_eq!(
//!     over[0].message(),
//!     "step expense/pay: 15 % of 200 calls failed in the last 5m; the threshold is 5 %"
//! );
//! ```

mod condition;
mod evidence;
mod hits;
mod notice;
mod numbers;
mod thresholds;

pub use self::condition::{Condition, ConditionChange, advance};
pub use self::evidence::{Evidence, Exemplar};
pub use self::hits::RecentHits;
pub use self::notice::{LastNotice, Notice, NoticeState, Suppression, due_notice};
pub use self::thresholds::{Limit, Thresholds};

use crate::model::{AlertRule, Name};

/// The input of the alert rules, measured over the window of [`Thresholds`].
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    /// Operations of the host and of the teams.
    pub operations: Vec<OperationNumbers>,
    /// Caches of the host.
    pub caches: Vec<CacheNumbers>,
    /// Ended instances, one entry for each team.
    pub lifecycles: Vec<LifecycleNumbers>,
}

/// Calls of one operation in the window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OperationNumbers {
    /// The team that owns the operation; none for the host's own operations.
    pub team: Option<Name>,
    /// The operation's name, `step expense/pay` for example.
    pub operation: String,
    /// Calls that ended.
    pub calls: u64,
    /// Ended calls that failed.
    pub errors: u64,
    /// 95th percentile of the durations, in milliseconds.
    pub p95_ms: f64,
}

/// Reads of one cache in the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheNumbers {
    /// The kind of entry that the cache holds, `instances` for example.
    pub kind: String,
    /// Reads that the cache served.
    pub hits: u64,
    /// Reads that the cache could not serve.
    pub misses: u64,
}

/// Ended instances of one team in the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifecycleNumbers {
    /// The team that owns the instances.
    pub team: Name,
    /// Instances that ended, by any end.
    pub ended: u64,
    /// Ended instances that were rejected.
    pub rejected: u64,
}

/// The subject of every reading of [`AlertRule::RejectionRate`].
pub const WORKFLOWS: &str = "workflows";

/// The relation of a value to its [`Limit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThresholdVerdict {
    /// The value is beyond the threshold.
    Over,
    /// The value is between the threshold and the resolve threshold.
    Between,
    /// The value is good: not beyond the resolve threshold.
    Under,
    /// The subject has fewer calls than [`Limit::calls_min`], so the value proves nothing.
    TooFew,
}

/// One rule applied to one subject.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The rule.
    pub rule: AlertRule,
    /// The team that owns the subject; none for the host's own subjects.
    pub team: Option<Name>,
    /// An operation's name, a cache's kind, or [`WORKFLOWS`].
    pub subject: String,
    /// The measured value: a rate from 0 to 1, or milliseconds for [`AlertRule::P95Latency`].
    pub value: f64,
    /// The thresholds that apply to the subject.
    pub limit: Limit,
    /// The relation of `value` to `limit`.
    pub verdict: ThresholdVerdict,
    /// The numbers behind the value.
    pub evidence: Evidence,
}

/// Returns the readings that are over their thresholds now, with enough calls to prove it. An alert
/// also has to stay over its threshold for a while before it fires: [`advance`] decides that.
pub fn check_thresholds(thresholds: &Thresholds, numbers: &Numbers) -> Vec<Reading> {
    let mut readings = read(thresholds, numbers);
    readings.retain(|reading| reading.verdict == ThresholdVerdict::Over);
    readings
}

/// Applies every rule to all its subjects and returns all readings, whatever their verdict.
pub fn read(thresholds: &Thresholds, numbers: &Numbers) -> Vec<Reading> {
    let mut readings = Vec::new();
    for operation in numbers
        .operations
        .iter()
        .filter(|operation| is_watched(&operation.operation))
    {
        let OperationNumbers {
            team,
            operation: subject,
            calls,
            errors,
            p95_ms,
        } = operation;
        let evidence = || Evidence {
            errors: Some(*errors),
            p95_ms: Some(*p95_ms),
            ..Evidence::new(thresholds.window().as_str(), *calls)
        };
        let rate = super::ratio(*errors, *calls);
        for (rule, value) in [
            (AlertRule::ErrorRate, rate),
            (AlertRule::P95Latency, *p95_ms),
        ] {
            let found = MeasuredValue {
                rule,
                team: team.as_ref(),
                subject,
                value,
            };
            readings.extend(found.judge(thresholds, evidence));
        }
    }
    for CacheNumbers { kind, hits, misses } in &numbers.caches {
        let reads = hits.saturating_add(*misses);
        let value = super::ratio(*hits, reads);
        let found = MeasuredValue {
            rule: AlertRule::CacheHitRate,
            team: None,
            subject: kind,
            value,
        };
        let evidence = || Evidence {
            misses: Some(*misses),
            ..Evidence::new(thresholds.window().as_str(), reads)
        };
        readings.extend(found.judge(thresholds, evidence));
    }
    for LifecycleNumbers {
        team,
        ended,
        rejected,
    } in &numbers.lifecycles
    {
        let value = super::ratio(*rejected, *ended);
        let found = MeasuredValue {
            rule: AlertRule::RejectionRate,
            team: Some(team),
            subject: WORKFLOWS,
            value,
        };
        let evidence = || Evidence {
            rejected: Some(*rejected),
            ..Evidence::new(thresholds.window().as_str(), *ended)
        };
        readings.extend(found.judge(thresholds, evidence));
    }
    for reading in readings
        .iter_mut()
        .filter(|reading| reading.verdict == ThresholdVerdict::Over)
    {
        reading.evidence.exemplars = evidence::exemplars(reading, &numbers.operations);
    }
    readings
}

/// Returns false for a step of one plugin version. The step and the version are each watched
/// already, and a third alert would repeat them.
fn is_watched(operation: &str) -> bool {
    !(operation.starts_with("plugin ") && operation.contains('/'))
}

struct MeasuredValue<'a> {
    rule: AlertRule,
    team: Option<&'a Name>,
    subject: &'a str,
    value: f64,
}

impl MeasuredValue<'_> {
    /// Returns none if the settings turn the rule off for this subject.
    fn judge(
        self,
        thresholds: &Thresholds,
        evidence: impl FnOnce() -> Evidence,
    ) -> Option<Reading> {
        let Self {
            rule,
            team,
            subject,
            value,
        } = self;
        let limit = thresholds.limit(rule, team, subject)?;
        let evidence = evidence();
        let verdict = limit.judge(rule, value, evidence.calls);
        let (team, subject) = (team.cloned(), subject.to_owned());
        Some(Reading {
            rule,
            team,
            subject,
            value,
            limit,
            verdict,
            evidence,
        })
    }
}

impl Reading {
    /// Describes the reading in one sentence for people.
    pub fn message(&self) -> String {
        let Self {
            rule,
            subject,
            value,
            limit: Limit { threshold, .. },
            evidence,
            ..
        } = self;
        let (window, calls) = (&evidence.window, evidence.calls);
        let percent = |ratio: f64| format!("{} %", (ratio * 1_000.0).round() / 10.0);
        let (value, threshold) = match rule {
            AlertRule::P95Latency => (format!("{value:.0}"), format!("{threshold:.0} ms")),
            _ => (percent(*value), percent(*threshold)),
        };
        let what = match rule {
            AlertRule::ErrorRate => format!("{value} of {calls} calls failed"),
            AlertRule::P95Latency => {
                format!("5 of 100 calls, of {calls}, took longer than {value} ms")
            }
            AlertRule::CacheHitRate => format!("the cache could answer {value} of {calls} reads"),
            AlertRule::RejectionRate => {
                format!("{value} of {calls} instances that ended were rejected")
            }
        };
        format!("{subject}: {what} in the last {window}; the threshold is {threshold}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn thresholds(change: impl FnOnce(&mut Config)) -> Thresholds {
        let mut config = Config::defaults().expect("the defaults load");
        change(&mut config);
        Thresholds::new(&config.alerts)
    }

    fn operation(name: &str, calls: u64, errors: u64, p95_ms: f64) -> OperationNumbers {
        OperationNumbers {
            team: None,
            operation: name.to_owned(),
            calls,
            errors,
            p95_ms,
        }
    }

    fn over(numbers: &Numbers) -> Vec<(AlertRule, String)> {
        let readings = check_thresholds(&thresholds(|_| {}), numbers);
        readings
            .into_iter()
            .map(|reading| (reading.rule, reading.subject))
            .collect()
    }

    #[test]
    fn each_rule_meets_its_threshold_and_not_before() {
        let acme: Name = "acme".parse().expect("is a name");
        let at = Numbers {
            operations: vec![operation("commit_step", 100, 5, 1_000.0)],
            caches: vec![CacheNumbers {
                kind: "instances".into(),
                hits: 500,
                misses: 500,
            }],
            lifecycles: vec![LifecycleNumbers {
                team: acme.clone(),
                ended: 10,
                rejected: 3,
            }],
        };
        assert_eq!(over(&at), []);
        let beyond = Numbers {
            operations: vec![operation("commit_step", 100, 6, 1_001.0)],
            caches: vec![CacheNumbers {
                kind: "instances".into(),
                hits: 499,
                misses: 501,
            }],
            lifecycles: vec![LifecycleNumbers {
                team: acme,
                ended: 10,
                rejected: 4,
            }],
        };
        let subjects = ["commit_step", "commit_step", "instances", WORKFLOWS].map(str::to_owned);
        assert_eq!(
            over(&beyond),
            AlertRule::ALL
                .iter()
                .copied()
                .zip(subjects)
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn what_has_too_little_traffic_proves_nothing() {
        let few = Numbers {
            operations: vec![operation("commit_step", 19, 19, 60_000.0)],
            caches: vec![CacheNumbers {
                kind: "instances".into(),
                hits: 0,
                misses: 999,
            }],
            lifecycles: vec![],
        };
        assert_eq!(over(&few), []);
        assert_eq!(over(&Numbers::default()), []);
    }

    #[test]
    fn the_evidence_names_the_versions_and_steps_behind_a_number() {
        let numbers = Numbers {
            operations: vec![
                operation("step expense/pay", 100, 40, 10.0),
                operation("plugin expense@1.0.0/pay", 50, 1, 10.0),
                operation("plugin expense@2.0.0/pay", 50, 39, 10.0),
                operation("plugin expense@2.0.0/check", 50, 50, 10.0),
                operation("plugin other@2.0.0/pay", 50, 50, 10.0),
            ],
            ..Numbers::default()
        };
        let readings = check_thresholds(&thresholds(|_| {}), &numbers);
        let [pay] = readings.as_slice() else {
            panic!("one: {readings:?}")
        };
        let names: Vec<_> = pay
            .evidence
            .exemplars
            .iter()
            .map(|one| (one.operation.as_str(), one.errors))
            .collect();
        assert_eq!(
            names,
            [
                ("plugin expense@2.0.0/pay", 39),
                ("plugin expense@1.0.0/pay", 1)
            ]
        );
    }

    #[test]
    fn a_rule_that_is_off_reads_nothing() {
        let off = thresholds(|config| config.alerts.error_rate.enabled = false);
        let numbers = Numbers {
            operations: vec![operation("commit_step", 100, 100, 1.0)],
            ..Numbers::default()
        };
        assert!(
            read(&off, &numbers)
                .iter()
                .all(|reading| reading.rule != AlertRule::ErrorRate)
        );
    }
}
