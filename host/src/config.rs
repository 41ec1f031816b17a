//! The configuration: one struct for each section. All defaults are in `config.default.toml`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::model::duration;
use crate::model::expression::EvaluationLimits;
use crate::model::plain::plain;
use crate::model::plugin::Interface;

/// The text of `config.default.toml`, which has every key with its default and its meaning.
pub const DEFAULTS: &str = include_str!("../config.default.toml");
/// The prefix of environment variables that replace single values.
pub const ENVIRONMENT_PREFIX: &str = "STEPWELL_";
/// Maximum number of instances in one deletion. Each instance is a parameter of a statement, and
/// databases limit these.
const RETENTION_BATCH_MAX: u32 = 10_000;
/// Key of lists of tables that change settings for some teams.
const OVERRIDES: &str = "overrides";
/// Maximum number of sampled keys for each kind of cache. They take some 200 MB for each kind.
const GHOSTS_MAX: usize = 1_000_000;
/// The maximum interval between two drains of the monitor. Each drain adds to one point, and points
/// are 10 seconds apart.
const HISTORY_INTERVAL_MAX: Duration = Duration::from_secs(10);

macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $(#[doc = concat!("`", stringify!($field), "` in `config.default.toml`.")] $(#[$field_meta])* pub $field: $type,)*
        }
    };
}

mod alerts;
mod environment;
mod listen;
mod log;
mod network;
mod quotas;
mod tracing;

pub use self::environment::{StrayVariable, stray_variables};
pub use self::tracing::TracingConfig;
pub use alerts::{
    AlertOverride, AlertRuleConfig, AlertWindow, AlertsConfig, Secret, WebhookConfig,
};
pub use listen::ListenAddress;
pub use log::{LogConfig, LogFormat};
pub use network::Network;
pub use quotas::{IdempotencyConfig, Quota, QuotaOverride, QuotasConfig};

section! {
    /// The whole configuration, with one field for each section.
    Config {
        data_dir: PathBuf,
        log: LogConfig,
        server: ServerConfig,
        database: DatabaseConfig,
        hosts: HostsConfig,
        redis: RedisConfig,
        cache: CacheConfig,
        plugins: PluginsConfig,
        runtime: RuntimeConfig,
        limits: Limits,
        quotas: QuotasConfig,
        idempotency: IdempotencyConfig,
        batch: BatchConfig,
        engine: EngineConfig,
        retention: RetentionConfig,
        audit: AuditConfig,
        history: HistoryConfig,
        live: LiveConfig,
        prometheus: PrometheusConfig,
        tracing: TracingConfig,
        alerts: AlertsConfig,
    }
}

section! {
    /// `[server]`: the HTTP server: connections, timeouts, and limits of requests and responses.
    ServerConfig {
        listen: ListenAddress,
        connections_max: usize,
        connections_per_address_max: usize,
        #[serde(with = "duration")] header_timeout: Duration,
        #[serde(with = "duration")] request_timeout: Duration,
        #[serde(with = "duration")] write_timeout: Duration,
        #[serde(with = "duration")] answer_timeout: Duration,
        requests_per_second_max: u32,
        requests_burst_max: u32,
        body_bytes_max: usize,
        batch_body_bytes_max: usize,
        body_bytes_in_flight_max: u64,
        body_bytes_in_flight_per_team_max: u64,
        answer_bytes_max: usize,
        answer_bytes_in_flight_max: u64,
        answer_bytes_in_flight_per_team_max: u64,
        #[serde(with = "duration")] drain_timeout: Duration,
        trusted_proxies: Vec<Network>,
    }
}

/// The point that a COMMIT waits for on SQLite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// The data is on the disk.
    Full,
    /// The operating system has the data.
    Normal,
}

section! {
    /// `[database]`: the connections, timeouts and group commit of the database.
    DatabaseConfig {
        url: String,
        connections_max: u32,
        guest_connections_max: u32,
        #[serde(with = "duration")] acquire_timeout: Duration,
        #[serde(with = "duration")] connection_lifetime: Duration,
        #[serde(with = "duration")] statement_timeout: Duration,
        #[serde(with = "duration")] lock_timeout: Duration,
        #[serde(with = "duration")] idle_in_transaction_timeout: Duration,
        synchronous: Synchronous,
        commit_group_max: usize,
        commit_group_bytes_max: usize,
        commit_queue_max: usize,
        commit_queue_bytes_max: usize,
        wal_bytes_max: u64,
        analyze_rows: u64,
    }
}

section! {
    /// `[hosts]`: the leases of several hosts on one PostgreSQL database.
    HostsConfig {
        #[serde(with = "duration")] lease: Duration,
        #[serde(with = "duration")] renewal: Duration,
    }
}

section! {
    /// `[redis]`: the optional second level of the caches.
    RedisConfig {
        url: String,
        #[serde(with = "duration")] ttl: Duration,
        #[serde(with = "duration")] timeout: Duration,
    }
}

section! {
    /// `[cache]`: the bounds of each cache.
    CacheConfig {
        #[serde(with = "duration")] absence_ttl: Duration,
        ghosts: usize,
        workflows: CacheKindConfig,
        workflow_versions: CacheKindConfig,
        plugin_versions: CacheKindConfig,
        plugin_references: CacheKindConfig,
        instances: CacheKindConfig,
        pending_approvals: CacheKindConfig,
        storage: CacheKindConfig,
        tokens: CacheKindConfig,
        queries: CacheKindConfig,
    }
}

section! {
    /// Limits for one kind of cached data.
    CacheKindConfig {
        entries: u64,
        bytes: u64,
        #[serde(with = "duration")] ttl: Duration,
    }
}

section! {
    /// `[plugins]`: limits of uploads, compilation and loaded plugins.
    PluginsConfig {
        component_bytes_max: usize,
        #[serde(with = "duration")] upload_timeout: Duration,
        uploads_max: usize,
        uploads_per_team_max: usize,
        upload_bytes_max: u64,
        upload_bytes_per_team_max: u64,
        #[serde(deserialize_with = "grants")] grants: BTreeSet<Interface>,
        #[serde(with = "duration")] compile_timeout: Duration,
        compile_memory_bytes_max: u64,
        compile_concurrency: usize,
        loaded_max: u64,
    }
}

section! {
    /// `[runtime]`: the number of concurrent attempts, and the tick that meters CPU time.
    RuntimeConfig {
        attempts_max: usize,
        attempts_per_team_max: usize,
        attempts_reserve: usize,
        large_attempts_max: usize,
        #[serde(with = "duration")] tick: Duration,
    }
}

section! {
    /// `[limits]`: bounds for one attempt.
    Limits {
        #[serde(with = "duration")] cpu_budget: Duration,
        #[serde(with = "duration")] deadline: Duration,
        memory_bytes_max: usize,
        table_elements_max: usize,
        host_calls_max: u64,
        host_call_bytes_max: usize,
        handles_max: usize,
        payload_bytes_max: usize,
        expression_work_max: u64,
        expression_bytes_max: u64,
        storage_key_bytes_max: usize,
        storage_value_bytes_max: usize,
        storage_keys_max: usize,
        storage_write_bytes_max: usize,
        batch_items_max: usize,
        batch_instances_max: usize,
        batch_depth_max: u32,
        batch_descendants_max: u64,
        batch_bytes_max: usize,
        log_lines_max: u32,
        log_line_bytes_max: usize,
        log_bytes_max: usize,
        metric_series_max: usize,
    }
}

impl Limits {
    /// Returns the limits for the expressions of one event.
    pub fn evaluation(&self) -> EvaluationLimits {
        EvaluationLimits {
            work_max: self.expression_work_max,
            scratch_bytes_max: self.expression_bytes_max,
            result_bytes_max: self.payload_bytes_max,
        }
    }
}

section! {
    /// `[batch]`: bounds for bulk operations of clients.
    BatchConfig {
        items_max: usize,
        size: usize,
        concurrency: usize,
    }
}

section! {
    /// `[engine]`: limits of driven instances, conflicts and crashes.
    EngineConfig {
        enabled: bool,
        #[serde(with = "duration")] poll_interval: Duration,
        active_instances_max: usize,
        parallel_steps_max: usize,
        in_hand_bytes_max: u64,
        in_hand_bytes_per_team_max: u64,
        conflict_retries_max: u32,
        conflict_turns_after: u32,
        crashes_max: u32,
        suspects_max: usize,
    }
}

section! {
    /// `[retention]`: deletion of finished instances.
    RetentionConfig {
        #[serde(with = "duration")] finished_instances: Duration,
        #[serde(with = "duration")] logs: Duration,
        #[serde(with = "duration")] interval: Duration,
        batch: u32,
    }
}

section! {
    /// `[audit]`: how long audit entries are kept, and how many.
    AuditConfig {
        #[serde(with = "duration")] keep: Duration,
        rows_per_team_max: u32,
        cheap_rows_per_team_max: u32,
        refused_per_minute_max: u32,
        failed_sign_ins_per_minute_max: u32,
        failed_sign_ins_per_address_max: u32,
    }
}

section! {
    /// `[history]`: the interval and retention of the numbers in the database.
    HistoryConfig {
        #[serde(with = "duration")] interval: Duration,
        #[serde(with = "duration")] keep_10s: Duration,
        #[serde(with = "duration")] keep_1m: Duration,
        #[serde(with = "duration")] keep_1h: Duration,
        batch: u32,
        unwritten_max: usize,
        read_rows_max: u32,
    }
}

section! {
    /// `[live]`: the interval and the subscribers of the live feed.
    LiveConfig {
        #[serde(with = "duration")] interval: Duration,
        subscribers_max: usize,
        subscribers_per_team_max: usize,
    }
}

section! {
    /// `[prometheus]`: the maximum number of series of `GET /metrics`.
    PrometheusConfig {
        series_max: usize,
    }
}

impl ServerConfig {
    fn check(&self) -> Result<(), ConfigError> {
        if self.write_timeout.is_zero() || self.answer_timeout.is_zero() {
            return Err(invalid(
                "server.write_timeout and server.answer_timeout",
                "must be more than 0",
            ));
        }
        for (key, per_team, host) in [
            (
                "server.body_bytes_in_flight",
                self.body_bytes_in_flight_per_team_max,
                self.body_bytes_in_flight_max,
            ),
            (
                "server.answer_bytes_in_flight",
                self.answer_bytes_in_flight_per_team_max,
                self.answer_bytes_in_flight_max,
            ),
        ] {
            if !(1..=host).contains(&per_team) {
                return Err(invalid(
                    &format!("{key}_per_team_max"),
                    &format!("must be 1 to {key}_max, which is {host}"),
                ));
            }
        }
        Ok(())
    }
}

impl HistoryConfig {
    /// Returns how long points of a step of `seconds` are kept.
    pub fn keep(&self, seconds: u64) -> Duration {
        match seconds {
            0..60 => self.keep_10s,
            60..3_600 => self.keep_1m,
            _ => self.keep_1h,
        }
    }
}

/// A reason why the configuration cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read {path}: {source}", path = .path.display())]
    Unreadable {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A value is wrong or unknown.
    #[error("understand {origin}: {problem}")]
    Invalid {
        /// The source of the value: a file, an environment variable, or the whole configuration.
        origin: String,
        /// A description of the problem.
        problem: String,
    },
}

impl Config {
    /// Loads the defaults, then `file` if given, then `environment`. Of the environment,
    /// OpenTelemetry's variables count, and pairs such as `("STEPWELL_SERVER__LISTEN",
    /// "0.0.0.0:80")`. Other prefixes are ignored. A name without `__` counts only if it is a
    /// top-level key ([`stray_variables`] returns ignored names that were probably meant).
    ///
    /// # Errors
    /// Fails if the file cannot be read, a value has the wrong form, or a key is unknown. Unknown
    /// keys are errors so that a misspelt key does not go unnoticed. The error names the file or
    /// the variable.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut merged = parse_table(DEFAULTS, "config.default.toml")?;
        if let Some(path) = file {
            let text = read_file(path)?;
            let origin = path.display().to_string();
            let table = parse_table(&text, &origin)?;
            check_keys(&table, &merged, "", &origin, &text)?;
            merge(&mut merged, table);
            Self::read(&merged).map_err(|problem| ConfigError::Invalid { origin, problem })?;
        }
        let environment: Vec<_> = environment.into_iter().collect();
        // The standard variables come first, so that the host's own names win.
        self::tracing::set_standard(&mut merged, &environment)?;
        let ours = environment
            .into_iter()
            .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX));
        for (name, value) in ours {
            let before = merged.clone();
            let set = environment::set(&mut merged, &name, &value);
            // The table is parsed again after each change, so that the error names the variable.
            let read = set.and_then(|()| {
                if merged == before {
                    Ok(())
                } else {
                    Self::read(&merged).map(drop)
                }
            });
            read.map_err(|problem| ConfigError::Invalid {
                origin: name,
                problem,
            })?;
        }
        let config =
            Self::read(&merged).map_err(|problem| invalid("the configuration", &problem))?;
        config.check()?;
        Ok(config)
    }

    /// Reads a table that has every key.
    fn read(table: &toml::Table) -> Result<Self, String> {
        toml::Value::Table(table.clone())
            .try_into()
            .map_err(|error: toml::de::Error| {
                // TOML's text has the key in a line of its own: in `limits.cpu_budget`.
                let text = plain(error.to_string().trim());
                match text.split_once("\nin `") {
                    Some((problem, key)) => {
                        format!("`{}`: {problem}", key.trim_end().trim_end_matches('`'))
                    }
                    None => text,
                }
            })
    }

    /// Loads only the defaults.
    ///
    /// # Errors
    /// Never fails in a build whose tests pass.
    pub fn defaults() -> Result<Self, ConfigError> {
        Self::load(None, [])
    }

    /// Returns the URL of the database: the configured one, or the SQLite file in the data
    /// directory.
    pub fn database_url(&self) -> String {
        if self.database.url.is_empty() {
            format!("sqlite:{}", self.data_dir.join("stepwell.db").display())
        } else {
            self.database.url.clone()
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("server.connections_max", self.server.connections_max),
            ("plugins.uploads_max", self.plugins.uploads_max),
            (
                "plugins.uploads_per_team_max",
                self.plugins.uploads_per_team_max,
            ),
            (
                "plugins.compile_concurrency",
                self.plugins.compile_concurrency,
            ),
            (
                "server.connections_per_address_max",
                self.server.connections_per_address_max,
            ),
            ("server.answer_bytes_max", self.server.answer_bytes_max),
            ("database.commit_group_max", self.database.commit_group_max),
            ("database.commit_queue_max", self.database.commit_queue_max),
            ("runtime.attempts_max", self.runtime.attempts_max),
            (
                "runtime.large_attempts_max",
                self.runtime.large_attempts_max,
            ),
            (
                "runtime.attempts_per_team_max",
                self.runtime.attempts_per_team_max,
            ),
            ("batch.items_max", self.batch.items_max),
            ("batch.size", self.batch.size),
            ("batch.concurrency", self.batch.concurrency),
            (
                "engine.active_instances_max",
                self.engine.active_instances_max,
            ),
            ("engine.parallel_steps_max", self.engine.parallel_steps_max),
            ("engine.suspects_max", self.engine.suspects_max),
            ("engine.crashes_max", self.engine.crashes_max as usize),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(invalid(key, "must be at least 1"));
            }
        }
        if self.cache.ghosts > GHOSTS_MAX {
            return Err(invalid(
                "cache.ghosts",
                &format!("must be at most {GHOSTS_MAX}: they are kept for each kind"),
            ));
        }
        if self.runtime.tick.is_zero() || self.engine.poll_interval.is_zero() {
            return Err(invalid(
                "runtime.tick and engine.poll_interval",
                "must be more than 0",
            ));
        }
        if self.hosts.renewal.is_zero() || self.hosts.lease < self.hosts.renewal * 2 {
            return Err(invalid(
                "hosts.lease",
                "must be at least twice hosts.renewal, which must be more than 0",
            ));
        }
        if self.retention.interval.is_zero() {
            return Err(invalid("retention.interval", "must be more than 0"));
        }
        if !(1..=RETENTION_BATCH_MAX).contains(&self.retention.batch) {
            return Err(invalid(
                "retention.batch",
                &format!("must be 1 to {RETENTION_BATCH_MAX}: others wait for it"),
            ));
        }
        if self.history.interval.is_zero() || self.history.interval > HISTORY_INTERVAL_MAX {
            return Err(invalid(
                "history.interval",
                "must be more than 0 and at most 10s, the finest step of the history",
            ));
        }
        if !(1..=RETENTION_BATCH_MAX).contains(&self.history.batch) {
            return Err(invalid(
                "history.batch",
                &format!("must be 1 to {RETENTION_BATCH_MAX}: others wait for it"),
            ));
        }
        self.server.check()?;
        if self.live.interval.is_zero() {
            return Err(invalid("live.interval", "must be more than 0"));
        }
        if self
            .runtime
            .attempts_max
            .saturating_add(self.runtime.attempts_reserve)
            > 1_000
        {
            return Err(invalid(
                "runtime.attempts_max and runtime.attempts_reserve",
                "must together be at most 1000: each reserves address space",
            ));
        }
        self.quotas.check()?;
        self.idempotency.check()?;
        self.tracing.check()?;
        self.alerts.check()
    }
}

fn invalid(origin: &str, problem: &str) -> ConfigError {
    ConfigError::Invalid {
        origin: origin.to_owned(),
        problem: problem.trim().to_owned(),
    }
}

/// Reads the interfaces that the host grants: a list of names, or `all`.
fn grants<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeSet<Interface>, D::Error> {
    let names = Vec::<String>::deserialize(from)?;
    if names == ["all"] {
        return Ok(Interface::needing_grant().collect());
    }
    let interfaces = names.into_iter().map(Interface::try_from);
    interfaces
        .collect::<Result<_, _>>()
        .map_err(D::Error::custom)
}

fn parse_table(text: &str, origin: &str) -> Result<toml::Table, ConfigError> {
    text.parse()
        .map_err(|error: toml::de::Error| invalid(origin, &error.to_string()))
}

/// Reads the text of a file with settings, or of stdin, without a byte order mark.
fn read_file(path: &Path) -> Result<String, ConfigError> {
    let read = if path.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin().lock())
    } else {
        std::fs::read_to_string(path)
    };
    let text = read.map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
}

/// Refuses keys that the defaults do not have. The error names the line of the first and the key
/// that was probably meant.
fn check_keys(
    table: &toml::Table,
    known: &toml::Table,
    section: &str,
    origin: &str,
    text: &str,
) -> Result<(), ConfigError> {
    for (key, value) in table {
        match (known.get(key), value) {
            (Some(toml::Value::Table(known)), toml::Value::Table(table)) => {
                let section = format!("{section}{key}.");
                check_keys(table, known, &section, origin, text)?;
            }
            (Some(_), _) => {}
            // Optional, and without a default.
            (None, toml::Value::Array(_)) if key == OVERRIDES => {}
            (None, _) => {
                let meant = environment::nearest(key, known.keys().map(String::as_str));
                let meant = meant.map_or_else(
                    || "`stepwell config --defaults` lists them".to_owned(),
                    |meant| format!("did you mean `{section}{meant}`?"),
                );
                let place = line_of(text, key).map_or_else(
                    || origin.to_owned(),
                    |line| format!("{origin}, line {line}"),
                );
                return Err(invalid(
                    &place,
                    &format!("there is no setting `{section}{key}`; {meant}"),
                ));
            }
        }
    }
    Ok(())
}

/// Returns the number of the first line that sets a key, or opens its section.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let names = |line: &str| {
        let line = line.trim_start().trim_start_matches('[');
        let word = line.split(['=', ']', '#']).next().unwrap_or_default();
        word.split('.')
            .any(|part| part.trim().trim_matches(['"', '\'']) == key)
    };
    text.lines().position(names).map(|index| index + 1)
}

fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::load(
            None,
            environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        )
    }

    #[test]
    fn defaults_are_complete() {
        assert_eq!(
            Config::defaults().expect("loads").limits.memory_bytes_max,
            64 << 20
        );
    }

    #[test]
    fn what_is_cached_may_be_served_as_long_as_the_specification_says() {
        let cache = Config::defaults().expect("loads").cache;
        let [workflows, versions, instances, approvals] = [
            cache.workflows,
            cache.workflow_versions,
            cache.instances,
            cache.pending_approvals,
        ]
        .map(|kind| kind.ttl.as_secs());
        assert_eq!(
            (workflows, versions, instances, approvals),
            (3_600, 86_400, 300, 60)
        );
    }

    #[test]
    fn environment_replaces_single_values() {
        let config = load(&[
            ("STEPWELL_SERVER__LISTEN", "0.0.0.0:80"),
            ("STEPWELL_LIMITS__CPU_BUDGET", "5s"),
        ]);
        let config = config.expect("loads");
        assert_eq!(config.server.listen.to_string(), "0.0.0.0:80");
        assert_eq!(config.limits.cpu_budget, Duration::from_secs(5));
        assert_eq!(config.server.connections_max, 1024);
    }

    #[test]
    fn all_interfaces_that_need_a_grant_are_granted_by_default() {
        let granted = |names| Ok(load(&[("STEPWELL_PLUGINS__GRANTS", names)])?.plugins.grants);
        let all: BTreeSet<_> = Interface::needing_grant().collect();
        assert_eq!(Config::defaults().expect("loads").plugins.grants, all);
        assert_eq!(granted("storage,batch,workflows").expect("loads"), all);
        assert_eq!(granted("").expect("loads"), BTreeSet::new());
        for wrong in ["log", "all,storage", "Storage"] {
            let error = granted(wrong).map_err(|error: ConfigError| error.to_string());
            let error = error.expect_err("needs no grant, or does not exist");
            assert!(
                error.contains("expected one of `storage`, `batch`, `workflows`"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_misspelt_variable_is_refused() {
        let error = load(&[("STEPWELL_SERVER__LISTN", "x")])
            .expect_err("is unknown")
            .to_string();
        assert!(
            error.contains("STEPWELL_SERVER__LISTN") && error.contains("no such setting"),
            "{error}"
        );
        assert_eq!(
            load(&[("STEPWELL_LOG", "debug")])
                .expect("loads")
                .log
                .filter,
            "debug"
        );
        // The command line reads its token from a variable with the same prefix, which is not a
        // setting.
        assert!(load(&[("STEPWELL_TOKEN", "x")]).is_ok());
    }
}
