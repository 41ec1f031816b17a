//! What each team has in the database: instances that have not ended, and bytes. Quotas are checked against it.
//!
//! Every transaction that changes it says by how much, and adds that to a row of the team and this host in the same
//! transaction ([`Core::commit_counted`]). So a crash loses nothing of it, and hosts on one Postgres database do not
//! wait for one another's rows. In memory the numbers of this host are exact; those of the others are as old as the last
//! renewal of the lease (`hosts.renewal`), so several hosts together may go beyond a quota by what the others commit in
//! that time. A recount ([`Store::recount_usage`]) puts right whatever has gone wrong all the same.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use serde::Serialize;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::backend::{Backend, Connection, Writing, on};
use super::rows::{self, Column};
use super::stale::Stale;
use super::{CommitError, Core, QUOTA_STORED, QUOTA_UNFINISHED, Store, StoreError, parse};
use crate::config::QuotasConfig;
use crate::model::Name;

/// What a row counts beside its texts and values. The same number stands in the texts below and in
/// migration 0012.
pub(super) const ROW_BYTES: i64 = 512;

/// Hosts do not recount at the same time: each would put the same drift right.
const RECOUNT_LOCK: i64 = i64::from_be_bytes(*b"sw-usage");

const ALL: &str = "SELECT team, host, unfinished, stored_bytes FROM team_usage";
const ADD: &str = "INSERT INTO team_usage (team, host, unfinished, stored_bytes) \
    SELECT * FROM {rows} WHERE given.column1 IS NOT NULL ON CONFLICT (team, host) DO UPDATE \
    SET unfinished = team_usage.unfinished + excluded.unfinished, \
    stored_bytes = team_usage.stored_bytes + excluded.stored_bytes";

/// What a row of `workflow_instances` counts.
pub(super) const INSTANCE_BYTES: &str = "512 + octet_length(pins) + octet_length(input) + octet_length(metadata) \
    + COALESCE(octet_length(output), 0) + COALESCE(octet_length(failure), 0)";
/// What a row of `step_attempts` counts.
pub(super) const ATTEMPT_BYTES: &str = "512 + COALESCE(octet_length(step_attempts.output), 0) \
    + COALESCE(octet_length(step_attempts.failure), 0)";
/// What a row of `workflow_approvals` counts.
pub(super) const APPROVAL_BYTES: &str =
    "512 + octet_length(title) + COALESCE(octet_length(comment), 0)";
/// What a row of `plugin_storage` counts.
pub(super) const ENTRY_BYTES: &str = "512 + octet_length(key) + octet_length(value)";

/// How much there is, or by how much it changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    /// Instances that have not ended.
    pub(super) unfinished: i64,
    /// Of rows, with their texts and values.
    pub(super) bytes: i64,
}

impl Amounts {
    pub(super) const fn bytes(bytes: i64) -> Self {
        Self {
            unfinished: 0,
            bytes,
        }
    }
}

impl std::ops::AddAssign for Amounts {
    fn add_assign(&mut self, other: Self) {
        self.unfinished = self.unfinished.saturating_add(other.unfinished);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// By how much a transaction changes what teams have.
pub(super) type Changes = BTreeMap<Name, Amounts>;

/// Adds to the changes of a team.
pub(super) fn change(changes: &mut Changes, team: &Name, by: Amounts) {
    match changes.get_mut(team) {
        Some(amounts) => *amounts += by,
        None => drop(changes.insert(team.clone(), by)),
    }
}

/// What a team has, and may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TeamUsage {
    /// The team.
    pub team: Name,
    /// Instances that have not ended.
    pub unfinished_instances: u64,
    /// `quotas.unfinished_instances_max`; none: there is no quota.
    pub unfinished_instances_max: Option<u64>,
    /// Bytes of inputs, outputs, failures, metadata, approvals and storage values, and 512 for each row.
    pub stored_bytes: u64,
    /// `quotas.stored_bytes_max`; none: there is no quota.
    pub stored_bytes_max: Option<u64>,
}

/// What is known of all teams.
#[derive(Debug)]
pub(super) struct Usage {
    quotas: QuotasConfig,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    teams: HashMap<Name, Known>,
    /// Transactions that are being committed. What is read meanwhile may have their changes, or not.
    committing: u32,
    /// Counts up with each begin and each end of a COMMIT.
    epoch: u64,
    /// A COMMIT failed, and may have happened all the same.
    doubted: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    own: Amounts,
    others: Amounts,
}

impl Known {
    fn total(self) -> Amounts {
        let mut total = self.own;
        total += self.others;
        total
    }
}

impl Usage {
    pub(super) fn new(quotas: &QuotasConfig) -> Self {
        Self {
            quotas: quotas.clone(),
            state: Mutex::new(State {
                doubted: true,
                ..State::default()
            }),
        }
    }

    /// Returns whether a team may have so much more, after `claimed` by others of the same transaction.
    ///
    /// # Errors
    /// [`CommitError::Rejected`] with the quota's code. What makes nothing more is never refused.
    pub(super) fn check(
        &self,
        team: &Name,
        claimed: Amounts,
        more: Amounts,
    ) -> Result<(), CommitError> {
        let mut after = self
            .state
            .lock()
            .teams
            .get(team)
            .copied()
            .unwrap_or_default()
            .total();
        after += claimed;
        after += more;
        let quota = self.quotas.of(team.as_str());
        if let Some(max) = quota.unfinished_instances_max
            && more.unfinished > 0
            && after.unfinished > i64::try_from(max).unwrap_or(i64::MAX)
        {
            let message = format!(
                "team {team} may have {max} instances that have not ended (quotas.unfinished_instances_max), and would \
                 have {}: wait until some have ended, or cancel some",
                after.unfinished
            );
            return Err(CommitError::Rejected {
                code: QUOTA_UNFINISHED,
                message,
            });
        }
        if let Some(max) = quota.stored_bytes_max
            && more.bytes > 0
            && after.bytes > i64::try_from(max).unwrap_or(i64::MAX)
        {
            let message = format!(
                "team {team} may store {max} bytes (quotas.stored_bytes_max), and would store {}: delete storage entries \
                 or finished instances",
                after.bytes
            );
            return Err(CommitError::Rejected {
                code: QUOTA_STORED,
                message,
            });
        }
        Ok(())
    }

    fn begin(&self) {
        let mut state = self.state.lock();
        state.committing += 1;
        state.epoch += 1;
    }

    fn end(&self, changes: &Changes, happened: bool) {
        let mut state = self.state.lock();
        state.committing = state.committing.saturating_sub(1);
        state.epoch += 1;
        if !happened {
            state.doubted = true;
            return;
        }
        for (team, by) in changes {
            match state.teams.get_mut(team) {
                Some(known) => known.own += *by,
                None => drop(state.teams.insert(
                    team.clone(),
                    Known {
                        own: *by,
                        ..Known::default()
                    },
                )),
            }
        }
    }

    fn shown(&self, team: &Name, known: Known) -> TeamUsage {
        let quota = self.quotas.of(team.as_str());
        let total = known.total();
        TeamUsage {
            team: team.clone(),
            unfinished_instances: u64::try_from(total.unfinished).unwrap_or(0),
            unfinished_instances_max: quota.unfinished_instances_max,
            stored_bytes: u64::try_from(total.bytes).unwrap_or(0),
            stored_bytes_max: quota.stored_bytes_max,
        }
    }
}

impl Core {
    /// As [`Core::commit`], with what the transaction changes of what teams have.
    pub(super) async fn commit_counted(
        &self,
        mut writing: Writing,
        stale: &[Stale],
        changes: &Changes,
    ) -> Result<(), StoreError> {
        add(&mut writing, self.host.id, changes).await?;
        self.usage.begin();
        let result = self.commit(writing, stale).await;
        self.usage.end(changes, result.is_ok());
        result
    }

    /// Reads what teams have if that is in doubt: at the start, and after a COMMIT whose answer was lost.
    pub(super) async fn settle_usage(&self) -> Result<(), StoreError> {
        if self.usage.state.lock().doubted {
            self.read_usage().await
        } else {
            Ok(())
        }
    }

    /// Reads what the other hosts have counted; and what this one has, if that is in doubt.
    pub(super) async fn read_usage(&self) -> Result<(), StoreError> {
        let (epoch, idle) = {
            let state = self.usage.state.lock();
            (state.epoch, state.committing == 0)
        };
        let mut connection = self.backend.read().await?;
        let rows: Vec<(String, Uuid, i64, i64)> =
            on!(connection, c => sqlx::query_as(ALL).fetch_all(c).await)?;
        drop(connection);
        let mut read: HashMap<Name, Known> = HashMap::new();
        for (team, host, unfinished, bytes) in rows {
            let known = read
                .entry(parse("a team that is counted", &team)?)
                .or_default();
            let amounts = if host == self.host.id {
                &mut known.own
            } else {
                &mut known.others
            };
            *amounts += Amounts { unfinished, bytes };
        }
        let mut state = self.usage.state.lock();
        if state.doubted && idle && state.epoch == epoch {
            (state.teams, state.doubted) = (read, false);
            return Ok(());
        }
        // A transaction ended meanwhile, so what was read of this host is older than what is known. The others' is news.
        state
            .teams
            .values_mut()
            .for_each(|known| known.others = Amounts::default());
        for (team, known) in read {
            state.teams.entry(team).or_default().others = known.others;
        }
        Ok(())
    }
}

impl Store {
    /// Returns what a team has and may have; without a team, of all that have or had something, by name.
    pub fn team_usage(&self, team: Option<&Name>) -> Vec<TeamUsage> {
        let usage = &self.core().usage;
        if let Some(team) = team {
            let known = usage
                .state
                .lock()
                .teams
                .get(team)
                .copied()
                .unwrap_or_default();
            return vec![usage.shown(team, known)];
        }
        let mut teams: Vec<_> = usage
            .state
            .lock()
            .teams
            .iter()
            .map(|(team, known)| (team.clone(), *known))
            .collect();
        teams.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        teams
            .into_iter()
            .map(|(team, known)| usage.shown(&team, known))
            .collect()
    }

    /// Counts again what teams have, and puts right what was counted wrongly. Answers the teams that this concerned.
    /// Reads every instance, attempt, approval and storage entry, though not their long values. On Postgres only one
    /// host does it at a time.
    ///
    /// # Errors
    /// The database's.
    pub async fn recount_usage(&self) -> Result<Vec<Name>, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let core = store.core();
            let (drift, writing) = match &core.backend {
                // What is committed meanwhile changes what is there and what is counted alike, so the drift stays.
                Backend::Sqlite { .. } => {
                    let mut reading = core.backend.read().await?;
                    let drift = drift(&mut reading).await?;
                    drop(reading);
                    (drift, core.backend.begin().await?)
                }
                Backend::Postgres(_) => {
                    let mut writing = core.backend.begin().await?;
                    if !alone(&mut writing).await? {
                        writing.rollback().await?;
                        return Ok(Vec::new());
                    }
                    (drift(&mut writing).await?, writing)
                }
            };
            if drift.is_empty() {
                writing.rollback().await?;
            } else {
                core.commit_counted(writing, &[], &drift).await?;
            }
            Ok(drift.into_keys().collect())
        })
        .await
    }
}

/// Returns whether no other host recounts. Gives the transaction the time that it needs.
async fn alone(writing: &mut Writing) -> Result<bool, StoreError> {
    let Connection::Postgres(c) = &mut **writing else {
        return Ok(true);
    };
    sqlx::query("SET LOCAL statement_timeout = 0")
        .execute(&mut **c)
        .await?;
    Ok(sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
        .bind(RECOUNT_LOCK)
        .fetch_one(&mut **c)
        .await?)
}

/// What is there, less what is counted, of each team where the two differ. One statement sees one state of the database.
fn drift_sql() -> String {
    format!(
        "SELECT team, CAST(SUM(unfinished) AS BIGINT), CAST(SUM(stored_bytes) AS BIGINT) FROM ( \
         SELECT team, SUM(CASE WHEN completed_at IS NULL THEN 1 ELSE 0 END) AS unfinished, \
             SUM({INSTANCE_BYTES}) AS stored_bytes FROM workflow_instances GROUP BY team \
         UNION ALL SELECT workflow_instances.team, 0, SUM({ATTEMPT_BYTES}) FROM step_attempts \
             JOIN workflow_instances ON workflow_instances.id = step_attempts.instance_id \
             GROUP BY workflow_instances.team \
         UNION ALL SELECT team, 0, SUM({APPROVAL_BYTES}) FROM workflow_approvals GROUP BY team \
         UNION ALL SELECT team, 0, SUM({ENTRY_BYTES}) FROM plugin_storage GROUP BY team \
         UNION ALL SELECT team, -SUM(unfinished), -SUM(stored_bytes) FROM team_usage GROUP BY team \
         ) AS counted GROUP BY team HAVING SUM(unfinished) <> 0 OR SUM(stored_bytes) <> 0"
    )
}

async fn drift(connection: &mut Connection) -> Result<Changes, StoreError> {
    let sql = drift_sql();
    let rows: Vec<(String, i64, i64)> =
        on!(connection, c => sqlx::query_as(AssertSqlSafe(sql)).fetch_all(c).await)?;
    let amounts = |(team, unfinished, bytes): (String, i64, i64)| {
        Ok((
            parse("a team that is counted", &team)?,
            Amounts { unfinished, bytes },
        ))
    };
    rows.into_iter().map(amounts).collect()
}

async fn add(connection: &mut Connection, host: Uuid, changes: &Changes) -> Result<(), StoreError> {
    type Row<'a> = (&'a Name, Uuid, Amounts);
    let columns = [
        Column::Text(|(team, ..): &Row| team.as_str()),
        Column::Uuid(|(_, host, _)| *host),
        Column::Integer(|(.., by)| by.unfinished),
        Column::Integer(|(.., by)| by.bytes),
    ];
    let changed = changes.iter().filter(|(_, by)| **by != Amounts::default());
    let rows: Vec<Row> = changed.map(|(team, by)| (team, host, *by)).collect();
    rows::execute(connection, ADD, &columns, &rows)
        .await
        .map(|_| ())
}
