//! The usage of each team: unfinished instances, stored bytes and workflow versions. Quotas are checked against it.
//!
//! A transaction that changes a team's usage adds the change to a row of that team and this host
//! ([`Core::commit_counted`]). So a crash loses no change, and hosts on one Postgres database do
//! not wait for each other's rows. In memory the numbers of this host are exact. The numbers of the
//! other hosts are as old as the last lease renewal (`hosts.renewal`). So several hosts together
//! may exceed a quota by the amount that the others commit in that time. A recount
//! ([`Store::recount_usage`]) corrects any remaining error.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use serde::Serialize;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::backend::{Backend, Connection, Transaction, with_backend};
use super::invalidation::Invalidation;
use super::rows::Column;
use super::{
    CommitError, Core, QUOTA_STORED, QUOTA_UNFINISHED, QUOTA_VERSIONS, Store, StoreError, parse,
};
use crate::config::QuotasConfig;
use crate::model::Name;

/// The size of a row without its texts and values, in bytes. The SQL texts below and migration 0012
/// contain the same number.
pub(super) const ROW_BYTES: i64 = 512;

/// The advisory lock of a recount. Two hosts that recount at once would both correct the same
/// drift.
const RECOUNT_LOCK: i64 = i64::from_be_bytes(*b"sw-usage");

const ALL: &str = "SELECT team, host, unfinished, stored_bytes, workflow_versions FROM team_usage";
const ADD: &str = "INSERT INTO team_usage (team, host, unfinished, stored_bytes, workflow_versions) \
    SELECT * FROM {rows} WHERE given.column1 IS NOT NULL ON CONFLICT (team, host) DO UPDATE \
    SET unfinished = team_usage.unfinished + excluded.unfinished, \
    stored_bytes = team_usage.stored_bytes + excluded.stored_bytes, \
    workflow_versions = team_usage.workflow_versions + excluded.workflow_versions";

/// The counted size of a row of `workflow_instances`, as SQL.
pub(super) const INSTANCE_BYTES: &str = "512 + octet_length(pins) + octet_length(input) + octet_length(metadata) \
    + COALESCE(octet_length(output), 0) + COALESCE(octet_length(failure), 0)";
/// The counted size of a row of `step_attempts`, as SQL.
pub(super) const ATTEMPT_BYTES: &str = "512 + COALESCE(octet_length(step_attempts.output), 0) \
    + COALESCE(octet_length(step_attempts.failure), 0)";
/// The counted size of a row of `workflow_approvals`, as SQL.
pub(super) const APPROVAL_BYTES: &str =
    "512 + octet_length(title) + COALESCE(octet_length(comment), 0)";
/// The counted size of a row of `plugin_storage`, as SQL.
pub(super) const ENTRY_BYTES: &str = "512 + octet_length(key) + octet_length(value)";

/// A usage, or a change of usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    /// Instances that have not ended.
    pub(super) unfinished: i64,
    /// The size of rows with their texts and values, in bytes.
    pub(super) bytes: i64,
    /// Versions of workflows.
    pub(super) versions: i64,
}

impl Amounts {
    pub(super) const fn bytes(bytes: i64) -> Self {
        Self {
            unfinished: 0,
            bytes,
            versions: 0,
        }
    }
}

impl std::ops::AddAssign for Amounts {
    fn add_assign(&mut self, other: Self) {
        self.unfinished = self.unfinished.saturating_add(other.unfinished);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.versions = self.versions.saturating_add(other.versions);
    }
}

/// The changes of a transaction by team.
pub(super) type Changes = BTreeMap<Name, Amounts>;

/// Adds to the change of a team.
pub(super) fn change(changes: &mut Changes, team: &Name, by: Amounts) {
    match changes.get_mut(team) {
        Some(amounts) => *amounts += by,
        None => drop(changes.insert(team.clone(), by)),
    }
}

/// The usage of a team, and its quotas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TeamUsage {
    /// The team.
    pub team: Name,
    /// Instances that have not ended.
    pub unfinished_instances: u64,
    /// The quota `quotas.unfinished_instances_max`; `None` for no quota.
    pub unfinished_instances_max: Option<u64>,
    /// Bytes of inputs, outputs, failures, metadata, approvals and storage values, and 512 bytes
    /// for each row.
    pub stored_bytes: u64,
    /// The quota `quotas.stored_bytes_max`; `None` for no quota.
    pub stored_bytes_max: Option<u64>,
    /// Versions of all workflows.
    pub workflow_versions: u64,
    /// The quota `quotas.workflow_versions_max`; `None` for no quota.
    pub workflow_versions_max: Option<u64>,
}

/// The known usage of all teams.
#[derive(Debug)]
pub(super) struct Usage {
    quotas: QuotasConfig,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    teams: HashMap<Name, Known>,
    /// The number of transactions that are being committed. A read at the same time may see their
    /// changes or not.
    committing: u32,
    /// Incremented at each begin and each end of a COMMIT.
    epoch: u64,
    /// True after a COMMIT failed that may nevertheless have happened.
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

    /// Checks a team's quotas for a further change of `more`, on top of the changes `claimed` by
    /// other jobs of the same transaction.
    ///
    /// # Errors
    /// [`CommitError::Rejected`] with the quota's code. A change that increases nothing is never
    /// refused.
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
        if let Some(max) = quota.workflow_versions_max
            && more.versions > 0
            && after.versions > i64::try_from(max).unwrap_or(i64::MAX)
        {
            let message = format!(
                "team {team} may have {max} versions of workflows (quotas.workflow_versions_max), and would have {}: \
                 apply definitions only when they change, or ask an operator for a higher quota",
                after.versions
            );
            return Err(CommitError::Rejected {
                code: QUOTA_VERSIONS,
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
            workflow_versions: u64::try_from(total.versions).unwrap_or(0),
            workflow_versions_max: quota.workflow_versions_max,
        }
    }
}

impl Core {
    /// Commits as [`Core::commit`] does, and records the changes of the teams' usage.
    pub(super) async fn commit_counted(
        &self,
        mut transaction: Transaction,
        invalidations: &[Invalidation],
        changes: &Changes,
    ) -> Result<(), StoreError> {
        add(&mut transaction, self.host.id, changes).await?;
        self.usage.begin();
        let result = self.commit(transaction, invalidations).await;
        self.usage.end(changes, result.is_ok());
        result
    }

    /// Reads the usage if it is in doubt: at the start, and after a COMMIT whose result was lost.
    pub(super) async fn settle_usage(&self) -> Result<(), StoreError> {
        if self.usage.state.lock().doubted {
            self.read_usage().await
        } else {
            Ok(())
        }
    }

    /// Reads the usage that other hosts have recorded. Also reads this host's own if it is in
    /// doubt.
    pub(super) async fn read_usage(&self) -> Result<(), StoreError> {
        let (epoch, idle) = {
            let state = self.usage.state.lock();
            (state.epoch, state.committing == 0)
        };
        let mut connection = self.backend.read().await?;
        let rows: Vec<(String, Uuid, i64, i64, i64)> =
            with_backend!(connection, c => sqlx::query_as(ALL).fetch_all(c).await)?;
        drop(connection);
        let mut read: HashMap<Name, Known> = HashMap::new();
        for (team, host, unfinished, bytes, versions) in rows {
            let known = read
                .entry(parse("a team that is counted", &team)?)
                .or_default();
            let amounts = if host == self.host.id {
                &mut known.own
            } else {
                &mut known.others
            };
            *amounts += Amounts {
                unfinished,
                bytes,
                versions,
            };
        }
        let mut state = self.usage.state.lock();
        if state.doubted && idle && state.epoch == epoch {
            (state.teams, state.doubted) = (read, false);
            return Ok(());
        }
        // A transaction began or ended meanwhile, so the numbers read for this host may be older
        // than those in memory. Only the other hosts' numbers are used.
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
    /// Returns the usage and quotas of a team; without a team, of all teams with any recorded
    /// usage, sorted by name.
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

    /// Counts the usage of all teams again, corrects the recorded usage, and returns the teams that
    /// had to be corrected. Reads every instance, attempt, approval and storage entry, but not
    /// their long values. On Postgres only one host recounts at a time.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn recount_usage(&self) -> Result<Vec<Name>, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let core = store.core();
            let (drift, transaction) = match &core.backend {
                // A concurrent commit changes the rows and the recorded usage alike, so the drift
                // stays the same.
                Backend::Sqlite { .. } => {
                    let mut reading = core.backend.read().await?;
                    let drift = drift(&mut reading).await?;
                    drop(reading);
                    (drift, core.backend.begin().await?)
                }
                Backend::Postgres(_) => {
                    let mut transaction = core.backend.begin().await?;
                    if !alone(&mut transaction).await? {
                        transaction.rollback().await?;
                        return Ok(Vec::new());
                    }
                    (drift(&mut transaction).await?, transaction)
                }
            };
            if drift.is_empty() {
                transaction.rollback().await?;
            } else {
                core.commit_counted(transaction, &[], &drift).await?;
            }
            Ok(drift.into_keys().collect())
        })
        .await
    }
}

/// Returns whether no other host recounts. Lifts the statement timeout of the transaction, because
/// a recount takes long.
async fn alone(transaction: &mut Transaction) -> Result<bool, StoreError> {
    let Connection::Postgres(c) = &mut **transaction else {
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

/// Selects the teams whose rows differ from their recorded usage, with the difference. One
/// statement sees one state of the database.
fn drift_sql() -> String {
    format!(
        "SELECT team, CAST(SUM(unfinished) AS BIGINT), CAST(SUM(stored_bytes) AS BIGINT), \
             CAST(SUM(workflow_versions) AS BIGINT) FROM ( \
         SELECT team, SUM(CASE WHEN completed_at IS NULL THEN 1 ELSE 0 END) AS unfinished, \
             SUM({INSTANCE_BYTES}) AS stored_bytes, 0 AS workflow_versions FROM workflow_instances GROUP BY team \
         UNION ALL SELECT workflow_instances.team, 0, SUM({ATTEMPT_BYTES}), 0 FROM step_attempts \
             JOIN workflow_instances ON workflow_instances.id = step_attempts.instance_id \
             GROUP BY workflow_instances.team \
         UNION ALL SELECT team, 0, SUM({APPROVAL_BYTES}), 0 FROM workflow_approvals GROUP BY team \
         UNION ALL SELECT team, 0, SUM({ENTRY_BYTES}), 0 FROM plugin_storage GROUP BY team \
         UNION ALL SELECT workflows.team, 0, 0, COUNT(*) FROM workflow_versions \
             JOIN workflows ON workflows.id = workflow_versions.workflow_id GROUP BY workflows.team \
         UNION ALL SELECT team, -SUM(unfinished), -SUM(stored_bytes), -SUM(workflow_versions) FROM team_usage GROUP BY team \
         ) AS counted GROUP BY team HAVING SUM(unfinished) <> 0 OR SUM(stored_bytes) <> 0 \
             OR SUM(workflow_versions) <> 0"
    )
}

async fn drift(connection: &mut Connection) -> Result<Changes, StoreError> {
    let sql = drift_sql();
    let rows: Vec<(String, i64, i64, i64)> =
        with_backend!(connection, c => sqlx::query_as(AssertSqlSafe(sql)).fetch_all(c).await)?;
    let amounts = |(team, unfinished, bytes, versions): (String, i64, i64, i64)| {
        Ok((
            parse("a team that is counted", &team)?,
            Amounts {
                unfinished,
                bytes,
                versions,
            },
        ))
    };
    rows.into_iter().map(amounts).collect()
}

async fn add(
    transaction: &mut Transaction,
    host: Uuid,
    changes: &Changes,
) -> Result<(), StoreError> {
    type Row<'a> = (&'a Name, Uuid, Amounts);
    let columns = [
        Column::Text(|(team, ..): &Row| team.as_str()),
        Column::Uuid(|(_, host, _)| *host),
        Column::Integer(|(.., by)| by.unfinished),
        Column::Integer(|(.., by)| by.bytes),
        Column::Integer(|(.., by)| by.versions),
    ];
    let changed = changes.iter().filter(|(_, by)| **by != Amounts::default());
    let rows: Vec<Row> = changed.map(|(team, by)| (team, host, *by)).collect();
    transaction.write_last(ADD, &columns, &rows).await
}
