//! Metrics of plugins, by team and plugin version. A team never sees another team's metrics.
//!
//! Memory is bounded by three limits: series of a plugin version (`limits.metric_series_max`),
//! buckets of a histogram (`distribution.rs`), and [`SOURCES_MAX`] plugin versions. At the last
//! limit one version is evicted. It belongs to the team with the most versions, so a team that
//! uploads many evicts its own. Of these versions it is the one that has been silent for longest.

use std::collections::HashMap;

use parking_lot::{Mutex, RwLock};
use serde::Serialize;

use super::series::{MetricError, Sample, SeriesSet, SeriesStats};
use crate::clock::Timestamp;
use crate::model::Name;

/// Maximum number of plugin versions whose metrics are kept.
pub const SOURCES_MAX: usize = 256;

/// The plugin version that a sample comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MetricSource {
    /// The team that owns the plugin.
    pub team: Name,
    /// `name@version`, as `PluginVersion::label` writes it.
    pub plugin: String,
}

/// Metrics of one plugin version.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PluginStats {
    /// The team that owns the plugin.
    pub team: Name,
    /// `name@version`.
    pub plugin: String,
    /// Series, sorted by name and labels.
    pub series: Vec<SeriesStats>,
}

/// The metrics of all plugins.
#[derive(Debug)]
pub(super) struct PluginMetrics {
    series_max: usize,
    sources: RwLock<HashMap<MetricSource, Mutex<Source>>>,
}

#[derive(Debug)]
struct Source {
    last_sample: Timestamp,
    /// All samples since the start.
    series: SeriesSet,
    /// Samples since the team's last reset; none if the team never reset them.
    own: Option<SeriesSet>,
}

/// A sample with its source, name, labels and time.
#[derive(Clone, Copy, Debug)]
pub(super) struct MetricRecord<'a> {
    pub(super) source: &'a MetricSource,
    pub(super) name: &'a str,
    pub(super) labels: &'a [(String, String)],
    pub(super) sample: Sample,
    pub(super) at: Timestamp,
}

impl PluginMetrics {
    pub(super) fn new(series_max: usize) -> Self {
        Self {
            series_max,
            sources: RwLock::default(),
        }
    }

    pub(super) fn record(&self, record: MetricRecord<'_>) -> Result<(), MetricError> {
        if let Some(source) = self.sources.read().get(record.source) {
            return source.lock().record(record, self.series_max);
        }
        let mut sources = self.sources.write();
        if sources.len() >= SOURCES_MAX && !sources.contains_key(record.source) {
            forget_one(&mut sources);
        }
        let source = sources.entry(record.source.clone()).or_insert_with(|| {
            Mutex::new(Source {
                last_sample: record.at,
                series: SeriesSet::default(),
                own: None,
            })
        });
        source.get_mut().record(record, self.series_max)
    }

    pub(super) fn stats(&self, team: Option<&Name>) -> Vec<PluginStats> {
        let mut stats: Vec<_> = self
            .sources
            .read()
            .iter()
            .filter(|(source, _)| team.is_none_or(|team| source.team == *team))
            .map(|(source, metrics)| PluginStats {
                team: source.team.clone(),
                plugin: source.plugin.clone(),
                series: metrics.lock().seen(team.is_some()).stats(),
            })
            .filter(|plugin| !plugin.series.is_empty())
            .collect();
        stats.sort_unstable_by(|a, b| (&a.team, &a.plugin).cmp(&(&b.team, &b.plugin)));
        stats
    }

    /// Resets one team's metrics in the team's own view; without a team, drops all metrics.
    pub(super) fn reset(&self, team: Option<&Name>) {
        let Some(team) = team else {
            return self.sources.write().clear();
        };
        let sources = self.sources.read();
        let own = sources.iter().filter(|(source, _)| source.team == *team);
        own.for_each(|(_, metrics)| metrics.lock().own = Some(SeriesSet::default()));
    }
}

impl Source {
    fn record(&mut self, record: MetricRecord<'_>, series_max: usize) -> Result<(), MetricError> {
        self.last_sample = record.at;
        self.series
            .record(record.name, record.labels, record.sample, series_max)?;
        // `own` never has more metrics or series than `series`, so it refuses no sample that
        // `series` accepts.
        self.own.as_mut().map_or(Ok(()), |own| {
            own.record(record.name, record.labels, record.sample, series_max)
        })
    }

    fn seen(&self, by_team: bool) -> &SeriesSet {
        self.own
            .as_ref()
            .filter(|_| by_team)
            .unwrap_or(&self.series)
    }
}

fn forget_one(sources: &mut HashMap<MetricSource, Mutex<Source>>) {
    let mut versions_of_team = HashMap::<&Name, usize>::new();
    for source in sources.keys() {
        *versions_of_team.entry(&source.team).or_default() += 1;
    }
    let victim = sources
        .iter()
        .max_by_key(|(source, metrics)| {
            (
                versions_of_team.get(&source.team).copied(),
                std::cmp::Reverse(metrics.lock().last_sample),
            )
        })
        .map(|(source, _)| source.clone());
    if let Some(victim) = victim {
        sources.remove(&victim);
    }
}
