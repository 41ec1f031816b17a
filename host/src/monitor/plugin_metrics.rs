//! What plugins measure, by team and plugin version. Another team's numbers are never shown.
//!
//! Memory is bounded three times: series of a plugin version (`limits.metric_series_max`), buckets of a histogram
//! (`distribution.rs`), and [`SOURCES_MAX`] plugin versions. Beyond that a version is forgotten: of the team that has
//! most of them, so that a team that uploads many pushes out its own; of these the one that was silent for longest.

use std::collections::HashMap;

use parking_lot::{Mutex, RwLock};
use serde::Serialize;

use super::series::{MetricError, Sample, SeriesSet, SeriesStats};
use crate::clock::Timestamp;
use crate::model::Name;

/// Plugin versions whose metrics are kept.
pub const SOURCES_MAX: usize = 256;

/// Where a sample comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MetricSource {
    /// The plugin's owner.
    pub team: Name,
    /// `name@version`, as `PluginVersion::label` writes it.
    pub plugin: String,
}

/// One plugin version's metrics, as shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PluginStats {
    /// The plugin's owner.
    pub team: Name,
    /// `name@version`.
    pub plugin: String,
    /// Sorted by name and labels.
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
    series: SeriesSet,
}

/// A sample and all that belongs to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) source: &'a MetricSource,
    pub(super) name: &'a str,
    pub(super) labels: &'a [(String, String)],
    pub(super) sample: Sample,
    pub(super) at: Timestamp,
}

impl PluginMetrics {
    pub(super) fn new(series_max: usize) -> Self {
        Self { series_max, sources: RwLock::default() }
    }

    pub(super) fn record(&self, record: Record<'_>) -> Result<(), MetricError> {
        if let Some(source) = self.sources.read().get(record.source) {
            return source.lock().record(record, self.series_max);
        }
        let mut sources = self.sources.write();
        if sources.len() >= SOURCES_MAX && !sources.contains_key(record.source) {
            forget_one(&mut sources);
        }
        let source = sources
            .entry(record.source.clone())
            .or_insert_with(|| Mutex::new(Source { last_sample: record.at, series: SeriesSet::default() }));
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
                series: metrics.lock().series.stats(),
            })
            .collect();
        stats.sort_unstable_by(|a, b| (&a.team, &a.plugin).cmp(&(&b.team, &b.plugin)));
        stats
    }

    /// Forgets one team's metrics, or everybody's.
    pub(super) fn reset(&self, team: Option<&Name>) {
        self.sources.write().retain(|source, _| team.is_some_and(|team| source.team != *team));
    }
}

impl Source {
    fn record(&mut self, record: Record<'_>, series_max: usize) -> Result<(), MetricError> {
        self.last_sample = record.at;
        self.series.record(record.name, record.labels, record.sample, series_max)
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
            (versions_of_team.get(&source.team).copied(), std::cmp::Reverse(metrics.lock().last_sample))
        })
        .map(|(source, _)| source.clone());
    if let Some(victim) = victim {
        sources.remove(&victim);
    }
}
