//! Alerts: which numbers are over their thresholds, and what follows from that as time goes on.
//!
//! All of it is pure: numbers, settings and `now` come in, [`Reading`]s and [`Change`]s come out. Where alerts are kept is
//! the store's business, and who is told is that of `watch`.
//!
//! ```
//! use stepwell::config::Config;
//! use stepwell::monitor::alerts::{Numbers, OperationNumbers, Thresholds, check_thresholds};
//!
//! let config = Config::defaults().expect("the defaults load");
//! let thresholds = Thresholds::new(&config.alerts);
//! let pay = OperationNumbers { operation: "step expense/pay".into(), calls: 200, errors: 30, ..Default::default() };
//! let over = check_thresholds(&thresholds, &Numbers { operations: vec![pay], ..Numbers::default() });
//! assert_eq!(over[0].message(), "step expense/pay: 15 % of 200 calls failed in the last 5m; the threshold is 5 %");
//! ```

mod condition;
mod evidence;
mod hits;
mod notice;
mod numbers;
mod thresholds;

pub use self::condition::{Change, Condition, advance};
pub use self::evidence::{Evidence, Exemplar};
pub use self::hits::RecentHits;
pub use self::notice::{Muted, Notice, Told, ToldState, owed};
pub use self::thresholds::{Limit, Thresholds};

use crate::model::{AlertRule, Name};

/// What the rules are about, over the window of [`Thresholds`].
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    /// Of the host and of teams.
    pub operations: Vec<OperationNumbers>,
    /// Of the host.
    pub caches: Vec<CacheNumbers>,
    /// One for each team.
    pub lifecycles: Vec<LifecycleNumbers>,
}

/// What an operation did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OperationNumbers {
    /// Whose it is; none for the host's own.
    pub team: Option<Name>,
    /// Its name, `step expense/pay` for example.
    pub operation: String,
    /// Calls that ended.
    pub calls: u64,
    /// Those that failed.
    pub errors: u64,
    /// What 95 of 100 calls stayed below.
    pub p95_ms: f64,
}

/// How a cache did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheNumbers {
    /// What it holds, `instances` for example.
    pub kind: String,
    /// Reads that it answered.
    pub hits: u64,
    /// Reads that it could not answer.
    pub misses: u64,
}

/// How a team's instances ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifecycleNumbers {
    /// Whose they are.
    pub team: Name,
    /// All that ended.
    pub ended: u64,
    /// Those that were rejected.
    pub rejected: u64,
}

/// What a rejection rate is about.
pub const WORKFLOWS: &str = "workflows";

/// How a value stands to its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Beyond the threshold.
    Over,
    /// Not beyond the threshold, and not well either.
    Between,
    /// Well.
    Under,
    /// There were fewer calls than prove anything.
    TooFew,
}

/// One rule applied to one subject.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The rule.
    pub rule: AlertRule,
    /// Whose subject it is; none for the host's own.
    pub team: Option<Name>,
    /// An operation's name, a cache's kind, or [`WORKFLOWS`].
    pub subject: String,
    /// In the unit of the rule.
    pub value: f64,
    /// What applies to it.
    pub limit: Limit,
    /// How the one stands to the other.
    pub verdict: Verdict,
    /// Where the value comes from.
    pub evidence: Evidence,
}

/// What is over its threshold at this moment, and over enough traffic to say so. Whether that is so for long enough to
/// tell anybody is [`advance`]'s to say.
pub fn check_thresholds(thresholds: &Thresholds, numbers: &Numbers) -> Vec<Reading> {
    let mut readings = read(thresholds, numbers);
    readings.retain(|reading| reading.verdict == Verdict::Over);
    readings
}

/// Applies every rule to everything that it is about, whatever comes of it.
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
            let found = Found {
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
        let found = Found {
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
        let found = Found {
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
        .filter(|reading| reading.verdict == Verdict::Over)
    {
        reading.evidence.exemplars = evidence::exemplars(reading, &numbers.operations);
    }
    readings
}

/// A step of one version is part of the step and of the version, which are watched; a third alert would say the same.
fn is_watched(operation: &str) -> bool {
    !(operation.starts_with("plugin ") && operation.contains('/'))
}

struct Found<'a> {
    rule: AlertRule,
    team: Option<&'a Name>,
    subject: &'a str,
    value: f64,
}

impl Found<'_> {
    /// None for what is not to be watched.
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
    /// One sentence for people.
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
