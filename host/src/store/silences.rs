//! Silences: what nobody wants to be told of for a while. They keep notices back, and hide nothing.

use serde::Serialize;
use uuid::Uuid;

use super::alerts::{AlertKey, HOST};
use super::backend::on;
use super::sql::{Bind, Sql};
use super::{KeyedRequest, Store, StoreError, idempotency, parse};
use crate::clock::Timestamp;
use crate::model::{AlertRule, Name, Pattern};

/// All teams' together.
const SILENCES_READ_MAX: u32 = 10_000;

const INSERT: &str = "INSERT INTO alert_silences (id, team, rule, subject, comment, created_by, created_at, until) \
    SELECT $1, $2, $3, $4, $5, $6, $7, $8 \
    WHERE (SELECT COUNT(*) FROM alert_silences WHERE team = $2 AND until > $7) < $9";
const DELETE: &str = "DELETE FROM alert_silences WHERE id = ";

/// A silence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Silence {
    /// Its id.
    pub id: Uuid,
    /// Whose alerts are meant; none: everybody's and the host's.
    pub team: Option<Name>,
    /// Only those of this rule.
    pub rule: Option<AlertRule>,
    /// Only those about what fits this.
    pub subject: Option<Pattern>,
    /// Why.
    pub comment: String,
    /// Who.
    pub created_by: String,
    /// Since when.
    pub created_at: Timestamp,
    /// It ends here.
    pub until: Timestamp,
}

impl Silence {
    /// Whether it is about such alerts, as long as it lasts.
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
    /// Begins a silence, unless its team has `most` already that have not ended: then it answers false. With a keyed
    /// request, the answer to it is kept in the same transaction.
    ///
    /// # Errors
    /// The database's; [`StoreError::Constraint`] if the same request was answered meanwhile.
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
            let mut writing = store.core().backend.begin().await?;
            let inserted = on!(writing, c => sqlx::query(INSERT)
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
                && !idempotency::keep(&mut writing, &request, &answer).await?
            {
                writing.rollback().await?;
                return Err(StoreError::Constraint(
                    "the same request, with the same key".to_owned(),
                ));
            }
            store.core().commit(writing, &[]).await?;
            Ok(inserted > 0)
        })
        .await
    }

    /// Silences that have not ended, of those that concern the team: its own, and those of everybody. Without a team,
    /// all.
    ///
    /// # Errors
    /// The database's.
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

    /// Ends a silence. `team` is whose may be meant; none is everybody's.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if the team has no such silence.
    pub async fn delete_silence(&self, team: Option<Name>, id: Uuid) -> Result<(), StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut sql = Sql::new(DELETE);
            sql.bind(Bind::Id(id))
                .and("team =", team.as_ref().map(|team| team.as_str().into()));
            let mut writing = store.core().backend.begin().await?;
            let deleted = sql.execute(&mut writing).await?;
            store.core().commit(writing, &[]).await?;
            if deleted > 0 {
                Ok(())
            } else {
                Err(StoreError::NotFound)
            }
        })
        .await
    }

    /// Deletes the silences that have ended.
    ///
    /// # Errors
    /// The database's.
    pub async fn delete_ended_silences(&self, now: Timestamp) -> Result<u64, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut writing = store.core().backend.begin().await?;
            let deleted = ended(now).execute(&mut writing).await?;
            store.core().commit(writing, &[]).await?;
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
