//! The words of alerts: which rule, how bad, where it stands. What they mean is in `monitor/alerts/`.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is watched. The value of each rule is worked out over a window of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertRule {
    /// Failed calls of an operation among its calls, 0 to 1: too high.
    ErrorRate,
    /// What 95 of 100 calls of an operation stay below, in milliseconds: too high.
    P95Latency,
    /// Reads that a cache could answer among those it was asked for, 0 to 1: too low.
    CacheHitRate,
    /// Rejected instances of a team among those that ended, 0 to 1: too high.
    RejectionRate,
}

/// How soon somebody should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// In working hours.
    Warning,
    /// Now.
    Critical,
}

/// Where an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// Over the limit, but not for long enough yet.
    Pending,
    /// Over the limit for long enough.
    Firing,
    /// Well again, for long enough.
    Resolved,
}

/// What an alert's history is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertEventKind {
    /// It was over the limit for the first time.
    Pending,
    /// It was so for long enough.
    Fired,
    /// It was well again for long enough.
    Resolved,
}

macro_rules! words {
    ($type:ident { $($variant:ident => $word:literal,)+ }) => {
        impl $type {
            /// All there are.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As in JSON, settings and the database.
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
    /// What its values and thresholds are counted in.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::P95Latency => "ms",
            Self::ErrorRate | Self::CacheHitRate | Self::RejectionRate => "ratio",
        }
    }

    /// Whether `value` is on the bad side of `bound`. The bound itself is not.
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
