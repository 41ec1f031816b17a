//! The vocabulary of alerts: rules, severities, states. Their evaluation is in `monitor/alerts/`.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The metric that a rule watches. Its value is computed over a window of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertRule {
    /// Share of an operation's calls that failed, 0 to 1. Bad if too high.
    ErrorRate,
    /// 95th percentile of an operation's call durations, in milliseconds. Bad if too high.
    P95Latency,
    /// Share of reads that a cache served, 0 to 1. Bad if too low.
    CacheHitRate,
    /// Share of a team's ended instances that were rejected, 0 to 1. Bad if too high.
    RejectionRate,
}

/// The urgency of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Needs attention in working hours.
    Warning,
    /// Needs attention at once.
    Critical,
}

/// The state of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// Beyond the threshold, but not for long enough yet.
    Pending,
    /// Beyond the threshold for long enough.
    Firing,
    /// Back to normal for long enough.
    Resolved,
}

/// A change of an alert's state, recorded in its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertEventKind {
    /// The value crossed the threshold.
    Pending,
    /// The value stayed beyond the threshold for long enough.
    Fired,
    /// The value was back to normal for long enough.
    Resolved,
}

macro_rules! words {
    ($type:ident { $($variant:ident => $word:literal,)+ }) => {
        impl $type {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the name used in JSON, in settings and in the database.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let known = || Self::ALL.iter().map(|word| word.as_str()).collect::<Vec<_>>().join(", ");
                let found = Self::ALL.iter().copied().find(|word| word.as_str() == text);
                found.ok_or_else(|| format!("use one of {}", known()))
            }
        }
    };
}

words!(AlertRule {
    ErrorRate => "error_rate",
    P95Latency => "p95_latency",
    CacheHitRate => "cache_hit_rate",
    RejectionRate => "rejection_rate",
});

words!(Severity {
    Warning => "warning",
    Critical => "critical",
});

words!(AlertState {
    Pending => "pending",
    Firing => "firing",
    Resolved => "resolved",
});

words!(AlertEventKind {
    Pending => "pending",
    Fired => "fired",
    Resolved => "resolved",
});

impl AlertRule {
    /// Returns the unit of the rule's values and thresholds.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::P95Latency => "ms",
            Self::ErrorRate | Self::CacheHitRate | Self::RejectionRate => "ratio",
        }
    }

    /// Returns true if `value` is on the bad side of `bound`. A value equal to the bound is not.
    pub fn is_worse(self, value: f64, bound: f64) -> bool {
        match self {
            Self::CacheHitRate => value < bound,
            Self::ErrorRate | Self::P95Latency | Self::RejectionRate => value > bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_json() {
        for rule in AlertRule::ALL {
            assert_eq!(
                serde_json::to_value(rule).expect("serializes"),
                rule.as_str()
            );
            assert_eq!(rule.as_str().parse(), Ok(*rule));
        }
        for kind in AlertEventKind::ALL {
            assert_eq!(
                serde_json::to_value(kind).expect("serializes"),
                kind.as_str()
            );
        }
        for state in AlertState::ALL {
            assert_eq!(
                serde_json::to_value(state).expect("serializes"),
                state.as_str()
            );
        }
        for severity in Severity::ALL {
            assert_eq!(
                serde_json::to_value(severity).expect("serializes"),
                severity.as_str()
            );
        }
        assert!(
            "latency"
                .parse::<AlertRule>()
                .expect_err("is unknown")
                .contains("p95_latency")
        );
    }
}
