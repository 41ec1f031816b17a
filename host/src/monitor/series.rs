//! The series of one plugin version: one for each metric and combination of labels, up to a cap.
//!
//! At the cap, further combinations of a metric are summed in one more series of that metric,
//! labelled `overflow="true"`. A metric stays a counter, a gauge or a histogram for as long as it
//! is known.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::distribution::{Distribution, DistributionStats};

/// Maximum number of labels of a series. `wit/metrics.wit` sets this limit and the next two.
pub const LABELS_MAX: usize = 5;
/// Maximum length of the name of a metric or label, in bytes.
pub const METRIC_NAME_BYTES_MAX: usize = 63;
/// Maximum length of a label's value, in bytes.
pub const LABEL_VALUE_BYTES_MAX: usize = 128;
/// Maximum number of metrics of a plugin version, whatever its manifest declares. The contract
/// allows 64.
pub const METRICS_MAX: usize = 64;
/// The label of the series that sums the combinations beyond the cap.
pub const OVERFLOW: &str = "overflow";

/// Names and values of labels.
pub type Labels = Vec<(String, String)>;

/// A sample was refused. The guest gets the error `invalid`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetricError {
    /// The name of a metric or label is not valid.
    #[error("a metric or label name must be 1 to 63 of a-z, 0-9 and '_'")]
    Name,
    /// The label name is reserved for the combinations beyond the cap.
    #[error("the label name 'overflow' is the host's own; choose another")]
    ReservedLabel,
    /// A label name occurs twice.
    #[error("a label name must not occur twice in one sample")]
    LabelTwice,
    /// There are more than [`LABELS_MAX`] labels.
    #[error("a sample may have at most 5 labels")]
    TooManyLabels,
    /// A label's value is longer than [`LABEL_VALUE_BYTES_MAX`].
    #[error("a label value may have at most 128 bytes")]
    LabelValueTooLong,
    /// The value is NaN or infinite.
    #[error("the value must be a finite number")]
    NotFinite,
    /// A histogram's value is below zero.
    #[error("a histogram's value must not be negative")]
    Negative,
    /// The metric was already recorded as another kind.
    #[error(
        "this metric was recorded as a {known} before and cannot be a {asked} as well; use another name"
    )]
    OtherKind {
        /// The kind that the metric was recorded as.
        known: &'static str,
        /// The kind that the sample has.
        asked: &'static str,
    },
    /// The plugin version has [`METRICS_MAX`] metrics already.
    #[error("a plugin version may record at most 64 metrics")]
    TooManyMetrics,
}

/// A value to record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Sample {
    Count(u64),
    Gauge(f64),
    Value(f64),
    /// A timer that was dropped without being stopped.
    TimerDropped,
}

/// All series of one plugin version.
#[derive(Debug, Default)]
pub(super) struct SeriesSet {
    metrics: HashMap<String, Metric>,
    /// Number of series that count against the cap: all except the overflow series.
    series: usize,
}

#[derive(Debug)]
struct Metric {
    kind: &'static str,
    series: BTreeMap<Labels, Value>,
    overflow: Option<Value>,
}

#[derive(Clone, Debug)]
enum Value {
    Counter(u64),
    Gauge(f64),
    Histogram(Distribution),
}

/// One series.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SeriesStats {
    /// The name of the metric.
    pub name: String,
    /// The labels, or `overflow="true"` for the combinations beyond the cap.
    pub labels: BTreeMap<String, String>,
    /// The value.
    #[serde(flatten)]
    pub value: SeriesValue,
}

/// The value of a series.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum SeriesValue {
    /// A number that only grows until the host restarts.
    Counter {
        /// The sum of all increments.
        value: u64,
    },
    /// A number that the plugin sets.
    Gauge {
        /// The last value, in the plugin's own unit.
        value: f64,
    },
    /// The distribution of values. Timers are in microseconds.
    Histogram(DistributionStats),
}

impl SeriesSet {
    /// Adds a sample. Allocates nothing if the series is known and the labels are sorted by name.
    pub(super) fn record(
        &mut self,
        name: &str,
        labels: &[(String, String)],
        sample: Sample,
        series_max: usize,
    ) -> Result<(), MetricError> {
        sample.check()?;
        check_labels(labels)?;
        if labels.is_sorted() {
            return self.add(name, labels, sample, series_max);
        }
        let mut sorted = labels.to_vec();
        sorted.sort_unstable();
        self.add(name, &sorted, sample, series_max)
    }

    fn add(
        &mut self,
        name: &str,
        labels: &[(String, String)],
        sample: Sample,
        series_max: usize,
    ) -> Result<(), MetricError> {
        let full = self.series >= series_max;
        let metric = match self.metrics.get_mut(name) {
            Some(metric) => metric,
            None => {
                check_name(name)?;
                if self.metrics.len() >= METRICS_MAX {
                    return Err(MetricError::TooManyMetrics);
                }
                let metric = Metric {
                    kind: sample.kind(),
                    series: BTreeMap::new(),
                    overflow: None,
                };
                self.metrics.entry(name.to_owned()).or_insert(metric)
            }
        };
        if metric.kind != sample.kind() {
            return Err(MetricError::OtherKind {
                known: metric.kind,
                asked: sample.kind(),
            });
        }
        let value = match metric.series.get_mut(labels) {
            Some(value) => value,
            None if full => metric.overflow.get_or_insert_with(|| sample.start()),
            None => {
                self.series += 1;
                metric
                    .series
                    .entry(labels.to_vec())
                    .or_insert_with(|| sample.start())
            }
        };
        value.add(sample);
        Ok(())
    }

    /// Returns all series, sorted by name and labels. Within a metric the overflow series is last.
    pub(super) fn stats(&self) -> Vec<SeriesStats> {
        let mut names: Vec<_> = self.metrics.iter().collect();
        names.sort_unstable_by_key(|(name, _)| *name);
        let mut stats = Vec::with_capacity(self.series);
        for (name, metric) in names {
            let overflow = [(OVERFLOW.to_owned(), "true".to_owned())];
            let series = metric
                .series
                .iter()
                .map(|(labels, value)| (labels.as_slice(), value));
            for (labels, value) in series.chain(
                metric
                    .overflow
                    .iter()
                    .map(|value| (overflow.as_slice(), value)),
            ) {
                stats.push(SeriesStats {
                    name: name.clone(),
                    labels: labels.iter().cloned().collect(),
                    value: value.stats(),
                });
            }
        }
        stats
    }
}

impl Sample {
    const fn kind(self) -> &'static str {
        match self {
            Self::Count(_) => "counter",
            Self::Gauge(_) => "gauge",
            Self::Value(_) | Self::TimerDropped => "histogram",
        }
    }

    const fn start(self) -> Value {
        match self {
            Self::Count(_) => Value::Counter(0),
            Self::Gauge(_) => Value::Gauge(0.0),
            Self::Value(_) | Self::TimerDropped => Value::Histogram(Distribution::new()),
        }
    }

    fn check(self) -> Result<(), MetricError> {
        match self {
            Self::Gauge(value) | Self::Value(value) if !value.is_finite() => {
                Err(MetricError::NotFinite)
            }
            Self::Value(value) if value < 0.0 => Err(MetricError::Negative),
            _ => Ok(()),
        }
    }
}

impl Value {
    fn add(&mut self, sample: Sample) {
        match (self, sample) {
            (Self::Counter(value), Sample::Count(delta)) => *value = value.saturating_add(delta),
            (Self::Gauge(value), Sample::Gauge(new)) => *value = new,
            // Minus zero is not below zero, but its bits differ from those of zero.
            (Self::Histogram(values), Sample::Value(value)) => values.record(value.abs()),
            (Self::Histogram(values), Sample::TimerDropped) => values.record_error(),
            // The caller compared the kinds before.
            _ => {}
        }
    }

    fn stats(&self) -> SeriesValue {
        match self {
            Self::Counter(value) => SeriesValue::Counter { value: *value },
            Self::Gauge(value) => SeriesValue::Gauge { value: *value },
            Self::Histogram(values) => SeriesValue::Histogram(values.stats()),
        }
    }
}

fn check_labels(labels: &[(String, String)]) -> Result<(), MetricError> {
    if labels.len() > LABELS_MAX {
        return Err(MetricError::TooManyLabels);
    }
    for (position, (name, value)) in labels.iter().enumerate() {
        check_name(name)?;
        if name == OVERFLOW {
            return Err(MetricError::ReservedLabel);
        }
        if value.len() > LABEL_VALUE_BYTES_MAX {
            return Err(MetricError::LabelValueTooLong);
        }
        if labels
            .iter()
            .take(position)
            .any(|(earlier, _)| earlier == name)
        {
            return Err(MetricError::LabelTwice);
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), MetricError> {
    let well_formed = (1..=METRIC_NAME_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if well_formed {
        Ok(())
    } else {
        Err(MetricError::Name)
    }
}
