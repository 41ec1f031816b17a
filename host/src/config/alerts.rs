//! The section `[alerts]`: thresholds, overrides and the webhook.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::{ConfigError, invalid};
use crate::model::{AlertRule, Pattern, Severity, duration};

/// Maximum number of overrides. Each evaluation tries all of them for every operation.
const OVERRIDES_MAX: usize = 1_000;
/// Maximum number of active alerts. All of them are in one response of the API, and in memory at
/// each evaluation.
const ACTIVE_MAX: u32 = 1_000;
/// Maximum number of silences of one team. All of them are tried for every alert.
const SILENCES_MAX: u32 = 1_000;
const ATTEMPTS_MAX: u32 = 20;

section! {
    /// `[alerts]`: rules, thresholds, overrides and the webhook.
    AlertsConfig {
        window: AlertWindow,
        #[serde(with = "duration")] fire_after: Duration,
        #[serde(with = "duration")] resolve_after: Duration,
        active_max: u32,
        silences_max: u32,
        #[serde(with = "duration")] retention: Duration,
        resolved_max: u32,
        error_rate: AlertRuleConfig,
        p95_latency: AlertRuleConfig,
        cache_hit_rate: AlertRuleConfig,
        rejection_rate: AlertRuleConfig,
        webhook: WebhookConfig,
        #[serde(default)] overrides: Vec<AlertOverride>,
    }
}

/// The time over which values are measured, up to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum AlertWindow {
    /// One minute.
    #[serde(rename = "1m")]
    Minute,
    /// Five minutes.
    #[serde(rename = "5m")]
    FiveMinutes,
    /// One hour.
    #[serde(rename = "1h")]
    Hour,
}

impl AlertWindow {
    /// Returns the length of the window.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::Minute => 60,
            Self::FiveMinutes => 300,
            Self::Hour => 3_600,
        })
    }
}

section! {
    /// One of the four rules, for example `[alerts.error_rate]`.
    AlertRuleConfig {
        enabled: bool,
        severity: Severity,
        threshold: f64,
        resolve_threshold: f64,
        calls_min: u64,
    }
}

/// `[[alerts.overrides]]`: other settings for the subjects that match the patterns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertOverride {
    /// The rule; none for all rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<AlertRule>,
    /// The teams; none for all teams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<Pattern>,
    /// The names of operations. For rules without operations, the subject of the alert: a cache's
    /// kind, or `workflows`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Pattern>,
    /// The plugins of operations: `expense`, or a version as in `expense@2.*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<Pattern>,
    /// False if the subjects are not watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The severity, instead of the rule's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// The threshold, instead of the rule's. Needs `rule` and `resolve_threshold`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// The resolve threshold, instead of the rule's. Needs `threshold`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolve_threshold: Option<f64>,
    /// The minimum number of calls, instead of the rule's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_min: Option<u64>,
    /// The time before an alert fires, instead of that in `[alerts]`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "duration::option"
    )]
    pub fire_after: Option<Duration>,
    /// The time before an alert resolves, instead of that in `[alerts]`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "duration::option"
    )]
    pub resolve_after: Option<Duration>,
}

section! {
    /// `[alerts.webhook]`: the receiver of messages about alerts.
    WebhookConfig {
        url: Secret,
        secret: Secret,
        secret_file: String,
        #[serde(with = "duration")] timeout: Duration,
        attempts_max: u32,
        #[serde(with = "duration")] backoff: Duration,
        #[serde(with = "duration")] repeat_every: Duration,
    }
}

/// A text that neither logs nor `stepwell config` show.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Secret(String);

impl Secret {
    /// Returns the text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns true if there is no secret.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.is_empty() { "\"\"" } else { "\"***\"" })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_empty() { "" } else { "***" })
    }
}

impl AlertsConfig {
    /// Returns the settings of a rule.
    pub fn rule(&self, rule: AlertRule) -> &AlertRuleConfig {
        match rule {
            AlertRule::ErrorRate => &self.error_rate,
            AlertRule::P95Latency => &self.p95_latency,
            AlertRule::CacheHitRate => &self.cache_hit_rate,
            AlertRule::RejectionRate => &self.rejection_rate,
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let bounds = [
            ("alerts.active_max", self.active_max, ACTIVE_MAX),
            ("alerts.silences_max", self.silences_max, SILENCES_MAX),
            ("alerts.resolved_max", self.resolved_max, u32::MAX),
            (
                "alerts.webhook.attempts_max",
                self.webhook.attempts_max,
                ATTEMPTS_MAX,
            ),
        ];
        for (key, value, most) in bounds {
            if !(1..=most).contains(&value) {
                return Err(invalid(key, &format!("must be 1 to {most}")));
            }
        }
        if self.retention.is_zero() {
            return Err(invalid("alerts.retention", "must be more than 0"));
        }
        for rule in AlertRule::ALL {
            let key = format!("alerts.{}", rule.as_str());
            let config = self.rule(*rule);
            check_thresholds(&key, *rule, config.threshold, config.resolve_threshold)?;
            check_calls(&key, config.calls_min)?;
        }
        if self.overrides.len() > OVERRIDES_MAX {
            return Err(invalid(
                "alerts.overrides",
                &format!("there may be at most {OVERRIDES_MAX}"),
            ));
        }
        for (index, one) in self.overrides.iter().enumerate() {
            one.check(&format!("alerts.overrides, the {}.", index + 1))?;
        }
        self.webhook.check()
    }
}

impl AlertOverride {
    fn check(&self, key: &str) -> Result<(), ConfigError> {
        let Self {
            rule,
            team,
            operation,
            plugin,
            ..
        } = self;
        if rule.is_none() && team.is_none() && operation.is_none() && plugin.is_none() {
            return Err(invalid(
                key,
                "say what it is for: rule, team, operation or plugin",
            ));
        }
        let Self {
            enabled,
            severity,
            threshold,
            resolve_threshold,
            calls_min,
            fire_after,
            resolve_after,
            ..
        } = self;
        let changes = [
            enabled.is_some(),
            severity.is_some(),
            threshold.is_some(),
            resolve_threshold.is_some(),
            calls_min.is_some(),
            fire_after.is_some(),
            resolve_after.is_some(),
        ];
        if !changes.contains(&true) {
            return Err(invalid(
                key,
                "it changes nothing: give enabled, severity, threshold, calls_min or another",
            ));
        }
        match (rule, threshold, resolve_threshold) {
            (_, None, None) => {}
            (Some(rule), Some(threshold), Some(resolve)) => {
                check_thresholds(key, *rule, *threshold, *resolve)?
            }
            (None, ..) => {
                return Err(invalid(
                    key,
                    "a threshold needs a rule: they are counted in different units",
                ));
            }
            _ => {
                return Err(invalid(
                    key,
                    "give threshold and resolve_threshold together",
                ));
            }
        }
        calls_min.map_or(Ok(()), |calls| check_calls(key, calls))
    }
}

impl WebhookConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let key = "alerts.webhook";
        if self.timeout.is_zero() || self.backoff.is_zero() {
            return Err(invalid(key, "timeout and backoff must be more than 0"));
        }
        if !self.secret.is_empty() && !self.secret_file.is_empty() {
            return Err(invalid(key, "give secret or secret_file, not both"));
        }
        // The message does not repeat the URL, because it may contain a secret.
        let url = self.url.expose();
        let host = url
            .strip_prefix("https://")
            .or_else(|| url.strip_prefix("http://"));
        let has_host =
            host.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', '?', '#', ':']));
        let is_plain = url.bytes().all(|byte| byte.is_ascii_graphic());
        let is_fine = url.is_empty() || (has_host && is_plain);
        if !is_fine {
            return Err(invalid(
                "alerts.webhook.url",
                "must be http://HOST… or https://HOST…, or empty",
            ));
        }
        Ok(())
    }
}

fn check_thresholds(
    key: &str,
    rule: AlertRule,
    threshold: f64,
    resolve: f64,
) -> Result<(), ConfigError> {
    let most = if rule.unit() == "ratio" {
        1.0
    } else {
        f64::MAX
    };
    if !(0.0..=most).contains(&threshold) || !(0.0..=most).contains(&resolve) {
        let range = if rule.unit() == "ratio" {
            "from 0 to 1"
        } else {
            "milliseconds, 0 or more"
        };
        return Err(invalid(
            key,
            &format!(
                "threshold and resolve_threshold of {} are {range}",
                rule.as_str()
            ),
        ));
    }
    if rule.is_worse(resolve, threshold) {
        let side = if rule.is_worse(0.0, 1.0) {
            "at or above"
        } else {
            "at or below"
        };
        return Err(invalid(
            key,
            &format!("resolve_threshold must be {side} threshold"),
        ));
    }
    Ok(())
}

fn check_calls(key: &str, calls: u64) -> Result<(), ConfigError> {
    if calls == 0 {
        Err(invalid(key, "calls_min must be at least 1"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::Config;
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("is written");
        Config::load(Some(file.path()), []).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_those_of_the_specification() {
        let alerts = Config::defaults().expect("loads").alerts;
        let thresholds = AlertRule::ALL
            .iter()
            .map(|rule| alerts.rule(*rule).threshold)
            .collect::<Vec<_>>();
        assert_eq!(thresholds, [0.05, 1000.0, 0.5, 0.3]);
        assert_eq!(alerts.window, AlertWindow::FiveMinutes);
    }

    #[test]
    fn an_override_is_read_and_written() {
        let text = "[[alerts.overrides]]\nrule = 'p95_latency'\nplugin = 'expense@2.*'\nthreshold = 5000\n\
                    resolve_threshold = 4000\nfire_after = '10m'\n[[alerts.overrides]]\nteam = 'lab-*'\nenabled = false";
        let config = load(text).expect("loads");
        let [slow, lab] = config.alerts.overrides.as_slice() else {
            panic!("two: {:?}", config.alerts.overrides)
        };
        assert_eq!(
            (slow.threshold, slow.fire_after),
            (Some(5000.0), Some(Duration::from_secs(600)))
        );
        assert_eq!((lab.enabled, lab.rule), (Some(false), None));
        let shown = toml::to_string(&config).expect("is written");
        assert_eq!(load(&shown).expect("loads"), config);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place() {
        for (text, place, problem) in [
            (
                "[alerts.error_rate]\nthreshold = 5.0",
                "alerts.error_rate",
                "0 to 1",
            ),
            (
                "[alerts.error_rate]\nthreshold = nan",
                "alerts.error_rate",
                "0 to 1",
            ),
            (
                "[alerts.error_rate]\nresolve_threshold = 0.5",
                "alerts.error_rate",
                "at or below",
            ),
            (
                "[alerts.cache_hit_rate]\nresolve_threshold = 0.1",
                "alerts.cache_hit_rate",
                "at or above",
            ),
            (
                "[alerts.p95_latency]\ncalls_min = 0",
                "alerts.p95_latency",
                "at least 1",
            ),
            ("[alerts]\nwindow = '7m'", "window", "5m"),
            ("[alerts]\nactive_max = 0", "alerts.active_max", "1 to"),
            (
                "[[alerts.overrides]]\nenabled = false",
                "the 1.",
                "rule, team, operation or plugin",
            ),
            (
                "[[alerts.overrides]]\nteam = 'a'",
                "the 1.",
                "changes nothing",
            ),
            (
                "[[alerts.overrides]]\nteam = 'a'\nthreshold = 1.0\nresolve_threshold = 1.0",
                "the 1.",
                "needs a rule",
            ),
            (
                "[[alerts.overrides]]\nrule = 'error_rate'\nthreshold = 0.5",
                "the 1.",
                "together",
            ),
            ("[[alerts.overrides]]\nteem = 'a'", "teem", "unknown field"),
            (
                "[alerts.webhook]\nurl = 'ftp://x'",
                "alerts.webhook.url",
                "https://",
            ),
            (
                "[alerts.webhook]\nurl = 'http:///x'",
                "alerts.webhook.url",
                "https://",
            ),
            (
                "[alerts.webhook]\nsecret = 'a'\nsecret_file = 'b'",
                "alerts.webhook",
                "not both",
            ),
        ] {
            let error = load(text).expect_err(text);
            assert!(
                error.contains(place) && error.contains(problem),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn secrets_are_shown_nowhere() {
        let config = load("[alerts.webhook]\nurl = 'https://hooks.test/T0KEN'\nsecret = 'hunter2'")
            .expect("loads");
        assert_eq!(config.alerts.webhook.secret.expose(), "hunter2");
        for shown in [
            format!("{config:?}"),
            toml::to_string(&config).expect("is written"),
        ] {
            assert!(
                !shown.contains("hunter2") && !shown.contains("T0KEN"),
                "{shown}"
            );
        }
        let error = load("[alerts.webhook]\nurl = 'gopher://T0KEN'").expect_err("is refused");
        assert!(!error.contains("T0KEN"), "{error}");
    }
}
