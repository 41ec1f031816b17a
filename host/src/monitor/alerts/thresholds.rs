//! The limits that apply to each subject of a rule.

use std::time::Duration;

use serde::Serialize;

use super::ThresholdVerdict;
use crate::config::{AlertOverride, AlertRuleConfig, AlertWindow, AlertsConfig};
use crate::model::{AlertRule, Name, Severity, duration};
use crate::monitor::Window;

/// The configured thresholds and their overrides.
#[derive(Clone, Debug)]
pub struct Thresholds {
    config: AlertsConfig,
}

/// The settings of a rule for one subject.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Limit {
    /// The severity of the alert.
    pub severity: Severity,
    /// A value beyond this threshold is bad.
    pub threshold: f64,
    /// A value must be on the good side of this threshold before the alert can resolve.
    pub resolve_threshold: f64,
    /// The minimum number of calls. Fewer calls prove nothing.
    pub calls_min: u64,
    /// The time that the value must stay bad before the alert fires.
    #[serde(with = "duration")]
    pub fire_after: Duration,
    /// The time that the value must stay well before the alert resolves.
    #[serde(with = "duration")]
    pub resolve_after: Duration,
}

impl Thresholds {
    /// Creates thresholds from settings that were validated.
    pub fn new(config: &AlertsConfig) -> Self {
        Self {
            config: config.clone(),
        }
    }

    /// Returns the window over which values are measured.
    pub fn window(&self) -> Window {
        match self.config.window {
            AlertWindow::Minute => Window::Minute,
            AlertWindow::FiveMinutes => Window::FiveMinutes,
            AlertWindow::Hour => Window::Hour,
        }
    }

    /// Returns the limit of a rule without any override; none if the rule is off.
    pub fn general(&self, rule: AlertRule) -> Option<Limit> {
        let config = self.config.rule(rule);
        config.enabled.then(|| self.base(config))
    }

    /// Returns the limit for a subject: the rule's own settings, then the settings of each matching
    /// override, in the configured order. Returns none if the subject is not watched.
    pub fn limit(&self, rule: AlertRule, team: Option<&Name>, subject: &str) -> Option<Limit> {
        let config = self.config.rule(rule);
        let (mut enabled, mut limit) = (config.enabled, self.base(config));
        for one in self
            .config
            .overrides
            .iter()
            .filter(|one| fits(one, rule, team, subject))
        {
            enabled = one.enabled.unwrap_or(enabled);
            limit = Limit {
                severity: one.severity.unwrap_or(limit.severity),
                threshold: one.threshold.unwrap_or(limit.threshold),
                resolve_threshold: one.resolve_threshold.unwrap_or(limit.resolve_threshold),
                calls_min: one.calls_min.unwrap_or(limit.calls_min),
                fire_after: one.fire_after.unwrap_or(limit.fire_after),
                resolve_after: one.resolve_after.unwrap_or(limit.resolve_after),
            };
        }
        enabled.then_some(limit)
    }

    /// Returns the overrides that can apply to the team's subjects; without a team, all overrides.
    pub fn overrides(&self, team: Option<&Name>) -> Vec<&AlertOverride> {
        let concerns = |one: &&AlertOverride| match (team, &one.team) {
            (Some(team), Some(pattern)) => pattern.matches(team.as_str()),
            _ => true,
        };
        self.config.overrides.iter().filter(concerns).collect()
    }

    fn base(&self, config: &AlertRuleConfig) -> Limit {
        Limit {
            severity: config.severity,
            threshold: config.threshold,
            resolve_threshold: config.resolve_threshold,
            calls_min: config.calls_min,
            fire_after: self.config.fire_after,
            resolve_after: self.config.resolve_after,
        }
    }
}

impl Limit {
    pub(super) fn judge(&self, rule: AlertRule, value: f64, calls: u64) -> ThresholdVerdict {
        if calls < self.calls_min {
            ThresholdVerdict::TooFew
        } else if rule.is_worse(value, self.threshold) {
            ThresholdVerdict::Over
        } else if rule.is_worse(value, self.resolve_threshold) {
            ThresholdVerdict::Between
        } else {
            ThresholdVerdict::Under
        }
    }
}

fn fits(one: &AlertOverride, rule: AlertRule, team: Option<&Name>, subject: &str) -> bool {
    let plugin_fits = || match (&one.plugin, plugin_of(subject)) {
        (None, _) => true,
        (Some(pattern), Some(label)) => {
            let name = label.split('@').next().unwrap_or(label);
            pattern.matches(name) || pattern.matches(label)
        }
        (Some(_), None) => false,
    };
    one.rule.is_none_or(|wanted| wanted == rule)
        && one
            .team
            .as_ref()
            .is_none_or(|wanted| team.is_some_and(|team| wanted.matches(team.as_str())))
        && one
            .operation
            .as_ref()
            .is_none_or(|wanted| wanted.matches(subject))
        && plugin_fits()
}

/// Returns `expense` for `step expense/pay`, and `expense@2.0.0` for `plugin expense@2.0.0`.
fn plugin_of(subject: &str) -> Option<&str> {
    let rest = subject
        .strip_prefix("step ")
        .or_else(|| subject.strip_prefix("plugin "))?;
    rest.split('/').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn name(text: &str) -> Name {
        text.parse().expect("is a name")
    }

    fn thresholds(overrides: &str) -> Thresholds {
        #[derive(serde::Deserialize)]
        struct Text {
            overrides: Vec<AlertOverride>,
        }
        let Text { overrides } = toml::from_str(overrides).expect("is TOML");
        let mut config = Config::defaults().expect("the defaults load").alerts;
        config.overrides = overrides;
        Thresholds::new(&config)
    }

    fn threshold(thresholds: &Thresholds, team: Option<&str>, subject: &str) -> Option<f64> {
        let team = team.map(name);
        thresholds
            .limit(AlertRule::P95Latency, team.as_ref(), subject)
            .map(|limit| limit.threshold)
    }

    #[test]
    fn the_last_override_that_fits_wins() {
        let thresholds = thresholds(
            "[[overrides]]\nrule = 'p95_latency'\nplugin = 'expense'\nthreshold = 2000\nresolve_threshold = 1\n\
             [[overrides]]\nrule = 'p95_latency'\nplugin = 'expense@2.*'\nthreshold = 3000\nresolve_threshold = 1\n\
             [[overrides]]\nteam = 'lab-*'\nenabled = false\n\
             [[overrides]]\nteam = 'lab-1'\noperation = 'step pay/*'\nenabled = true\n\
             [[overrides]]\nrule = 'error_rate'\nthreshold = 1.0\nresolve_threshold = 0.5",
        );
        for (team, subject, expected) in [
            (Some("acme"), "step expense/pay", Some(2000.0)),
            (Some("acme"), "plugin expense@1.0.0", Some(2000.0)),
            (Some("acme"), "plugin expense@2.0.0", Some(3000.0)),
            (Some("acme"), "plugin expense-report@2.0.0", Some(1000.0)),
            (Some("lab-1"), "step expense/pay", None),
            (Some("lab-1"), "step pay/now", Some(1000.0)),
            // The host's own operations belong to no team.
            (None, "commit_step", Some(1000.0)),
        ] {
            assert_eq!(
                threshold(&thresholds, team, subject),
                expected,
                "{team:?} {subject}"
            );
        }
    }

    #[test]
    fn a_team_sees_the_overrides_that_concern_it() {
        let thresholds = thresholds(
            "[[overrides]]\nteam = 'acme'\nenabled = false\n[[overrides]]\nplugin = 'x'\nenabled = false",
        );
        assert_eq!(thresholds.overrides(Some(&name("bravo"))).len(), 1);
        assert_eq!(thresholds.overrides(Some(&name("acme"))).len(), 2);
        assert_eq!(thresholds.overrides(None).len(), 2);
    }
}
