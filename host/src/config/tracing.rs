//! The section `[tracing]`, and the environment variables of OpenTelemetry that set its keys.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::environment::set_at;
use super::{ConfigError, Secret, invalid};
use crate::model::duration;

/// The path of an OTLP receiver for traces.
const TRACES_PATH: &str = "/v1/traces";
/// The maximum length of the queue. A span takes about 2 KiB.
const QUEUE_MAX: usize = 1_000_000;
const LINKS_MAX: usize = 1_000;

/// OpenTelemetry's variable, the key that it sets, and the unit of its number.
const STANDARD: [(&str, &str, &str); 7] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint", ""),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "timeout", "ms"),
    ("OTEL_SERVICE_NAME", "service_name", ""),
    ("OTEL_TRACES_SAMPLER_ARG", "sample_ratio", ""),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "queue_max", ""),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "batch_max", ""),
    ("OTEL_BSP_SCHEDULE_DELAY", "interval", "ms"),
];
/// The value `true` turns traces off, whatever the other variables say.
const DISABLED: &str = "OTEL_SDK_DISABLED";

section! {
    /// `[tracing]`: the export of spans by OTLP.
    TracingConfig {
        otlp_endpoint: String,
        headers: Secret,
        headers_file: String,
        service_name: String,
        sample_ratio: f64,
        followed_per_second_max: u32,
        host_calls_max: u32,
        links_max: usize,
        queue_max: usize,
        batch_max: usize,
        #[serde(with = "duration")] interval: Duration,
        #[serde(with = "duration")] timeout: Duration,
    }
}

impl TracingConfig {
    /// Returns the URL that traces are sent to; none if traces are off.
    pub fn traces_url(&self) -> Option<String> {
        let address = self.otlp_endpoint.trim_end_matches('/');
        let path = if address.ends_with(TRACES_PATH) {
            ""
        } else {
            TRACES_PATH
        };
        (!address.is_empty()).then(|| format!("{address}{path}"))
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let address = &self.otlp_endpoint;
        if !address.is_empty()
            && !["http://", "https://"]
                .iter()
                .any(|scheme| address.starts_with(scheme))
        {
            return Err(invalid(
                "tracing.otlp_endpoint",
                "must begin with http:// or https://",
            ));
        }
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Err(invalid("tracing.sample_ratio", "must be 0 to 1"));
        }
        if !(1..=QUEUE_MAX).contains(&self.queue_max) {
            return Err(invalid(
                "tracing.queue_max",
                &format!("must be 1 to {QUEUE_MAX}"),
            ));
        }
        if !(1..=self.queue_max).contains(&self.batch_max) {
            return Err(invalid(
                "tracing.batch_max",
                "must be 1 to tracing.queue_max",
            ));
        }
        if self.links_max > LINKS_MAX {
            return Err(invalid(
                "tracing.links_max",
                &format!("must be at most {LINKS_MAX}"),
            ));
        }
        if self.interval.is_zero() || self.timeout.is_zero() {
            return Err(invalid(
                "tracing.interval and tracing.timeout",
                "must be more than 0",
            ));
        }
        Ok(())
    }
}

/// Sets keys from OpenTelemetry's variables. Empty variables are ignored.
pub(super) fn set_standard(
    merged: &mut toml::Table,
    environment: &[(String, String)],
) -> Result<(), ConfigError> {
    let said = |wanted: &str| {
        let found = environment
            .iter()
            .find(|(name, value)| name == wanted && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    };
    for (name, key, unit) in STANDARD {
        if let Some(value) = said(name) {
            set_at(merged, &["tracing", key], &format!("{value}{unit}"))
                .map_err(|problem| invalid(name, &problem))?;
        }
    }
    if said(DISABLED).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        set_at(merged, &["tracing", "otlp_endpoint"], "")
            .map_err(|problem| invalid(DISABLED, &problem))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn load(environment: &[(&str, &str)]) -> Config {
        let pairs = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(None, pairs).expect("loads")
    }

    #[test]
    fn traces_are_off_unless_somebody_says_where_they_go() {
        assert_eq!(load(&[]).tracing.traces_url(), None);
        for (endpoint, url) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            (
                "https://collector/otlp/",
                "https://collector/otlp/v1/traces",
            ),
            ("https://collector/v1/traces", "https://collector/v1/traces"),
        ] {
            let config = load(&[("STEPWELL_TRACING__OTLP_ENDPOINT", endpoint)]);
            assert_eq!(config.tracing.traces_url().as_deref(), Some(url));
        }
    }

    #[test]
    fn the_standard_variables_are_heard_and_ours_win() {
        let standard = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
            ("OTEL_SERVICE_NAME", "theirs"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_BSP_SCHEDULE_DELAY", ""),
            ("STEPWELL_TRACING__SERVICE_NAME", "ours"),
        ];
        let tracing = load(&standard).tracing;
        assert_eq!(
            (tracing.timeout.as_millis(), tracing.interval.as_millis()),
            (1_500, 5_000)
        );
        assert_eq!(
            (tracing.service_name.as_str(), tracing.sample_ratio),
            ("ours", 0.25)
        );
        assert!(tracing.traces_url().is_some());
        let disabled = [standard.as_slice(), &[("OTEL_SDK_DISABLED", "True")]].concat();
        assert_eq!(load(&disabled).tracing.traces_url(), None);
    }
}
