//! A writer of Prometheus' text format, version 0.0.4.
//!
//! The writer does not know what is measured. Families are written one after the other, each with
//! its help and its type, because the format wants all series of a family together. Names of
//! families and labels are constants of the program. Labels of plugins are the exception:
//! [`Labels::foreign`] gives them a prefix. Values of labels may be any text and are escaped.
//!
//! The numbers of series and of bytes are bounded. Series beyond the bounds are counted and not
//! written. A histogram is written with all of its buckets or not at all.

use std::fmt::Write as _;

/// Upper bound of one line in bytes: the name, five labels of a plugin, and the number.
const SERIES_BYTES_MAX: usize = 2_048;

/// A text in Prometheus' format, to which families are appended.
#[derive(Debug)]
pub struct Exposition {
    text: String,
    bytes_max: usize,
    room: usize,
    omitted: usize,
}

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    /// A number that only grows, except at a start or a reset. The name ends in `_total`.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// Counts of values at or below fixed bounds.
    Histogram,
    /// Percentiles that the host computed.
    Summary,
}

/// The series that share one name.
#[derive(Debug)]
pub struct Family<'a> {
    exposition: &'a mut Exposition,
    name: &'static str,
}

/// The labels of a series, in the form that stands between the braces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(String);

/// The value of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A count, written exactly.
    Whole(u64),
    /// Any other number.
    Real(f64),
}

/// The buckets of a histogram, with the count and the sum of all values.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    /// Ascending bounds in seconds, as text, each with the number of values at or below it.
    pub(super) below: Vec<(&'static str, u64)>,
    pub(super) count: u64,
    pub(super) sum: f64,
}

impl Exposition {
    /// Creates an empty text for at most `series_max` series and about `bytes_max` bytes.
    pub const fn new(series_max: usize, bytes_max: usize) -> Self {
        Self {
            text: String::new(),
            bytes_max,
            room: series_max,
            omitted: 0,
        }
    }

    /// Begins a family. Each name may begin only one family.
    pub fn family(
        &mut self,
        kind: FamilyKind,
        name: &'static str,
        help: &'static str,
    ) -> Family<'_> {
        let kind = match kind {
            FamilyKind::Counter => "counter",
            FamilyKind::Gauge => "gauge",
            FamilyKind::Histogram => "histogram",
            FamilyKind::Summary => "summary",
        };
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family {
            exposition: self,
            name,
        }
    }

    /// Writes a family of one series without labels.
    pub fn single(
        &mut self,
        kind: FamilyKind,
        name: &'static str,
        help: &'static str,
        value: impl Into<Number>,
    ) {
        self.family(kind, name, help)
            .sample(&Labels::default(), value);
    }

    /// Returns the number of series that still fit.
    pub const fn room(&self) -> usize {
        self.room
    }

    /// Counts series that the caller leaves out because they do not fit.
    pub const fn omit(&mut self, series: usize) {
        self.omitted = self.omitted.saturating_add(series);
    }

    /// Returns the text. Its last family says how many series were left out.
    pub fn finish(mut self) -> String {
        let omitted = self.omitted as u64;
        (self.room, self.bytes_max) = (1, usize::MAX);
        let help = "Series that this answer leaves out: prometheus.series_max or server.answer_bytes_max is reached.";
        self.single(FamilyKind::Gauge, "stepwell_series_omitted", help, omitted);
        self.text
    }

    fn admits(&mut self, series: usize) -> bool {
        let is_short = self.text.len() + series * SERIES_BYTES_MAX <= self.bytes_max;
        match self.room.checked_sub(series).filter(|_| is_short) {
            Some(room) => {
                self.room = room;
                true
            }
            None => {
                self.omit(series);
                false
            }
        }
    }

    fn push(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Writing to a `String` never fails.
        let _ = self.text.write_fmt(arguments);
    }
}

impl Family<'_> {
    /// Writes a counter or a gauge.
    pub fn sample(&mut self, labels: &Labels, value: impl Into<Number>) {
        if self.exposition.admits(1) {
            self.line("", &labels.0, "", value.into());
        }
    }

    pub(super) fn histogram(&mut self, labels: &Labels, buckets: &Buckets) {
        if !self.exposition.admits(buckets.below.len() + 3) {
            return;
        }
        let last = ("+Inf", buckets.count);
        for (bound, count) in buckets.below.iter().copied().chain([last]) {
            self.line(
                "_bucket",
                &labels.0,
                &format!("le=\"{bound}\""),
                Number::Whole(count),
            );
        }
        self.line("_sum", &labels.0, "", Number::Real(buckets.sum));
        self.line("_count", &labels.0, "", Number::Whole(buckets.count));
    }

    pub(super) fn summary(
        &mut self,
        labels: &Labels,
        quantiles: &[(&str, f64)],
        sum: f64,
        count: u64,
    ) {
        if !self.exposition.admits(quantiles.len() + 2) {
            return;
        }
        for (quantile, value) in quantiles {
            self.line(
                "",
                &labels.0,
                &format!("quantile=\"{quantile}\""),
                Number::Real(*value),
            );
        }
        self.line("_sum", &labels.0, "", Number::Real(sum));
        self.line("_count", &labels.0, "", Number::Whole(count));
    }

    fn line(&mut self, suffix: &str, labels: &str, last_label: &str, value: Number) {
        let name = self.name;
        let (open, comma, close) = match (labels.is_empty(), last_label.is_empty()) {
            (true, true) => ("", "", ""),
            (false, false) => ("{", ",", "}"),
            _ => ("{", "", "}"),
        };
        self.exposition.push(format_args!(
            "{name}{suffix}{open}{labels}{comma}{last_label}{close} {value}\n"
        ));
    }
}

impl Labels {
    /// Creates an empty set of labels.
    pub const fn new() -> Self {
        Self(String::new())
    }

    /// Adds a label. The value may be any text.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.add("", name, value);
        self
    }

    /// Adds a label whose name a plugin chose. The name consists of a-z, 0-9 and '_'. A prefix
    /// keeps it apart from the host's own labels and from names that Prometheus reserves, and lets
    /// it begin with a digit.
    #[must_use]
    pub fn foreign(mut self, name: &str, value: &str) -> Self {
        self.add("label_", name, value);
        self
    }

    fn add(&mut self, prefix: &str, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.extend([prefix, name, "=\""]);
        for character in value.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
        self.0.push('"');
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(number) => write!(formatter, "{number}"),
            Self::Real(number) if number.is_nan() => formatter.write_str("NaN"),
            Self::Real(number) if number.is_infinite() => {
                formatter.write_str(if *number > 0.0 { "+Inf" } else { "-Inf" })
            }
            // `Debug` writes an exponent where digits would fill the line.
            Self::Real(number) => write!(formatter, "{number:?}"),
        }
    }
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<usize> for Number {
    fn from(number: usize) -> Self {
        Self::Whole(number as u64)
    }
}

impl From<bool> for Number {
    fn from(yes: bool) -> Self {
        Self::Whole(u64::from(yes))
    }
}

impl From<f64> for Number {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_written_as_the_format_has_it() {
        let mut exposition = Exposition::new(100, usize::MAX);
        let labels = Labels::new().with("team", "red").foreign("9", "a\\b\"c\nd");
        exposition
            .family(FamilyKind::Counter, "seen_total", "What was seen.")
            .sample(&labels, 3_u64);
        let buckets = Buckets {
            below: vec![("0.5", 1), ("1", 2)],
            count: 4,
            sum: 7.5,
        };
        exposition
            .family(FamilyKind::Histogram, "took_seconds", "How long.")
            .histogram(&Labels::new(), &buckets);
        let text = exposition.finish();
        let expected = r##"# HELP seen_total What was seen.
# TYPE seen_total counter
seen_total{team="red",label_9="a\\b\"c\nd"} 3
# HELP took_seconds How long.
# TYPE took_seconds histogram
took_seconds_bucket{le="0.5"} 1
took_seconds_bucket{le="1"} 2
took_seconds_bucket{le="+Inf"} 4
took_seconds_sum 7.5
took_seconds_count 4
"##;
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("\nstepwell_series_omitted 0\n"), "{text}");
    }

    #[test]
    fn what_does_not_fit_is_left_out_whole_and_counted() {
        let mut exposition = Exposition::new(3, usize::MAX);
        let buckets = Buckets {
            below: vec![("1", 0)],
            count: 0,
            sum: 0.0,
        };
        exposition
            .family(FamilyKind::Histogram, "took_seconds", "How long.")
            .histogram(&Labels::new(), &buckets);
        exposition.single(FamilyKind::Gauge, "level", "How high.", f64::MAX);
        let text = exposition.finish();
        assert!(
            !text.contains("took_seconds_") && text.contains("\nlevel 1.7976931348623157e308\n"),
            "{text}"
        );
        assert!(text.ends_with("\nstepwell_series_omitted 4\n"), "{text}");
    }

    #[test]
    fn numbers_are_those_that_prometheus_reads() {
        let shown = [
            1.0,
            0.00001,
            -0.5,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ]
        .map(|real| Number::Real(real).to_string());
        assert_eq!(shown, ["1.0", "1e-5", "-0.5", "NaN", "+Inf", "-Inf"]);
        assert_eq!(Number::Whole(u64::MAX).to_string(), "18446744073709551615");
    }

    #[test]
    fn a_text_that_is_too_long_leaves_out_the_rest_and_says_so() {
        let mut exposition = Exposition::new(100, SERIES_BYTES_MAX + 100);
        let mut family = exposition.family(FamilyKind::Gauge, "g", "Help.");
        for number in 0..9_u64 {
            family.sample(&Labels::new().with("n", &"x".repeat(30)), number);
        }
        let text = exposition.finish();
        assert_eq!(text.matches("\ng{").count(), 2, "{text}");
        assert!(text.contains("stepwell_series_omitted 7"), "{text}");
    }
}
