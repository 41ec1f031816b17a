//! Alerts of all hosts, as rows in the database.
//!
//! The rows are the only state. An evaluation reads the active alerts, decides their new states and
//! writes them. So alerts survive a restart, and every host shows the same alerts.
//!
//! Every host evaluates its own numbers. An alert belongs to the host that wrote its row, and only
//! that host changes the row while the host lives. A unique index allows one active row for each
//! team, rule and subject. So a second host with the same problem adds nothing. When the first host
//! has recovered or is dead, the second host takes over. The numbers of all hosts are not merged:
//! each evaluation would need all of them, and one bad host would disappear among many good ones.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::backend::{Connection, with_backend};
use super::sql::{Bind, Sql};
use super::{Page, Store, StoreError, from_json, parse, to_json};
use crate::clock::Timestamp;
use crate::model::{AlertRule, AlertState, Name, Severity};
use crate::monitor::alerts::{Condition, Evidence, LastNotice, NoticeState, Reading};

/// The team column of alerts that belong to the host.
pub(super) const HOST: &str = "";
/// The largest number of active alerts that is read. Each of several hosts may write up to
/// `alerts.active_max` at once.
const ACTIVE_READ_MAX: u32 = 5_000;
/// The largest number of alerts deleted in one transaction.
const DELETED_MAX: u32 = 500;

const COLUMNS: &str = "SELECT id, host, team, rule, subject, severity, state, since, held_since, fired_at, resolved_at, \
    reading, acknowledged_by, acknowledged_at, acknowledged_comment, told, told_at FROM alerts";
/// Inserts an alert. Does nothing if another host has already written an active alert for the same
/// key.
const BEGIN: &str = "INSERT INTO alerts (id, host, team, rule, subject, severity, state, since, held_since, fired_at, \
    resolved_at, reading, told) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'nothing') \
    ON CONFLICT DO NOTHING";
/// Updates an alert if it still belongs to the host that owned it when it was read. If two hosts
/// take an alert over from a third, only one of them succeeds.
const GO_ON: &str = "UPDATE alerts SET host = $3, severity = $4, state = $5, held_since = $6, fired_at = $7, \
    resolved_at = $8, reading = $9 WHERE id = $1 AND host = $2 AND state <> 'resolved'";
const DROP: &str = "DELETE FROM alerts WHERE id = $1 AND host = $2 AND state = 'pending'";
const TELL: &str = "UPDATE alerts SET told = $2, told_at = $3 WHERE id = $1";
const ACKNOWLEDGE: &str = "UPDATE alerts SET acknowledged_by = $2, acknowledged_at = $3, acknowledged_comment = $4 \
    WHERE id = $1 AND state <> 'resolved'";
const LIVE_HOSTS: &str = "SELECT id FROM hosts \
    WHERE lease_until > (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::BIGINT";
pub(super) const NEWEST: &str = "SELECT resolved_at FROM alerts WHERE state = 'resolved' \
    ORDER BY resolved_at DESC LIMIT 1 OFFSET $1";
pub(super) const OLD: &str = "SELECT id FROM alerts WHERE state = 'resolved' AND resolved_at <= $1 \
    ORDER BY resolved_at LIMIT $2";

/// An alert.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alert {
    /// The id of the alert.
    pub id: Uuid,
    /// The rule, team and subject of the alert.
    #[serde(flatten)]
    pub key: AlertKey,
    /// The urgency of the alert.
    pub severity: Severity,
    /// The state of the alert, and the times at which it changed.
    #[serde(flatten)]
    pub condition: Condition,
    /// The reading of the latest evaluation.
    #[serde(flatten)]
    pub reading: AlertReading,
    /// The user who takes care of the alert, if any.
    pub acknowledged: Option<Acknowledgement>,
    /// The end of the silence that suppresses notifications of this alert; `None` without a
    /// silence.
    pub silenced_until: Option<Timestamp>,
    /// The last notification sent for the alert.
    #[serde(skip)]
    pub told: LastNotice,
    /// The host that evaluates the alert.
    #[serde(skip)]
    pub host: Uuid,
}

/// The identity of an alert. At most one alert for each key is active.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct AlertKey {
    /// The violated rule.
    pub rule: AlertRule,
    /// The team; `None` for the host.
    pub team: Option<Name>,
    /// The subject: the name of an operation, the kind of a cache, or `workflows`.
    pub subject: String,
}

impl AlertKey {
    /// Returns the key of a reading.
    pub fn of(reading: &Reading) -> Self {
        Self {
            rule: reading.rule,
            team: reading.team.clone(),
            subject: reading.subject.clone(),
        }
    }
}

/// A value that an evaluation compared with a threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertReading {
    /// The value, in `unit`.
    pub value: f64,
    /// The threshold. Values beyond the threshold are bad.
    pub threshold: f64,
    /// The unit: `ratio` or `ms`.
    pub unit: String,
    /// One sentence for people.
    pub message: String,
    /// The source of the value.
    pub evidence: Evidence,
}

impl From<&Reading> for AlertReading {
    fn from(reading: &Reading) -> Self {
        Self {
            value: reading.value,
            threshold: reading.limit.threshold,
            unit: reading.rule.unit().to_owned(),
            message: reading.message(),
            evidence: reading.evidence.clone(),
        }
    }
}

/// A user's statement to take care of an alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Acknowledgement {
    /// The user.
    pub by: String,
    /// The time of the acknowledgement.
    pub at: Timestamp,
    /// The user's comment.
    pub comment: Option<String>,
}

/// The alerts that an evaluation starts from.
#[derive(Clone, Debug, Default)]
pub struct WatchedAlerts {
    /// Pending and firing alerts of all hosts. Also the resolved alerts of this host and of dead
    /// hosts for which a notification of firing was the last.
    pub alerts: Vec<Alert>,
    /// The id of this host.
    pub own: Uuid,
    /// The ids of all live hosts.
    live: HashSet<Uuid>,
}

impl WatchedAlerts {
    /// Returns whether this host is responsible for an alert: the alert belongs to this host or to
    /// a dead host.
    pub fn is_ours(&self, alert: &Alert) -> bool {
        alert.host == self.own || !self.live.contains(&alert.host)
    }
}

/// The changes that an evaluation found. An alert that another host changed first is left as it is.
#[derive(Clone, Debug, Default)]
pub struct AlertChanges {
    /// New alerts.
    pub begun: Vec<Alert>,
    /// Alerts that continue or end. Their `host` is still the owner before this evaluation.
    pub changed: Vec<Alert>,
    /// Pending alerts that ended without firing.
    pub dropped: Vec<Alert>,
}

impl AlertChanges {
    /// Returns true if nothing has to be written.
    pub fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.changed.is_empty() && self.dropped.is_empty()
    }
}

#[derive(sqlx::FromRow)]
struct AlertRow {
    id: Uuid,
    host: Uuid,
    team: String,
    rule: String,
    subject: String,
    severity: String,
    state: String,
    since: i64,
    held_since: Option<i64>,
    fired_at: Option<i64>,
    resolved_at: Option<i64>,
    reading: String,
    acknowledged_by: Option<String>,
    acknowledged_at: Option<i64>,
    acknowledged_comment: Option<String>,
    told: String,
    told_at: Option<i64>,
}

impl AlertRow {
    fn into_alert(self) -> Result<Alert, StoreError> {
        let time = Timestamp::from_micros;
        let team = if self.team == HOST {
            None
        } else {
            Some(parse("an alert's team", &self.team)?)
        };
        let acknowledged = self.acknowledged_by.zip(self.acknowledged_at);
        Ok(Alert {
            id: self.id,
            key: AlertKey {
                rule: parse("an alert's rule", &self.rule)?,
                team,
                subject: self.subject,
            },
            severity: parse("an alert's severity", &self.severity)?,
            condition: Condition {
                state: parse("an alert's state", &self.state)?,
                since: time(self.since),
                held_since: self.held_since.map(time),
                fired_at: self.fired_at.map(time),
                resolved_at: self.resolved_at.map(time),
            },
            reading: from_json("what was read of an alert", &self.reading)?,
            acknowledged: acknowledged.map(|(by, at)| Acknowledgement {
                by,
                at: time(at),
                comment: self.acknowledged_comment,
            }),
            silenced_until: None,
            told: LastNotice {
                state: parse("who was told of an alert", &self.told)?,
                at: self.told_at.map(time),
            },
            host: self.host,
        })
    }
}

impl Store {
    /// Returns the pending and firing alerts of a team and of the host, or of all teams and hosts
    /// without a team. Firing alerts come first, and newer alerts before older ones.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn active_alerts(&self, team: Option<Name>) -> Result<Vec<Alert>, StoreError> {
        let mut alerts = self.read_alerts(vec![active(team.as_ref())]).await?;
        let place = |alert: &Alert| {
            (
                alert.condition.fired_at.or(Some(alert.condition.since)),
                alert.id,
            )
        };
        alerts.sort_unstable_by_key(|alert| {
            (alert.condition.state == AlertState::Firing, place(alert))
        });
        alerts.reverse();
        Ok(alerts)
    }

    /// Returns a page of the resolved alerts of a team and of the host, or of all without a team.
    /// The newest come first.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn resolved_alerts(
        &self,
        team: Option<Name>,
        page: Page,
    ) -> Result<Vec<Alert>, StoreError> {
        let parts = match &team {
            // One walk along the index for each of the two owners.
            Some(team) => [HOST, team.as_str()]
                .map(|team| resolved(Some(team), &page))
                .into(),
            None => vec![resolved(None, &page)],
        };
        let mut alerts = self.read_alerts(parts).await?;
        alerts.sort_unstable_by_key(|alert| std::cmp::Reverse(alert.id));
        alerts.truncate(page.limit as usize);
        Ok(alerts)
    }

    /// Returns the alerts that an evaluation starts from.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn watched_alerts(&self) -> Result<WatchedAlerts, StoreError> {
        let own = self.core().host.id;
        let alerts = self.read_alerts(vec![active(None), untold()]).await?;
        let store = self.clone();
        let live = self.detached(async move {
            let mut connection = store.read().await?;
            Ok(match *connection {
                // A SQLite file belongs to this process alone.
                Connection::Sqlite(_) => HashSet::from([own]),
                Connection::Postgres(_) => {
                    let ids: Vec<(Uuid,)> = Sql::new(LIVE_HOSTS).rows(&mut connection).await?;
                    ids.into_iter().map(|(id,)| id).collect()
                }
            })
        });
        let mut watched = WatchedAlerts {
            alerts,
            own,
            live: live.await?,
        };
        let alerts = std::mem::take(&mut watched.alerts);
        let concerns =
            |alert: &Alert| alert.condition.state != AlertState::Resolved || watched.is_ours(alert);
        watched.alerts = alerts.into_iter().filter(concerns).collect();
        Ok(watched)
    }

    async fn read_alerts(&self, parts: Vec<Sql>) -> Result<Vec<Alert>, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut connection = store.read().await?;
            let mut rows: Vec<AlertRow> = Vec::new();
            for part in parts {
                rows.extend(part.rows::<AlertRow>(&mut connection).await?);
            }
            rows.into_iter().map(AlertRow::into_alert).collect()
        })
        .await
    }

    /// Writes the changes of an evaluation, all or nothing. Returns the number of changed rows.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn write_alert_changes(&self, changes: AlertChanges) -> Result<u64, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let core = store.core();
            let mut transaction = core.backend.begin().await?;
            let mut written = 0;
            // All hosts write in the same order, so that no deadlock can occur.
            let sorted = |mut alerts: Vec<Alert>| {
                alerts.sort_unstable_by(|one, other| one.key.cmp(&other.key));
                alerts
            };
            for alert in sorted(changes.begun) {
                written += begin(&mut transaction, &alert).await?;
            }
            for alert in sorted(changes.changed) {
                written += go_on(&mut transaction, &alert, core.host.id).await?;
            }
            for Alert { id, host, .. } in sorted(changes.dropped) {
                written += with_backend!(transaction, c => {
                    sqlx::query(DROP).bind(id).bind(host).execute(c).await.map(|done| done.rows_affected())
                })?;
            }
            core.commit(transaction, &[]).await?;
            Ok(written)
        })
        .await
    }

    /// Records the notification that was sent for an alert.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn mark_alert_told(
        &self,
        id: Uuid,
        state: NoticeState,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut transaction = store.core().backend.begin().await?;
            with_backend!(transaction, c => sqlx::query(TELL)
                .bind(id)
                .bind(state.as_str())
                .bind(at.as_micros())
                .execute(c)
                .await
                .map(|_| ()))?;
            store.core().commit(transaction, &[]).await
        })
        .await
    }

    /// Acknowledges a pending or firing alert, and replaces an earlier acknowledgement. With a
    /// `team`, only alerts of that team are found.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such alert. [`StoreError::InUse`] if the alert is
    /// resolved. Errors of the database.
    pub async fn acknowledge_alert(
        &self,
        team: Option<Name>,
        id: Uuid,
        acknowledgement: Acknowledgement,
    ) -> Result<Alert, StoreError> {
        let known = self
            .read_alerts(vec![one(team.as_ref(), id)])
            .await?
            .pop()
            .ok_or(StoreError::NotFound)?;
        let (store, given) = (self.clone(), acknowledgement.clone());
        let changed = self.detached(async move {
            let mut transaction = store.core().backend.begin().await?;
            let changed = with_backend!(transaction, c => sqlx::query(ACKNOWLEDGE)
                .bind(id)
                .bind(given.by.as_str())
                .bind(given.at.as_micros())
                .bind(given.comment.as_deref())
                .execute(c)
                .await
                .map(|done| done.rows_affected()))?;
            store.core().commit(transaction, &[]).await?;
            Ok(changed)
        });
        if changed.await? == 0 {
            return Err(StoreError::InUse(
                "the alert is resolved: nobody has to look after it any more".to_owned(),
            ));
        }
        Ok(Alert {
            acknowledged: Some(acknowledgement),
            ..known
        })
    }

    /// Deletes resolved alerts that ended before `before`, or that are not among the `keep` newest.
    /// Deletes at most 500 alerts, and returns their number.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn delete_resolved_alerts(
        &self,
        before: Timestamp,
        keep: u32,
    ) -> Result<u64, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut transaction = store.core().backend.begin().await?;
            let newest = Sql::with_binds(NEWEST, vec![Bind::Number(keep.into())]);
            let newest: Vec<(i64,)> = newest.rows(&mut transaction).await?;
            let before = newest
                .first()
                .map_or(before.as_micros(), |(at,)| before.as_micros().max(*at));
            let old = Sql::with_binds(
                OLD,
                vec![Bind::Number(before), Bind::Number(DELETED_MAX.into())],
            );
            let old: Vec<(Uuid,)> = old.rows(&mut transaction).await?;
            if old.is_empty() {
                transaction.rollback().await?;
                return Ok(0);
            }
            let mut delete = Sql::new("DELETE FROM alerts WHERE id");
            delete.within(old.into_iter().map(|(id,)| Bind::Id(id)));
            let deleted = delete.execute(&mut transaction).await?;
            store.core().commit(transaction, &[]).await?;
            Ok(deleted)
        })
        .await
    }
}

async fn begin(connection: &mut Connection, alert: &Alert) -> Result<u64, StoreError> {
    let Alert {
        id,
        key,
        severity,
        condition,
        host,
        ..
    } = alert;
    let reading = to_json(&alert.reading)?;
    Ok(with_backend!(connection, c => sqlx::query(BEGIN)
        .bind(id)
        .bind(host)
        .bind(key.team.as_ref().map_or(HOST, Name::as_str))
        .bind(key.rule.as_str())
        .bind(key.subject.as_str())
        .bind(severity.as_str())
        .bind(condition.state.as_str())
        .bind(condition.since.as_micros())
        .bind(condition.held_since.map(Timestamp::as_micros))
        .bind(condition.fired_at.map(Timestamp::as_micros))
        .bind(condition.resolved_at.map(Timestamp::as_micros))
        .bind(reading.as_str())
        .execute(c)
        .await
        .map(|done| done.rows_affected()))?)
}

async fn go_on(connection: &mut Connection, alert: &Alert, own: Uuid) -> Result<u64, StoreError> {
    let Alert {
        id,
        severity,
        condition,
        host,
        ..
    } = alert;
    let reading = to_json(&alert.reading)?;
    Ok(with_backend!(connection, c => sqlx::query(GO_ON)
        .bind(id)
        .bind(host)
        .bind(own)
        .bind(severity.as_str())
        .bind(condition.state.as_str())
        .bind(condition.held_since.map(Timestamp::as_micros))
        .bind(condition.fired_at.map(Timestamp::as_micros))
        .bind(condition.resolved_at.map(Timestamp::as_micros))
        .bind(reading.as_str())
        .execute(c)
        .await
        .map(|done| done.rows_affected()))?)
}

pub(super) fn active(team: Option<&Name>) -> Sql {
    let mut sql = Sql::new(COLUMNS);
    sql.push(" WHERE state <> 'resolved' AND team");
    match team {
        Some(team) => sql.within([HOST.into(), team.as_str().into()]),
        None => sql.push(" >= ").bind(HOST.into()),
    };
    sql.push(" LIMIT ")
        .bind(Bind::Number(ACTIVE_READ_MAX.into()));
    sql
}

/// Selects resolved alerts whose last notification said that they fire.
pub(super) fn untold() -> Sql {
    let mut sql = Sql::new(COLUMNS);
    sql.push(" WHERE state = 'resolved' AND told = 'firing' ORDER BY id LIMIT ");
    sql.bind(Bind::Number(ACTIVE_READ_MAX.into()));
    sql
}

pub(super) fn resolved(team: Option<&str>, page: &Page) -> Sql {
    let mut sql = Sql::new(COLUMNS);
    sql.push(" WHERE state = 'resolved'");
    sql.and("team =", team.map(Bind::from))
        .and("id <", page.after.map(Bind::Id));
    sql.push(" ORDER BY id DESC LIMIT ")
        .bind(Bind::Number(page.limit.into()));
    sql
}

fn one(team: Option<&Name>, id: Uuid) -> Sql {
    let mut sql = Sql::new(COLUMNS);
    sql.push(" WHERE id = ")
        .bind(Bind::Id(id))
        .and("team =", team.map(|team| team.as_str().into()));
    sql
}
