//! Silences: they suppress notifications of alerts for a while, but hide no alert.

use serde::Serialize;
use uuid::Uuid;

use super::alerts::{AlertKey, HOST};
use super::backend::with_backend;
use super::sql::{Bind, Sql};
use super::{KeyedRequest, Store, StoreError, idempotency, parse};
use crate::clock::Timestamp;
use crate::model::{AlertRule, Name, Pattern};

/// The largest number of silences that is read, for all teams together.
const SILENCES_READ_MAX: u32 = 10_000;

const INSERT: &str = "INSERT INTO alert_silences (id, team, rule, subject, comment, created_by, created_at, until) \
    SELECT $1, $2, $3, $4, $5, $6, $7, $8 \
    WHERE (SELECT COUNT(*) FROM alert_silences WHERE team = $2 AND until > $7) < $9";
const DELETE: &str = "DELETE FROM alert_silences WHERE id = ";

/// A silence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Silence {
    /// The id of the silence.
    pub id: Uuid,
    /// The team whose alerts are silenced; `None` for the alerts of all teams and of the host.
    pub team: Option<Name>,
    /// Only alerts of this rule, if set.
    pub rule: Option<AlertRule>,
    /// Only alerts whose subject matches this pattern, if set.
    pub subject: Option<Pattern>,
    /// The reason for the silence.
    pub comment: String,
    /// The user who created the silence.
    pub created_by: String,
    /// The time of creation.
    pub created_at: Timestamp,
    /// The time at which the silence ends.
    pub until: Timestamp,
}

impl Silence {
    /// Returns whether the silence covers an alert, regardless of its end.
    pub fn is_about(&self, key: &AlertKey) -> bool {
        (self.team.is_none() || self.team == key.team)
            && self.rule.is_none_or(|rule| rule == key.rule)
            && self
                .subject
                .as_ref()
                .is_none_or(|subject| subject.matches(&key.subject))
    }
}

#[derive(sqlx::FromRow)]
struct SilenceRow {
    id: Uuid,
    team: String,
    rule: Option<String>,
    subject: Option<String>,
    comment: String,
    created_by: String,
    created_at: i64,
    until: i64,
}

impl SilenceRow {
    fn into_silence(self) -> Result<Silence, StoreError> {
        Ok(Silence {
            id: self.id,
            team: if self.team == HOST {
                None
            } else {
                Some(parse("a silence's team", &self.team)?)
            },
            rule: self
                .rule
                .map(|rule| parse("a silence's rule", &rule))
                .transpose()?,
            subject: self
                .subject
                .map(|subject| parse("a silence's subject", &subject))
                .transpose()?,
            comment: self.comment,
            created_by: self.created_by,
            created_at: Timestamp::from_micros(self.created_at),
            until: Timestamp::from_micros(self.until),
        })
    }
}

impl Store {
    /// Inserts a silence. Returns false, and inserts nothing, if the team already has `most`
    /// silences that have not ended. For a keyed request, the response is stored in the same
    /// transaction.
    ///
    /// # Errors
    /// [`StoreError::Constraint`] if the same request was answered meanwhile. Errors of the
    /// database.
    pub async fn insert_silence(
        &self,
        silence: Silence,
        most: u32,
        keyed: Option<(KeyedRequest, String)>,
    ) -> Result<bool, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let Silence {
                id,
                team,
                rule,
                subject,
                comment,
                created_by,
                created_at,
                until,
            } = silence;
            let mut transaction = store.core().backend.begin().await?;
            let inserted = with_backend!(transaction, c => sqlx::query(INSERT)
                .bind(id)
                .bind(team.as_ref().map_or(HOST, Name::as_str))
                .bind(rule.map(AlertRule::as_str))
                .bind(subject.as_ref().map(Pattern::as_str))
                .bind(comment.as_str())
                .bind(created_by.as_str())
                .bind(created_at.as_micros())
                .bind(until.as_micros())
                .bind(i64::from(most))
                .execute(c)
                .await
                .map(|done| done.rows_affected()))?;
            if let Some((request, answer)) = keyed.filter(|_| inserted > 0)
                && !idempotency::keep(&mut transaction, &request, &answer).await?
            {
                transaction.rollback().await?;
                return Err(StoreError::Constraint(
                    "the same request, with the same key".to_owned(),
                ));
            }
            store.core().commit(transaction, &[]).await?;
            Ok(inserted > 0)
        })
        .await
    }

    /// Returns the silences that have not ended and that concern a team: its own, and those of all
    /// teams. Without a team, returns all.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn silences(
        &self,
        team: Option<Name>,
        now: Timestamp,
    ) -> Result<Vec<Silence>, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut connection = store.read().await?;
            let rows: Vec<SilenceRow> = not_ended(team.as_ref(), now).rows(&mut connection).await?;
            rows.into_iter().map(SilenceRow::into_silence).collect()
        })
        .await
    }

    /// Deletes a silence of `team`, or of any team if `team` is `None`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if the team has no such silence. Errors of the database.
    pub async fn delete_silence(&self, team: Option<Name>, id: Uuid) -> Result<(), StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut sql = Sql::new(DELETE);
            sql.bind(Bind::Id(id))
                .and("team =", team.as_ref().map(|team| team.as_str().into()));
            let mut transaction = store.core().backend.begin().await?;
            let deleted = sql.execute(&mut transaction).await?;
            store.core().commit(transaction, &[]).await?;
            if deleted > 0 {
                Ok(())
            } else {
                Err(StoreError::NotFound)
            }
        })
        .await
    }

    /// Deletes the silences that have ended, and returns their number.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn delete_ended_silences(&self, now: Timestamp) -> Result<u64, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut transaction = store.core().backend.begin().await?;
            let deleted = ended(now).execute(&mut transaction).await?;
            store.core().commit(transaction, &[]).await?;
            Ok(deleted)
        })
        .await
    }
}

pub(super) fn ended(now: Timestamp) -> Sql {
    let mut sql = Sql::new("DELETE FROM alert_silences WHERE until <= ");
    sql.bind(Bind::Number(now.as_micros()));
    sql
}

pub(super) fn not_ended(team: Option<&Name>, now: Timestamp) -> Sql {
    let mut sql = Sql::new(
        "SELECT id, team, rule, subject, comment, created_by, created_at, until FROM alert_silences WHERE until > ",
    );
    sql.bind(Bind::Number(now.as_micros()));
    if let Some(team) = team {
        sql.push(" AND team")
            .within([HOST.into(), team.as_str().into()]);
    }
    sql.push(" ORDER BY until, id LIMIT ")
        .bind(Bind::Number(SILENCES_READ_MAX.into()));
    sql
}
