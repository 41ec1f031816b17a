//! `/workflow-metrics/history` and the comparison of a plugin's versions: metrics over time, as the
//! store keeps them. A team sees its own metrics and the host's, an operator those of all teams.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::Services;
use super::error::ApiError;
use super::request::Request;
use super::response::{self, HandlerResult};
use crate::clock::Timestamp;
use crate::model::{Name, Principal, duration};
use crate::monitor::{OperationStats, Timings, compare};
use crate::store::{HistoryQuery, HistoryStep, SeriesKind, SummedCounts};

/// Points for which a step is chosen when the client names none.
const POINTS_CHOSEN_MAX: u64 = 360;
/// Most points of a response.
const POINTS_MAX: u64 = 2_000;
const SECONDS_CHOSEN: [u64; 8] = [10, 60, 300, 900, 3_600, 21_600, 86_400, 604_800];
const HISTORY_PERIOD: Duration = Duration::from_secs(3_600);
const COMPARISON_PERIOD: Duration = Duration::from_secs(24 * 3_600);
/// Most series of one request.
const SERIES_MAX: usize = 64;
/// Most points of all series of one request together: what a page of charts shows.
const SERIES_POINTS_MAX: u64 = 32_000;
/// Longest name of a series, in bytes.
const NAME_BYTES_MAX: usize = 512;

/// A period of time from `from` to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    from: Timestamp,
    to: Timestamp,
}

impl Span {
    /// Reads `?from=` and `?to=`. Each is a time or, such as `-1h`, an age. By default the period
    /// ends now and lasts `usual`.
    fn of(request: &mut Request, usual: Duration) -> Result<Self, ApiError> {
        let now = request.services.clock.now();
        let to = request
            .query
            .parse_with("to", |text| moment(text, now))?
            .unwrap_or(now);
        let from = request
            .query
            .parse_with("from", |text| moment(text, now))?
            .unwrap_or_else(|| to.before(usual));
        if from >= to {
            return Err(ApiError::invalid(format!(
                "'from' must be before 'to', and {from} is not before {to}"
            )));
        }
        Ok(Self { from, to })
    }

    /// Returns the most steps of `seconds` that the period can touch.
    fn steps(self, seconds: u64) -> u64 {
        self.to.since(self.from).as_secs() / seconds.max(1) + 1
    }
}

fn moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    match text.strip_prefix('-') {
        Some(ago) if !ago.starts_with('-') => Ok(now.before(duration::parse(ago)?)),
        _ if text == "now" => Ok(now),
        _ => text.parse(),
    }
}

/// The stored points to read, and the seconds that one shown point covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Resolution {
    step: HistoryStep,
    seconds: u64,
}

impl Resolution {
    /// Chooses the coarsest stored points that divide a step of `seconds` evenly.
    fn of_seconds(seconds: u64) -> Option<Self> {
        let fits = |step: &HistoryStep| seconds > 0 && seconds.is_multiple_of(step.seconds());
        HistoryStep::ALL
            .into_iter()
            .rev()
            .find(fits)
            .map(|step| Self { step, seconds })
    }

    fn asked(text: &str) -> Result<Self, String> {
        let asked = duration::parse(text)?;
        let whole = asked.subsec_nanos() == 0;
        let found = if whole {
            Self::of_seconds(asked.as_secs())
        } else {
            None
        };
        found.ok_or_else(|| "must be a multiple of 10s, such as 10s, 1m or 1h".to_owned())
    }

    /// Chooses the finest resolution that has few enough points and is kept since the beginning of
    /// the period.
    fn chosen(services: &Services, span: Span) -> Self {
        let age = services.clock.now().since(span.from);
        let fits = |resolution: &Self| {
            let kept = services.config.history.keep(resolution.step.seconds());
            span.steps(resolution.seconds) <= POINTS_CHOSEN_MAX + 1
                && (age <= kept || resolution.step == HistoryStep::Hour)
        };
        let coarsest = Self {
            step: HistoryStep::Hour,
            seconds: 604_800,
        };
        SECONDS_CHOSEN
            .into_iter()
            .filter_map(Self::of_seconds)
            .find(fits)
            .unwrap_or(coarsest)
    }
}

/// The hosts whose points are read: all hosts of the database, or only this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Hosts {
    #[default]
    All,
    This,
}

impl FromStr for Hosts {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            "this" => Ok(Self::This),
            _ => Err("must be all or this"),
        }
    }
}

/// One series that the client names.
enum NamedSeries {
    Operation(String),
    /// A counter or a gauge.
    Metric(String),
}

impl NamedSeries {
    /// Reads `operation:NAME` or `metric:NAME`.
    fn of_text(text: &str) -> Result<Self, ApiError> {
        match text.split_once(':') {
            Some(("operation", name)) if !name.is_empty() => Ok(Self::Operation(name.to_owned())),
            Some(("metric", name)) if !name.is_empty() => Ok(Self::Metric(name.to_owned())),
            _ => Err(ApiError::invalid(
                "the parameter 'series': write operation:NAME or metric:NAME",
            )),
        }
    }

    fn checked(self) -> Result<Self, ApiError> {
        let (Self::Operation(name) | Self::Metric(name)) = &self;
        if name.len() > NAME_BYTES_MAX || name.contains('\0') {
            return Err(ApiError::invalid(format!(
                "a name has at most {NAME_BYTES_MAX} bytes, and no zero byte"
            )));
        }
        Ok(self)
    }
}

/// The series that the client asks for.
enum RequestedSeries {
    One(NamedSeries),
    /// The series of `?series=`.
    Several(Vec<NamedSeries>),
    /// No series is named: list all of them.
    Everything,
}

impl RequestedSeries {
    fn of(request: &mut Request) -> Result<Self, ApiError> {
        let operation = request.query.take("operation")?.map(NamedSeries::Operation);
        let metric = request.query.take("metric")?.map(NamedSeries::Metric);
        let series = request.query.take_all("series")?;
        if series.len() > SERIES_MAX {
            return Err(ApiError::invalid(format!(
                "the parameter 'series' may be given at most {SERIES_MAX} times"
            )));
        }
        match (operation, metric, series.as_slice()) {
            (None, None, []) => Ok(Self::Everything),
            (Some(one), None, []) | (None, Some(one), []) => Ok(Self::One(one.checked()?)),
            (None, None, several) => {
                let several = several
                    .iter()
                    .map(|text| NamedSeries::of_text(text)?.checked());
                several.collect::<Result<_, _>>().map(Self::Several)
            }
            _ => Err(ApiError::invalid(
                "ask for an 'operation', for a 'metric' or for 'series', not for two of them",
            )),
        }
    }

    /// Number of series whose points are returned.
    fn count(&self) -> u64 {
        match self {
            Self::Several(several) => several.len() as u64,
            Self::One(_) | Self::Everything => 1,
        }
    }
}

pub(super) async fn show_history(mut request: Request, principal: Arc<Principal>) -> HandlerResult {
    let team = request.team(&principal)?;
    let subject = RequestedSeries::of(&mut request)?;
    let span = Span::of(&mut request, HISTORY_PERIOD)?;
    let asked = request.query.parse_with("step", Resolution::asked)?;
    let hosts = request.query.parse("hosts")?.unwrap_or_default();
    request.query.finish()?;
    let services = &request.services;
    let resolution = asked.unwrap_or_else(|| Resolution::chosen(services, span));
    let steps = span.steps(resolution.seconds);
    if steps > POINTS_MAX + 1 {
        return Err(ApiError::invalid(format!(
            "that would be more than {POINTS_MAX} points: ask for a shorter period or a longer step"
        )));
    }
    if steps.saturating_mul(subject.count()) > SERIES_POINTS_MAX {
        return Err(ApiError::invalid(format!(
            "that would be more than {SERIES_POINTS_MAX} points in all series: ask for fewer series, a shorter \
             period or a longer step"
        )));
    }
    let reading = HistoryRead {
        services,
        team,
        span,
        resolution,
        hosts,
    };
    match subject {
        RequestedSeries::One(named) => reading.answer(reading.series(named).await?),
        RequestedSeries::Several(several) => {
            // One after the other: a page of charts must not take all connections of the database.
            let mut series = Vec::with_capacity(several.len());
            for named in several {
                series.push(object(reading.series(named).await?));
            }
            reading.answer([("series", json!(series))])
        }
        RequestedSeries::Everything => reading.everything().await,
    }
}

fn object(
    members: impl IntoIterator<Item = (&'static str, Value)>,
) -> serde_json::Map<String, Value> {
    let members = members.into_iter();
    members
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The parameters of one read of the history.
struct HistoryRead<'a> {
    services: &'a Services,
    team: Option<Name>,
    span: Span,
    resolution: Resolution,
    hosts: Hosts,
}

/// The calls within one step.
#[derive(Serialize)]
struct CallPoint {
    at: Timestamp,
    #[serde(flatten)]
    stats: OperationStats,
}

impl HistoryRead<'_> {
    /// Builds a response that begins with the step and the period.
    fn answer(&self, rest: impl IntoIterator<Item = (&'static str, Value)>) -> HandlerResult {
        let head = [
            ("step_seconds", json!(self.resolution.seconds)),
            ("from", json!(self.span.from)),
            ("to", json!(self.span.to)),
        ];
        response::ok(&object(head.into_iter().chain(rest)))
    }

    /// Returns the name of a series, for a metric its kind, and its points.
    async fn series(&self, named: NamedSeries) -> Result<Vec<(&'static str, Value)>, ApiError> {
        match named {
            NamedSeries::Operation(name) => {
                let points = self.points(SeriesKind::Operation, &name).await?;
                let points: Vec<_> = points
                    .into_iter()
                    .filter_map(|(at, added)| self.call_point(at, added))
                    .collect();
                Ok(vec![("operation", name.into()), ("points", json!(points))])
            }
            NamedSeries::Metric(name) => {
                let mut kind = SeriesKind::Counter;
                let mut points = self.points(kind, &name).await?;
                if points.is_empty() {
                    kind = SeriesKind::Gauge;
                    points = self.points(kind, &name).await?;
                }
                let points: Vec<_> = points
                    .into_iter()
                    .filter_map(|(at, added)| self.metric_point(at, &added))
                    .collect();
                let kind = match points.is_empty() {
                    true => Value::Null,
                    false => kind.as_str().into(),
                };
                Ok(vec![
                    ("metric", name.into()),
                    ("kind", kind),
                    ("points", json!(points)),
                ])
            }
        }
    }

    /// Returns the beginning of the period's first step, so that this step is shown whole.
    fn from(&self) -> Timestamp {
        let micros = i64::try_from(self.resolution.seconds.saturating_mul(1_000_000))
            .unwrap_or(i64::MAX)
            .max(1);
        Timestamp::from_micros(
            self.span
                .from
                .as_micros()
                .div_euclid(micros)
                .saturating_mul(micros),
        )
    }

    async fn points(
        &self,
        kind: SeriesKind,
        name: &str,
    ) -> Result<Vec<(Timestamp, SummedCounts)>, ApiError> {
        let query = HistoryQuery {
            team: self.team.clone(),
            kind,
            name: name.to_owned(),
            from: self.from(),
            to: self.span.to,
            step: self.resolution.step,
            seconds: self.resolution.seconds,
            own: self.hosts == Hosts::This,
            rows_max: self.services.config.history.read_rows_max,
        };
        self.services.store.history(query).await?.ok_or_else(|| {
            ApiError::invalid(
                "that would be more stored points than one request may read (history.read_rows_max): ask for a shorter \
                 period, a longer step, or one team",
            )
        })
    }

    /// Returns the elapsed seconds of a step. The last step of a chart may not be over yet.
    fn seconds(&self, at: Timestamp) -> f64 {
        let past = self.services.clock.now().since(at).as_secs_f64();
        past.clamp(
            HistoryStep::Fine.seconds() as f64,
            self.resolution.seconds as f64,
        )
    }

    fn call_point(&self, at: Timestamp, added: SummedCounts) -> Option<CallPoint> {
        match added {
            SummedCounts::Calls(calls) => Some(CallPoint {
                at,
                stats: OperationStats::new(&calls, self.seconds(at)),
            }),
            SummedCounts::Events(_) | SummedCounts::Level(_) => None,
        }
    }

    fn metric_point(&self, at: Timestamp, added: &SummedCounts) -> Option<Value> {
        match added {
            SummedCounts::Events(events) => {
                let per_minute = *events as f64 * 60.0 / self.seconds(at);
                Some(json!({ "at": at, "value": events, "per_minute": per_minute }))
            }
            SummedCounts::Level(level) => {
                Some(json!({ "at": at, "value": level, "per_minute": null }))
            }
            SummedCounts::Calls(_) => None,
        }
    }

    async fn everything(&self) -> HandlerResult {
        let period = (self.from(), self.span.to);
        let series = self
            .services
            .store
            .history_series(self.team.as_ref(), self.resolution.step, period)
            .await?;
        // Teams have series of the same name, so the names are deduplicated.
        let (mut operations, mut metrics) = (BTreeSet::new(), BTreeSet::new());
        for series in series {
            let names = if series.kind == SeriesKind::Operation {
                &mut operations
            } else {
                &mut metrics
            };
            names.insert(series.name);
        }
        self.answer([
            ("operations", json!(operations)),
            ("metrics", json!(metrics)),
        ])
    }
}

/// The calls of one version.
#[derive(Serialize)]
struct ComparedVersion {
    version: String,
    #[serde(flatten)]
    stats: OperationStats,
}

pub(super) async fn compare_versions(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let plugin = request.name("name", "plugin")?;
    let team = request
        .team(&principal)?
        .unwrap_or_else(|| principal.team.clone());
    let baseline = version(&mut request, "baseline")?;
    let candidate = version(&mut request, "candidate")?;
    let span = Span::of(&mut request, COMPARISON_PERIOD)?;
    request.query.finish()?;
    if baseline == candidate {
        return Err(ApiError::invalid(
            "'baseline' and 'candidate' are the same version",
        ));
    }
    let services = &request.services;
    // All points are added up, so coarse points will do.
    let seconds = if span.steps(60) <= POINTS_MAX {
        60
    } else {
        3_600
    };
    let resolution =
        Resolution::of_seconds(seconds).unwrap_or_else(|| Resolution::chosen(services, span));
    let reading = HistoryRead {
        services,
        team: Some(team.clone()),
        span,
        resolution,
        hosts: Hosts::All,
    };
    let mut calls = Vec::with_capacity(2);
    for version in [&baseline, &candidate] {
        let points = reading
            .points(SeriesKind::Operation, &format!("plugin {plugin}@{version}"))
            .await?;
        if points.is_empty() && !exists(services, &team, &plugin, version).await? {
            return Err(ApiError::not_found_because(format!(
                "there is no version {version} of {plugin}, and it has no history in this period"
            )));
        }
        let sum = points
            .into_iter()
            .fold(Timings::work(), |mut sum, (_, added)| {
                if let SummedCounts::Calls(calls) = added {
                    sum.merge(&calls);
                }
                sum
            });
        calls.push(sum);
    }
    let [old, new] = calls.as_slice() else {
        return Err(ApiError::internal("two versions were read"));
    };
    let seconds = span.to.since(span.from).as_secs_f64().max(1.0);
    let shown = |version: String, calls: &Timings| ComparedVersion {
        version,
        stats: OperationStats::new(calls, seconds),
    };
    let comparison = compare(old, new);
    response::ok(&json!({
        "plugin": plugin,
        "from": span.from,
        "to": span.to,
        "baseline": shown(baseline, old),
        "candidate": shown(candidate, new),
        "verdict": comparison.verdict,
        "reasons": comparison.reasons,
    }))
}

fn version(request: &mut Request, name: &str) -> Result<String, ApiError> {
    let version = request.query.take(name)?;
    let version = version.ok_or_else(|| {
        ApiError::invalid(format!("the parameter '{name}' is missing: a version"))
    })?;
    let plain =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '+');
    if version.len() > 64 || !version.chars().all(plain) {
        return Err(ApiError::invalid(format!(
            "the parameter '{name}' is no version: write for example 1.2.0"
        )));
    }
    Ok(version)
}

async fn exists(
    services: &Services,
    team: &Name,
    plugin: &Name,
    version: &str,
) -> Result<bool, ApiError> {
    let Ok(reference) = format!("{plugin}@{version}").parse() else {
        return Ok(false);
    };
    Ok(services
        .store
        .resolve_plugin(team, &reference)
        .await?
        .is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_times_or_how_long_ago() {
        let now: Timestamp = "2026-04-01T12:00:00Z".parse().expect("is a time");
        for (text, expected) in [
            ("-1h", "2026-04-01T11:00:00Z"),
            ("now", "2026-04-01T12:00:00Z"),
            ("2026-04-01T12:30:00+01:00", "2026-04-01T11:30:00Z"),
        ] {
            assert_eq!(moment(text, now), expected.parse(), "{text}");
        }
        for wrong in [
            "",
            "-",
            "--1h",
            "1h",
            "yesterday",
            "-1y",
            "-99999999999999999999h",
        ] {
            assert!(moment(wrong, now).is_err(), "{wrong}");
        }
    }

    #[test]
    fn steps_are_made_of_the_coarsest_points_that_fit() {
        let seconds = |text| {
            Resolution::asked(text)
                .map(|resolution| (resolution.step.seconds(), resolution.seconds))
        };
        assert_eq!(seconds("10s"), Ok((10, 10)));
        assert_eq!(seconds("90s"), Ok((10, 90)));
        assert_eq!(seconds("5m"), Ok((60, 300)));
        assert_eq!(seconds("1d"), Ok((3_600, 86_400)));
        for wrong in ["0s", "15s", "10500ms", "1", "-1m"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
