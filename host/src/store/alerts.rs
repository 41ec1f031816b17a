//! Alerts: what is known of each, on all hosts.
//!
//! The rows are the only state. A look reads the active ones, works out what becomes of them, and writes that; so
//! alerts survive a restart, and a reader on any host sees the same. What surprises is who looks: every host at its own
//! numbers, but a row belongs to the host that wrote it, which alone changes it while it lives. A team, a rule and a
//! subject have one active row, by a unique index, so a second host that sees the same adds nothing; when the first one
//! is well again or gone, the second goes on. Merging the numbers of all hosts would need each of them at every look,
//! and a host that does badly would disappear among those that do well.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::backend::{Connection, on};
use super::sql::{Bind, Sql};
use super::{Page, Store, StoreError, from_json, parse, to_json};
use crate::clock::Timestamp;
use crate::model::{AlertRule, AlertState, Name, Severity};
use crate::monitor::alerts::{Condition, Evidence, Reading, Told, ToldState};

/// As a team: the host itself.
pub(super) const HOST: &str = "";
/// Active alerts of all hosts that are read: `alerts.active_max` of each may be written at once by several.
const ACTIVE_READ_MAX: u32 = 5_000;
/// Alerts that are deleted in one transaction.
const DELETED_MAX: u32 = 500;

const COLUMNS: &str = "SELECT id, host, team, rule, subject, severity, state, since, held_since, fired_at, resolved_at, \
    reading, acknowledged_by, acknowledged_at, acknowledged_comment, told, told_at FROM alerts";
/// No second row while one is active: another host was quicker.
const BEGIN: &str = "INSERT INTO alerts (id, host, team, rule, subject, severity, state, since, held_since, fired_at, \
    resolved_at, reading, told) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'nothing') \
    ON CONFLICT DO NOTHING";
/// Only of the host that had it when it was read, so that of two that take over from a third one wins.
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
    /// Its id.
    pub id: Uuid,
    /// Which rule, of what.
    #[serde(flatten)]
    pub key: AlertKey,
    /// How soon somebody should look.
    pub severity: Severity,
    /// How far it is.
    #[serde(flatten)]
    pub condition: Condition,
    /// What was read last.
    #[serde(flatten)]
    pub reading: AlertReading,
    /// Who looks after it.
    pub acknowledged: Option<Acknowledgement>,
    /// Until when nobody is told of it.
    pub silenced_until: Option<Timestamp>,
    /// What those who are told heard last.
    #[serde(skip)]
    pub told: Told,
    /// Which host looks at it.
    #[serde(skip)]
    pub host: Uuid,
}

/// What there is one active alert for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct AlertKey {
    /// What it breaks.
    pub rule: AlertRule,
    /// Whose; none for the host's own.
    pub team: Option<Name>,
    /// What it is about: an operation's name, a cache's kind, or `workflows`.
    pub subject: String,
}

impl AlertKey {
    /// What a reading is of.
    pub fn of(reading: &Reading) -> Self {
        Self {
            rule: reading.rule,
            team: reading.team.clone(),
            subject: reading.subject.clone(),
        }
    }
}

/// What a look read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertReading {
    /// In `unit`.
    pub value: f64,
    /// Beyond this it is bad.
    pub threshold: f64,
    /// `ratio` or `ms`.
    pub unit: String,
    /// One sentence for people.
    pub message: String,
    /// Where the value comes from.
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

/// Somebody looks after an alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Acknowledgement {
    /// Who.
    pub by: String,
    /// Since when.
    pub at: Timestamp,
    /// What they said.
    pub comment: Option<String>,
}

/// The alerts that a look finds.
#[derive(Clone, Debug, Default)]
pub struct WatchedAlerts {
    /// Pending and firing ones, of all hosts; and this host's resolved ones whose end was not told.
    pub alerts: Vec<Alert>,
    /// This host.
    pub own: Uuid,
    /// All hosts that live.
    live: HashSet<Uuid>,
}

impl WatchedAlerts {
    /// Whether an alert is this host's to look after: its own, or that of one that is gone.
    pub fn is_ours(&self, alert: &Alert) -> bool {
        alert.host == self.own || !self.live.contains(&alert.host)
    }
}

/// What a look found out. Alerts of which another host was quicker are left as they are.
#[derive(Clone, Debug, Default)]
pub struct AlertLook {
    /// Alerts that begin.
    pub begun: Vec<Alert>,
    /// Alerts that go on or end; `host` is still whose they were.
    pub changed: Vec<Alert>,
    /// Pending ones that came to nothing.
    pub dropped: Vec<Alert>,
}

impl AlertLook {
    /// Nothing is to be written.
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
            told: Told {
                state: parse("who was told of an alert", &self.told)?,
                at: self.told_at.map(time),
            },
            host: self.host,
        })
    }
}

impl Store {
    /// The alerts that are pending or firing and that the team may see: its own and the host's. Without a team, all.
    /// Those that fire come first, and of them the newest.
    ///
    /// # Errors
    /// The database's.
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

    /// A page of the resolved alerts, newest first, of those that the team may see; without a team, of all.
    ///
    /// # Errors
    /// The database's.
    pub async fn resolved_alerts(
        &self,
        team: Option<Name>,
        page: Page,
    ) -> Result<Vec<Alert>, StoreError> {
        let parts = match &team {
            // One walk along the index for each.
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

    /// What a look needs to know.
    ///
    /// # Errors
    /// The database's.
    pub async fn watched_alerts(&self) -> Result<WatchedAlerts, StoreError> {
        let own = self.core().host.id;
        let alerts = self.read_alerts(vec![active(None), untold()]).await?;
        let store = self.clone();
        let live = self.detached(async move {
            let mut connection = store.read().await?;
            Ok(match *connection {
                // The file is this process's alone.
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

    /// Writes what a look found out, all of it or nothing. Answers how many rows it changed.
    ///
    /// # Errors
    /// The database's.
    pub async fn write_look(&self, look: AlertLook) -> Result<u64, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let core = store.core();
            let mut writing = core.backend.begin().await?;
            let mut written = 0;
            // In one order on all hosts, so that no two wait for each other.
            let sorted = |mut alerts: Vec<Alert>| {
                alerts.sort_unstable_by(|one, other| one.key.cmp(&other.key));
                alerts
            };
            for alert in sorted(look.begun) {
                written += begin(&mut writing, &alert).await?;
            }
            for alert in sorted(look.changed) {
                written += go_on(&mut writing, &alert, core.host.id).await?;
            }
            for Alert { id, host, .. } in sorted(look.dropped) {
                written += on!(writing, c => {
                    sqlx::query(DROP).bind(id).bind(host).execute(c).await.map(|done| done.rows_affected())
                })?;
            }
            core.commit(writing, &[]).await?;
            Ok(written)
        })
        .await
    }

    /// Remembers what was told of an alert.
    ///
    /// # Errors
    /// The database's.
    pub async fn mark_alert_told(
        &self,
        id: Uuid,
        state: ToldState,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut writing = store.core().backend.begin().await?;
            on!(writing, c => sqlx::query(TELL)
                .bind(id)
                .bind(state.as_str())
                .bind(at.as_micros())
                .execute(c)
                .await
                .map(|_| ()))?;
            store.core().commit(writing, &[]).await
        })
        .await
    }

    /// Somebody looks after an alert that is pending or firing; who says so last counts. `team` is whose alerts may be
    /// meant: none is everybody's and the host's.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such alert of the team, [`StoreError::InUse`] if it is resolved.
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
            let mut writing = store.core().backend.begin().await?;
            let changed = on!(writing, c => sqlx::query(ACKNOWLEDGE)
                .bind(id)
                .bind(given.by.as_str())
                .bind(given.at.as_micros())
                .bind(given.comment.as_deref())
                .execute(c)
                .await
                .map(|done| done.rows_affected()))?;
            store.core().commit(writing, &[]).await?;
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

    /// Deletes resolved alerts that ended before `before` or that are not among the newest `keep`; at most a few
    /// hundred. Answers how many went.
    ///
    /// # Errors
    /// The database's.
    pub async fn delete_resolved_alerts(
        &self,
        before: Timestamp,
        keep: u32,
    ) -> Result<u64, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut writing = store.core().backend.begin().await?;
            let newest = Sql::with_binds(NEWEST, vec![Bind::Number(keep.into())]);
            let newest: Vec<(i64,)> = newest.rows(&mut writing).await?;
            let before = newest
                .first()
                .map_or(before.as_micros(), |(at,)| before.as_micros().max(*at));
            let old = Sql::with_binds(
                OLD,
                vec![Bind::Number(before), Bind::Number(DELETED_MAX.into())],
            );
            let old: Vec<(Uuid,)> = old.rows(&mut writing).await?;
            if old.is_empty() {
                writing.rollback().await?;
                return Ok(0);
            }
            let mut delete = Sql::new("DELETE FROM alerts WHERE id");
            delete.within(old.into_iter().map(|(id,)| Bind::Id(id)));
            let deleted = delete.execute(&mut writing).await?;
            store.core().commit(writing, &[]).await?;
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
    Ok(on!(connection, c => sqlx::query(BEGIN)
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
    Ok(on!(connection, c => sqlx::query(GO_ON)
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

/// Resolved ones of which it was told that they fire.
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
