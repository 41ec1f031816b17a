//! The section `[quotas]` bounds each team's rows in the database. The section `[idempotency]` says
//! how long requests are remembered.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, invalid};
use crate::model::{Pattern, duration};

/// Maximum number of overrides. Every group of commits tries all of them.
const OVERRIDES_MAX: usize = 1_000;

section! {
    /// `[quotas]`: limits of each team's unfinished instances, stored bytes and workflow versions.
    QuotasConfig {
        unfinished_instances_max: u64,
        stored_bytes_max: u64,
        workflow_versions_max: u64,
        #[serde(with = "duration")] recount_interval: Duration,
        #[serde(default)] overrides: Vec<QuotaOverride>,
    }
}

section! {
    /// `[idempotency]`: how long idempotency keys are kept, and how many.
    IdempotencyConfig {
        #[serde(with = "duration")] keep: Duration,
        keys_per_team_max: u32,
    }
}

/// `[[quotas.overrides]]`: other quotas for the teams that match a pattern.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaOverride {
    /// The teams.
    pub team: Pattern,
    /// The number of unfinished instances, instead of that in `[quotas]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished_instances_max: Option<u64>,
    /// The number of stored bytes, instead of that in `[quotas]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes_max: Option<u64>,
    /// The number of versions of workflows, instead of that in `[quotas]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_versions_max: Option<u64>,
}

/// The quotas of one team; none where the team has no quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Maximum number of instances that have not ended.
    pub unfinished_instances_max: Option<u64>,
    /// Maximum number of bytes in the database.
    pub stored_bytes_max: Option<u64>,
    /// Maximum number of versions of all workflows together.
    pub workflow_versions_max: Option<u64>,
}

impl QuotasConfig {
    /// Returns a team's quotas. Of the overrides that match, the last one with a value wins.
    pub fn of(&self, team: &str) -> Quota {
        let (mut unfinished, mut bytes) = (self.unfinished_instances_max, self.stored_bytes_max);
        let mut versions = self.workflow_versions_max;
        for one in self.overrides.iter().filter(|one| one.team.matches(team)) {
            unfinished = one.unfinished_instances_max.unwrap_or(unfinished);
            bytes = one.stored_bytes_max.unwrap_or(bytes);
            versions = one.workflow_versions_max.unwrap_or(versions);
        }
        let some = |max: u64| (max > 0).then_some(max);
        Quota {
            unfinished_instances_max: some(unfinished),
            stored_bytes_max: some(bytes),
            workflow_versions_max: some(versions),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.recount_interval.is_zero() {
            return Err(invalid("quotas.recount_interval", "must be more than 0"));
        }
        if self.overrides.len() > OVERRIDES_MAX {
            return Err(invalid(
                "quotas.overrides",
                &format!("there may be at most {OVERRIDES_MAX}"),
            ));
        }
        for (index, one) in self.overrides.iter().enumerate() {
            let quotas = [
                one.unfinished_instances_max,
                one.stored_bytes_max,
                one.workflow_versions_max,
            ];
            if quotas.iter().all(Option::is_none) {
                let key = format!("quotas.overrides, the {}.", index + 1);
                return Err(invalid(
                    &key,
                    "it changes nothing: give unfinished_instances_max, stored_bytes_max or workflow_versions_max",
                ));
            }
        }
        Ok(())
    }
}

impl IdempotencyConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.keep.is_zero() {
            return Err(invalid("idempotency.keep", "must be more than 0"));
        }
        if self.keys_per_team_max == 0 {
            return Err(invalid(
                "idempotency.keys_per_team_max",
                "must be at least 1",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::Config;

    fn load(text: &str) -> Result<Config, String> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("is written");
        Config::load(Some(file.path()), []).map_err(|error| error.to_string())
    }

    #[test]
    fn the_last_override_that_says_something_wins() {
        let text = "[quotas]\nunfinished_instances_max = 10\nstored_bytes_max = 20\n\
                    [[quotas.overrides]]\nteam = 'lab-*'\nunfinished_instances_max = 0\n\
                    [[quotas.overrides]]\nteam = 'lab-a'\nstored_bytes_max = 5\nworkflow_versions_max = 7";
        let config = load(text).expect("loads");
        let of = |team: &str| {
            let quota = config.quotas.of(team);
            (quota.unfinished_instances_max, quota.stored_bytes_max)
        };
        assert_eq!(of("acme"), (Some(10), Some(20)));
        assert_eq!(of("lab-b"), (None, Some(20)));
        assert_eq!(of("lab-a"), (None, Some(5)));
        let versions = |team: &str| config.quotas.of(team).workflow_versions_max;
        assert_eq!(
            (versions("lab-b"), versions("lab-a")),
            (Some(10_000), Some(7))
        );
        let shown = toml::to_string(&config).expect("is written");
        assert_eq!(load(&shown).expect("loads"), config);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place() {
        for (text, place, problem) in [
            (
                "[quotas]\nrecount_interval = '0s'",
                "quotas.recount_interval",
                "more than 0",
            ),
            (
                "[[quotas.overrides]]\nteam = 'a'",
                "the 1.",
                "changes nothing",
            ),
            (
                "[[quotas.overrides]]\nstored_bytes_max = 1",
                "team",
                "missing",
            ),
            (
                "[[quotas.overrides]]\nteam = 'a'\nstored_bites_max = 1",
                "stored_bites_max",
                "unknown field",
            ),
            (
                "[quotas]\nstored_bytes_max = -1",
                "stored_bytes_max",
                "a whole number from 0",
            ),
            (
                "[idempotency]\nkeep = '0s'",
                "idempotency.keep",
                "more than 0",
            ),
            (
                "[idempotency]\nkeys_per_team_max = 0",
                "idempotency.keys_per_team_max",
                "at least 1",
            ),
        ] {
            let error = load(text).expect_err(text);
            assert!(
                error.contains(place) && error.contains(problem),
                "{text}: {error}"
            );
        }
    }
}
