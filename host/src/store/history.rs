//! History of the monitor's numbers: points of 10 seconds, of a minute and of an hour.
//!
//! Each host writes its own rows. A point always contains the host's whole count of the step, so a
//! repeated write, for example after a COMMIT whose result was lost, does not count twice. A coarse
//! point is never computed from fine points. Reads add the points of all hosts and of longer
//! periods.
//!
//! With the default retentions, a series that is always busy has on each host 2,160 points of 10
//! seconds, 10,080 of a minute and 9,600 of an hour. A row takes about 100 bytes, and its durations
//! take about as much again.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::backend::Connection;
use super::rows::{self, Column};
use super::sql::{Bind, Sql};
use super::{Store, StoreError, error, parse, signed, unsigned};
use crate::clock::Timestamp;
use crate::model::Name;
use crate::monitor::Timings;

/// The team column of series that belong to the host.
const HOST: &str = "";
/// The largest number of series in a list.
const SERIES_SHOWN_MAX: u32 = 5_000;

/// The distance between points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HistoryStep {
    /// 10 seconds.
    Fine,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

impl HistoryStep {
    /// All steps, from the finest to the coarsest.
    pub const ALL: [Self; 3] = [Self::Fine, Self::Minute, Self::Hour];

    /// The length of the step in seconds.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Fine => 10,
            Self::Minute => 60,
            Self::Hour => 3_600,
        }
    }

    /// Returns the beginning of the step that contains `time`.
    pub fn begin(self, time: Timestamp) -> Timestamp {
        floor(time, self.seconds())
    }
}

fn floor(time: Timestamp, seconds: u64) -> Timestamp {
    let micros = signed(seconds.saturating_mul(1_000_000)).max(1);
    Timestamp::from_micros(time.as_micros().div_euclid(micros).saturating_mul(micros))
}

/// The kind of numbers in a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SeriesKind {
    /// Calls and their durations.
    Operation,
    /// The number of events.
    Counter,
    /// A level that is sampled, such as the length of a queue.
    Gauge,
}

impl SeriesKind {
    const ALL: [Self; 3] = [Self::Operation, Self::Counter, Self::Gauge];

    /// The kind's name in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operation => "operation",
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

impl fmt::Display for SeriesKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl std::str::FromStr for SeriesKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or_else(|| format!("'{}' is no kind of series", text.escape_debug()))
    }
}

/// A series of points.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Series {
    /// The owning team; `None` for the host.
    pub team: Option<Name>,
    /// The kind of the numbers.
    pub kind: SeriesKind,
    /// The series' name, such as `commit_step`.
    pub name: String,
}

impl Series {
    /// Derives the row id from a hash of all parts. Neither a team nor a kind contains a zero byte,
    /// so different series have different inputs.
    fn id(&self) -> Uuid {
        let mut hash = Sha256::new();
        for part in [self.team_text(), self.kind.as_str(), &self.name] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let mut id = [0; 16];
        for (byte, hashed) in id.iter_mut().zip(hash.finalize()) {
            *byte = hashed;
        }
        Uuid::from_bytes(id)
    }

    fn team_text(&self) -> &str {
        self.team.as_ref().map_or(HOST, Name::as_str)
    }
}

/// The counts of one series within one step.
#[derive(Clone, Debug, PartialEq)]
pub enum SeriesCounts {
    /// Calls of an operation.
    Calls(Timings),
    /// Events of a counter.
    Events(u64),
    /// Samples of a gauge.
    Level {
        /// The sum of all samples.
        sum: u64,
        /// The number of samples.
        samples: u64,
    },
}

impl SeriesCounts {
    /// Adds the counts of another time. If the kinds differ, nothing is added.
    pub fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Calls(calls), Self::Calls(others)) => calls.merge(others),
            (Self::Events(events), Self::Events(others)) => {
                *events = events.saturating_add(*others)
            }
            (
                Self::Level { sum, samples },
                Self::Level {
                    sum: others,
                    samples: looks,
                },
            ) => {
                *sum = sum.saturating_add(*others);
                *samples = samples.saturating_add(*looks);
            }
            _ => {}
        }
    }

    fn value(&self) -> u64 {
        match self {
            Self::Calls(calls) => calls.count(),
            Self::Events(events) => *events,
            Self::Level { sum, .. } => *sum,
        }
    }

    fn samples(&self) -> u64 {
        match self {
            Self::Calls(calls) => calls.errors(),
            Self::Events(_) => 0,
            Self::Level { samples, .. } => *samples,
        }
    }

    fn read(kind: SeriesKind, row: &SeriesCountsRow) -> Result<Self, StoreError> {
        Ok(match kind {
            SeriesKind::Operation => Self::Calls(
                Timings::from_bytes(&row.2)
                    .map_err(|problem| error::corrupt("a point's durations", problem))?,
            ),
            SeriesKind::Counter => Self::Events(unsigned("a point's value", row.0)?),
            SeriesKind::Gauge => Self::Level {
                sum: unsigned("a point's value", row.0)?,
                samples: unsigned("a point's samples", row.1)?,
            },
        })
    }
}

/// The columns `value`, `samples` and `timings`. For an operation: calls, errors and all durations.
/// For other kinds `timings` is empty.
type SeriesCountsRow = (i64, i64, Vec<u8>);

/// The counts of this host for one series and one step.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryPoint {
    /// The series.
    pub series: Series,
    /// The length of the step.
    pub step: HistoryStep,
    /// The beginning of the step.
    pub at: Timestamp,
    /// The counts.
    pub counted: SeriesCounts,
}

/// The selection of points to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// The team whose series and the host's are read; `None` for the series of all teams and of the
    /// host.
    pub team: Option<Name>,
    /// The kind of the numbers.
    pub kind: SeriesKind,
    /// The series' name.
    pub name: String,
    /// The beginning of the period, inclusive. Must be the beginning of a step.
    pub from: Timestamp,
    /// The end of the period, exclusive.
    pub to: Timestamp,
    /// The distance between the points that are read.
    pub step: HistoryStep,
    /// The distance between the returned points in seconds, a multiple of `step`.
    pub seconds: u64,
    /// If true, only the counts of this host; otherwise of all hosts on the database.
    pub own: bool,
    /// The largest number of rows to read.
    pub rows_max: u32,
}

/// The counts of all hosts within one step.
#[derive(Clone, Debug, PartialEq)]
pub enum SummedCounts {
    /// Calls of an operation.
    Calls(Timings),
    /// Events of a counter.
    Events(u64),
    /// The average level of a gauge, added up over all hosts.
    Level(f64),
}

/// The columns `at`, `series_id`, `host` and a [`SeriesCountsRow`].
type SummedCountsRow = (i64, Uuid, Uuid, i64, i64, Vec<u8>);

struct PointRow {
    series: Uuid,
    step: i64,
    at: i64,
    host: Uuid,
    value: i64,
    samples: i64,
    timings: Vec<u8>,
}

struct SeriesRow {
    id: Uuid,
    series: Series,
}

/// Inserts series. Two unique indexes cover a series, and another host may insert the same one
/// concurrently. With a named conflict target, Postgres would wait only at that index and fail at
/// the other, so the statement names no target.
const INSERT_SERIES: &str = "INSERT INTO history_series (id, team, kind, name) \
    SELECT * FROM {rows} WHERE given.column1 IS NOT NULL ON CONFLICT DO NOTHING";
const WRITE_POINTS: &str = "INSERT INTO history_points (series_id, step, at, host, value, samples, timings) \
    SELECT * FROM {rows} WHERE given.column1 IS NOT NULL ON CONFLICT (series_id, step, at, host) \
    DO UPDATE SET value = excluded.value, samples = excluded.samples, timings = excluded.timings";
/// Selects the points of one host and one step, of all series.
pub(super) const OF_HOST: &str = "SELECT s.team, s.kind, s.name, p.value, p.samples, p.timings FROM history_points p \
    JOIN history_series s ON s.id = p.series_id WHERE p.step = $1 AND p.at = $2 AND p.host = $3";
pub(super) const OLD: &str = "FROM history_points WHERE step = $1 AND at < $2 ORDER BY at LIMIT $3";
const EMPTY_SERIES: &str = "DELETE FROM history_series WHERE NOT EXISTS \
    (SELECT 1 FROM history_points p WHERE p.series_id = history_series.id)";

impl Store {
    /// Writes points of this host, in transactions of at most `batch` points. A point replaces an
    /// earlier point of the same series and step. The points must differ in series or step. Returns
    /// how many points were written, from the beginning of `points`, and the error that stopped the
    /// rest.
    pub async fn write_history(
        &self,
        points: Vec<HistoryPoint>,
        batch: usize,
    ) -> (usize, Result<(), StoreError>) {
        let mut written = 0;
        for batch in points.chunks(batch.max(1)) {
            let (store, batch) = (self.clone(), batch.to_vec());
            let count = batch.len();
            if let Err(error) = self
                .detached(async move { store.write_points(&batch).await })
                .await
            {
                return (written, Err(error));
            }
            written += count;
        }
        (written, Ok(()))
    }

    async fn write_points(&self, points: &[HistoryPoint]) -> Result<(), StoreError> {
        let core = self.core();
        let mut series: BTreeMap<Uuid, &Series> = BTreeMap::new();
        let mut rows = Vec::with_capacity(points.len());
        for point in points {
            let id = point.series.id();
            series.insert(id, &point.series);
            rows.push(PointRow {
                series: id,
                step: signed(point.step.seconds()),
                at: point.at.as_micros(),
                host: core.host.id,
                value: signed(point.counted.value()),
                samples: signed(point.counted.samples()),
                timings: match &point.counted {
                    SeriesCounts::Calls(calls) => calls.to_bytes(),
                    SeriesCounts::Events(_) | SeriesCounts::Level { .. } => Vec::new(),
                },
            });
        }
        // All hosts write in the same order, so that no deadlock can occur.
        rows.sort_unstable_by_key(|row| (row.series, row.step, row.at));
        let series: Vec<_> = series
            .into_iter()
            .map(|(id, series)| SeriesRow {
                id,
                series: series.clone(),
            })
            .collect();
        let mut transaction = core.backend.begin().await?;
        let columns = [
            Column::Uuid(|row: &SeriesRow| row.id),
            Column::Text(|row| row.series.team_text()),
            Column::Text(|row| row.series.kind.as_str()),
            Column::Text(|row| &row.series.name),
        ];
        rows::execute(&mut transaction, INSERT_SERIES, &columns, &series).await?;
        let columns = [
            Column::Uuid(|row: &PointRow| row.series),
            Column::Integer(|row| row.step),
            Column::Integer(|row| row.at),
            Column::Uuid(|row| row.host),
            Column::Integer(|row| row.value),
            Column::Integer(|row| row.samples),
            Column::Bytes(|row| &row.timings),
        ];
        rows::execute(&mut transaction, WRITE_POINTS, &columns, &rows).await?;
        core.commit(transaction, &[]).await
    }

    /// Returns the points that this host has written for the step that begins at `at`, for example
    /// before a restart.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn own_history(
        &self,
        step: HistoryStep,
        at: Timestamp,
    ) -> Result<Vec<HistoryPoint>, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let core = store.core();
            let mut connection = core.backend.read().await?;
            let binds = vec![
                Bind::Number(signed(step.seconds())),
                Bind::Number(at.as_micros()),
                Bind::Id(core.host.id),
            ];
            let rows: Vec<(String, String, String, i64, i64, Vec<u8>)> =
                Sql::with_binds(OF_HOST, binds)
                    .rows(&mut connection)
                    .await?;
            rows.into_iter()
                .map(|(team, kind, name, value, samples, timings)| {
                    let kind = parse("a series' kind", &kind)?;
                    let series = Series {
                        team: team_of(&team)?,
                        kind,
                        name,
                    };
                    let counted = SeriesCounts::read(kind, &(value, samples, timings))?;
                    Ok(HistoryPoint {
                        series,
                        step,
                        at,
                        counted,
                    })
                })
                .collect()
        })
        .await
    }

    /// Returns the points of a series in a period, in order. Steps without counts are left out.
    /// `None` if more than `rows_max` rows would be read.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn history(
        &self,
        query: HistoryQuery,
    ) -> Result<Option<Vec<(Timestamp, SummedCounts)>>, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut connection = store.read().await?;
            let ids: Vec<(Uuid,)> = named(&query).rows(&mut connection).await?;
            if ids.is_empty() {
                return Ok(Some(Vec::new()));
            }
            let host = query.own.then_some(store.core().host.id);
            let ids = ids.into_iter().map(|(id,)| id);
            let rows: Vec<SummedCountsRow> =
                points(&query, ids, host).rows(&mut connection).await?;
            drop(connection);
            if rows.len() > query.rows_max as usize {
                return Ok(None);
            }
            add_up(&query, rows).map(Some)
        })
        .await
    }

    /// Returns the series that have points in a period, sorted. At most 5,000 series.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn history_series(
        &self,
        team: Option<&Name>,
        step: HistoryStep,
        (from, to): (Timestamp, Timestamp),
    ) -> Result<Vec<Series>, StoreError> {
        let (store, team) = (self.clone(), team.cloned());
        self.detached(async move {
            let mut connection = store.read().await?;
            let rows: Vec<(String, String, String)> = listed(team.as_ref(), step, (from, to))
                .rows(&mut connection)
                .await?;
            let series = rows.into_iter().map(|(team, kind, name)| {
                Ok(Series {
                    team: team_of(&team)?,
                    kind: parse("a series' kind", &kind)?,
                    name,
                })
            });
            let mut series = series.collect::<Result<Vec<_>, StoreError>>()?;
            series.sort_unstable();
            Ok(series)
        })
        .await
    }

    /// Deletes at most `limit` points older than `before` in one transaction, and returns their
    /// number.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn delete_history(
        &self,
        step: HistoryStep,
        before: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut transaction = store.core().backend.begin().await?;
            // Each database has its own name for the location of a row. On Postgres another host
            // may be deleting the same rows.
            let text = match &*transaction {
                Connection::Sqlite(_) => {
                    format!("DELETE FROM history_points WHERE rowid IN (SELECT rowid {OLD})")
                }
                Connection::Postgres(_) => format!(
                    "DELETE FROM history_points WHERE ctid = ANY (ARRAY (SELECT ctid {OLD} FOR UPDATE SKIP LOCKED))"
                ),
            };
            let binds = vec![
                Bind::Number(signed(step.seconds())),
                Bind::Number(before.as_micros()),
                Bind::Number(limit.into()),
            ];
            let deleted = Sql::with_binds(&text, binds).execute(&mut transaction).await?;
            store.core().commit(transaction, &[]).await?;
            Ok(deleted)
        })
        .await
    }

    /// Deletes series without points, and returns their number.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn delete_empty_series(&self) -> Result<u64, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut transaction = store.core().backend.begin().await?;
            let deleted = Sql::new(EMPTY_SERIES).execute(&mut transaction).await?;
            store.core().commit(transaction, &[]).await?;
            Ok(deleted)
        })
        .await
    }
}

fn team_of(text: &str) -> Result<Option<Name>, StoreError> {
    if text == HOST {
        Ok(None)
    } else {
        parse("a series' team", text).map(Some)
    }
}

/// Selects the series of a kind and name that a team may see.
pub(super) fn named(query: &HistoryQuery) -> Sql {
    let mut sql = Sql::new("SELECT id FROM history_series WHERE kind = ");
    sql.bind(query.kind.as_str().into())
        .push(" AND name = ")
        .bind(query.name.as_str().into());
    if let Some(team) = &query.team {
        sql.push(" AND team")
            .within([HOST.into(), team.as_str().into()]);
    }
    sql.push(" LIMIT ")
        .bind(Bind::Number(SERIES_SHOWN_MAX.into()));
    sql
}

/// Selects points of one host, or of all hosts for `None`. The limit is one row above `rows_max`,
/// so that the caller can detect too many rows.
pub(super) fn points(
    query: &HistoryQuery,
    ids: impl IntoIterator<Item = Uuid>,
    host: Option<Uuid>,
) -> Sql {
    let mut sql = Sql::new(
        "SELECT at, series_id, host, value, samples, timings FROM history_points WHERE series_id",
    );
    sql.within(ids.into_iter().map(Bind::Id));
    sql.push(" AND step = ")
        .bind(Bind::Number(signed(query.step.seconds())));
    sql.push(" AND at >= ")
        .bind(Bind::Number(query.from.as_micros()));
    sql.push(" AND at < ")
        .bind(Bind::Number(query.to.as_micros()));
    if let Some(host) = host {
        sql.push(" AND host = ").bind(Bind::Id(host));
    }
    sql.push(" LIMIT ")
        .bind(Bind::Number(i64::from(query.rows_max) + 1));
    sql
}

/// Selects the series of a team and of the host that have points in a period.
pub(super) fn listed(
    team: Option<&Name>,
    step: HistoryStep,
    (from, to): (Timestamp, Timestamp),
) -> Sql {
    let mut sql = Sql::new("SELECT team, kind, name FROM history_series s WHERE team");
    match team {
        Some(team) => sql.within([HOST.into(), team.as_str().into()]),
        None => sql.push(" >= ").bind(HOST.into()),
    };
    sql.push(" AND EXISTS (SELECT 1 FROM history_points p WHERE p.series_id = s.id AND p.step = ");
    sql.bind(Bind::Number(signed(step.seconds())));
    sql.push(" AND p.at >= ")
        .bind(Bind::Number(from.as_micros()));
    sql.push(" AND p.at < ").bind(Bind::Number(to.as_micros()));
    sql.push(") LIMIT ")
        .bind(Bind::Number(SERIES_SHOWN_MAX.into()));
    sql
}

fn add_up(
    query: &HistoryQuery,
    rows: Vec<SummedCountsRow>,
) -> Result<Vec<(Timestamp, SummedCounts)>, StoreError> {
    // Grouped by series and host within a step: a gauge is averaged over time, and then added up
    // over series and hosts.
    let mut steps: BTreeMap<Timestamp, BTreeMap<(Uuid, Uuid), SeriesCounts>> = BTreeMap::new();
    for (at, series, host, value, samples, timings) in rows {
        let counted = SeriesCounts::read(query.kind, &(value, samples, timings))?;
        let parts = steps
            .entry(floor(Timestamp::from_micros(at), query.seconds))
            .or_default();
        match parts.entry((series, host)) {
            Entry::Occupied(known) => known.into_mut().merge(&counted),
            Entry::Vacant(place) => {
                place.insert(counted);
            }
        }
    }
    let added = |parts: BTreeMap<_, SeriesCounts>| {
        parts
            .into_values()
            .map(SummedCounts::from)
            .reduce(SummedCounts::and)
    };
    Ok(steps
        .into_iter()
        .filter_map(|(at, parts)| Some((at, added(parts)?)))
        .collect())
}

impl From<SeriesCounts> for SummedCounts {
    fn from(counted: SeriesCounts) -> Self {
        match counted {
            SeriesCounts::Calls(calls) => Self::Calls(calls),
            SeriesCounts::Events(events) => Self::Events(events),
            SeriesCounts::Level { sum, samples } => Self::Level(sum as f64 / samples.max(1) as f64),
        }
    }
}

impl SummedCounts {
    /// Adds two values of the same kind.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Calls(mut calls), Self::Calls(others)) => {
                calls.merge(&others);
                Self::Calls(calls)
            }
            (Self::Events(events), Self::Events(others)) => {
                Self::Events(events.saturating_add(others))
            }
            (Self::Level(level), Self::Level(other)) => Self::Level(level + other),
            (one, _) => one,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_have_ids_of_their_own() {
        let series = |team: Option<&str>, kind, name: &str| Series {
            team: team.map(|team| team.parse().expect("is a name")),
            kind,
            name: name.to_owned(),
        };
        let all = [
            series(None, SeriesKind::Operation, "commit_step"),
            series(None, SeriesKind::Counter, "commit_step"),
            series(Some("acme"), SeriesKind::Operation, "commit_step"),
            series(Some("acme"), SeriesKind::Operation, "step a/b"),
            series(Some("acme-a"), SeriesKind::Operation, "step a/b"),
        ];
        let ids: std::collections::BTreeSet<_> = all.iter().map(Series::id).collect();
        assert_eq!(ids.len(), all.len());
        // Rows are found by this id, so it may never change.
        let known = Series {
            team: None,
            kind: SeriesKind::Gauge,
            name: "queue_depth".to_owned(),
        }
        .id();
        assert_eq!(known.to_string(), "dd977afc-0eb1-8870-c721-4ed9fe7e8535");
    }

    #[test]
    fn steps_begin_at_their_multiples_before_1970_too() {
        let begin = |micros| {
            HistoryStep::Minute
                .begin(Timestamp::from_micros(micros))
                .as_micros()
        };
        assert_eq!(
            (begin(0), begin(59_999_999), begin(60_000_000), begin(-1)),
            (0, 0, 60_000_000, -60_000_000)
        );
    }

    #[test]
    fn gauges_are_averaged_over_time_and_added_over_hosts() {
        let query = HistoryQuery {
            team: None,
            kind: SeriesKind::Gauge,
            name: "queue_depth".to_owned(),
            from: Timestamp::default(),
            to: Timestamp::default(),
            step: HistoryStep::Fine,
            seconds: 60,
            own: false,
            rows_max: 9,
        };
        let row = |at: i64, host, sum, samples| {
            (
                at * 1_000_000,
                Uuid::nil(),
                Uuid::from_u128(host),
                sum,
                samples,
                Vec::new(),
            )
        };
        let rows = vec![
            row(0, 1, 10, 1),
            row(50, 1, 60, 2),
            row(10, 2, 5, 1),
            row(60, 2, 7, 1),
        ];
        let added = add_up(&query, rows).expect("adds up");
        let minute = Timestamp::from_micros(60_000_000);
        assert_eq!(
            added,
            [
                (Timestamp::default(), SummedCounts::Level(70.0 / 3.0 + 5.0)),
                (minute, SummedCounts::Level(7.0))
            ]
        );
    }
}
