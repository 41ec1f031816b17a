//! The monitor's numbers over time: points of 10 seconds, of a minute and of an hour.
//!
//! Each host writes rows of its own, and always the whole of what it has counted within the step: written twice, after
//! a COMMIT that nobody answered for example, a point is the same, and a coarse point never has to be put together from
//! fine ones. What is read is added up, over hosts and over time.
//!
//! A series that is always busy has, on each host, 2,160 points of 10 seconds, 10,080 of a minute and 9,600 of an hour
//! with the default retentions. A row takes about 100 bytes beside its durations, which take about as much.

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

/// The team of what is the host's own.
const HOST: &str = "";
/// Series that a list shows.
const SERIES_SHOWN_MAX: u32 = 5_000;

/// How far apart points are.
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
    /// From the finest to the coarsest.
    pub const ALL: [Self; 3] = [Self::Fine, Self::Minute, Self::Hour];

    /// Its length.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Fine => 10,
            Self::Minute => 60,
            Self::Hour => 3_600,
        }
    }

    /// The beginning of the step that a time is in.
    pub fn begin(self, time: Timestamp) -> Timestamp {
        floor(time, self.seconds())
    }
}

fn floor(time: Timestamp, seconds: u64) -> Timestamp {
    let micros = signed(seconds.saturating_mul(1_000_000)).max(1);
    Timestamp::from_micros(time.as_micros().div_euclid(micros).saturating_mul(micros))
}

/// What kind of numbers a series has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SeriesKind {
    /// Calls and how long they took.
    Operation,
    /// How often something happened.
    Counter,
    /// How much of something there was.
    Gauge,
}

impl SeriesKind {
    const ALL: [Self; 3] = [Self::Operation, Self::Counter, Self::Gauge];

    /// As in the database and in JSON.
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

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Series {
    /// Whose it is; none: the host's own.
    pub team: Option<Name>,
    /// What its numbers are.
    pub kind: SeriesKind,
    /// Such as `commit_step`.
    pub name: String,
}

impl Series {
    /// Neither a team nor a kind has a character of zero, so no two series run together.
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

/// What was counted within a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Counted {
    /// Of an operation.
    Calls(Timings),
    /// Of a counter.
    Events(u64),
    /// Of a gauge, which was looked at now and then: the sum of what was seen, and how often that was.
    Level {
        /// Of all looks.
        sum: u64,
        /// Looks.
        samples: u64,
    },
}

impl Counted {
    /// Adds what was counted at another time. Kinds do not mix: then nothing is added.
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

    fn read(kind: SeriesKind, row: &CountedRow) -> Result<Self, StoreError> {
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

/// `value`, `samples`, `timings`: of an operation its calls, its errors and all there is; of others the first two.
type CountedRow = (i64, i64, Vec<u8>);

/// What this host has counted within one step.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryPoint {
    /// What.
    pub series: Series,
    /// The length of the step.
    pub step: HistoryStep,
    /// Its beginning.
    pub at: Timestamp,
    /// How much.
    pub counted: Counted,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// What this team may see: its own, and the host's. None: everything.
    pub team: Option<Name>,
    /// What its numbers are.
    pub kind: SeriesKind,
    /// What it is called.
    pub name: String,
    /// From the beginning of a step.
    pub from: Timestamp,
    /// Before this time.
    pub to: Timestamp,
    /// The points that are read.
    pub step: HistoryStep,
    /// What they are added up to: a multiple of the step.
    pub seconds: u64,
    /// Only what this host has counted, and not what others on the same database have.
    pub own: bool,
    /// Most rows that are read.
    pub rows_max: u32,
}

/// All hosts' numbers within one step.
#[derive(Clone, Debug, PartialEq)]
pub enum Added {
    /// Of an operation.
    Calls(Timings),
    /// Of a counter.
    Events(u64),
    /// Of a gauge: what there was on average, all hosts together.
    Level(f64),
}

/// `at`, `series_id`, `host` and a [`CountedRow`].
type AddedRow = (i64, Uuid, Uuid, i64, i64, Vec<u8>);

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

/// Two unique indexes say the same of a series, and another host may write it at this moment: Postgres waits for that only
/// at those indexes that the conflict is about, so it is about both.
const INSERT_SERIES: &str = "INSERT INTO history_series (id, team, kind, name) \
    SELECT * FROM {rows} WHERE given.column1 IS NOT NULL ON CONFLICT DO NOTHING";
const WRITE_POINTS: &str = "INSERT INTO history_points (series_id, step, at, host, value, samples, timings) \
    SELECT * FROM {rows} WHERE given.column1 IS NOT NULL ON CONFLICT (series_id, step, at, host) \
    DO UPDATE SET value = excluded.value, samples = excluded.samples, timings = excluded.timings";
/// What one host has counted within one step, of all series.
pub(super) const OF_HOST: &str = "SELECT s.team, s.kind, s.name, p.value, p.samples, p.timings FROM history_points p \
    JOIN history_series s ON s.id = p.series_id WHERE p.step = $1 AND p.at = $2 AND p.host = $3";
pub(super) const OLD: &str = "FROM history_points WHERE step = $1 AND at < $2 ORDER BY at LIMIT $3";
const EMPTY_SERIES: &str = "DELETE FROM history_series WHERE NOT EXISTS \
    (SELECT 1 FROM history_points p WHERE p.series_id = history_series.id)";

impl Store {
    /// Writes points of this host, in transactions of at most `batch` points. Each replaces what was written of the
    /// same series and step before. No two points may be of the same series and step. Answers how many were written,
    /// from the beginning, and why not all if they were not.
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
                    Counted::Calls(calls) => calls.to_bytes(),
                    Counted::Events(_) | Counted::Level { .. } => Vec::new(),
                },
            });
        }
        // In one order on all hosts, so that no two wait for each other.
        rows.sort_unstable_by_key(|row| (row.series, row.step, row.at));
        let series: Vec<_> = series
            .into_iter()
            .map(|(id, series)| SeriesRow {
                id,
                series: series.clone(),
            })
            .collect();
        let mut writing = core.backend.begin().await?;
        let columns = [
            Column::Uuid(|row: &SeriesRow| row.id),
            Column::Text(|row| row.series.team_text()),
            Column::Text(|row| row.series.kind.as_str()),
            Column::Text(|row| &row.series.name),
        ];
        rows::execute(&mut writing, INSERT_SERIES, &columns, &series).await?;
        let columns = [
            Column::Uuid(|row: &PointRow| row.series),
            Column::Integer(|row| row.step),
            Column::Integer(|row| row.at),
            Column::Uuid(|row| row.host),
            Column::Integer(|row| row.value),
            Column::Integer(|row| row.samples),
            Column::Bytes(|row| &row.timings),
        ];
        rows::execute(&mut writing, WRITE_POINTS, &columns, &rows).await?;
        core.commit(writing, &[]).await
    }

    /// What this host has written of the step that begins at a time, before a restart for example.
    ///
    /// # Errors
    /// The database's.
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
                    let counted = Counted::read(kind, &(value, samples, timings))?;
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

    /// A series' points in a period, in order; steps without any are left out. None if that would be more than
    /// `rows_max` rows.
    ///
    /// # Errors
    /// The database's.
    pub async fn history(
        &self,
        query: HistoryQuery,
    ) -> Result<Option<Vec<(Timestamp, Added)>>, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut connection = store.read().await?;
            let ids: Vec<(Uuid,)> = named(&query).rows(&mut connection).await?;
            if ids.is_empty() {
                return Ok(Some(Vec::new()));
            }
            let host = query.own.then_some(store.core().host.id);
            let ids = ids.into_iter().map(|(id,)| id);
            let rows: Vec<AddedRow> = points(&query, ids, host).rows(&mut connection).await?;
            drop(connection);
            if rows.len() > query.rows_max as usize {
                return Ok(None);
            }
            add_up(&query, rows).map(Some)
        })
        .await
    }

    /// The series that have points in a period, sorted: at most 5,000.
    ///
    /// # Errors
    /// The database's.
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

    /// Deletes points that are older than `before`, at most `limit`, in one transaction, and says how many.
    ///
    /// # Errors
    /// The database's.
    pub async fn delete_history(
        &self,
        step: HistoryStep,
        before: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut writing = store.core().backend.begin().await?;
            // Each database has a name of its own for where a row is. On Postgres another host may be deleting the same
            // rows.
            let text = match &*writing {
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
            let deleted = Sql::with_binds(&text, binds).execute(&mut writing).await?;
            store.core().commit(writing, &[]).await?;
            Ok(deleted)
        })
        .await
    }

    /// Deletes series of which there are no points any more, and says how many.
    ///
    /// # Errors
    /// The database's.
    pub async fn delete_empty_series(&self) -> Result<u64, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut writing = store.core().backend.begin().await?;
            let deleted = Sql::new(EMPTY_SERIES).execute(&mut writing).await?;
            store.core().commit(writing, &[]).await?;
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

/// The series of a name that a team may see.
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

/// Of one host or, without one, of all. One row more than there may be, so that it is seen when there are more.
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

/// The series of a team, and the host's, that have points in a period.
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
    rows: Vec<AddedRow>,
) -> Result<Vec<(Timestamp, Added)>, StoreError> {
    // By series and host within a step: what a gauge showed over time is averaged, and what several had is added.
    let mut steps: BTreeMap<Timestamp, BTreeMap<(Uuid, Uuid), Counted>> = BTreeMap::new();
    for (at, series, host, value, samples, timings) in rows {
        let counted = Counted::read(query.kind, &(value, samples, timings))?;
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
    let added =
        |parts: BTreeMap<_, Counted>| parts.into_values().map(Added::from).reduce(Added::and);
    Ok(steps
        .into_iter()
        .filter_map(|(at, parts)| Some((at, added(parts)?)))
        .collect())
}

impl From<Counted> for Added {
    fn from(counted: Counted) -> Self {
        match counted {
            Counted::Calls(calls) => Self::Calls(calls),
            Counted::Events(events) => Self::Events(events),
            Counted::Level { sum, samples } => Self::Level(sum as f64 / samples.max(1) as f64),
        }
    }
}

impl Added {
    /// Both together, of one kind.
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
        // Rows are found by it, so it may never change.
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
                (Timestamp::default(), Added::Level(70.0 / 3.0 + 5.0)),
                (minute, Added::Level(7.0))
            ]
        );
    }
}
