//! The audit log: a record of users' actions, kept for a limited time and in a limited number of
//! rows for each team.
//!
//! An entry is written as `begun` before its action is done, and the outcome is added afterwards.
//! So no action goes unrecorded, even if the client or the host fails in between. As a consequence,
//! an entry may stay `begun`, and its subject may become known only at the end.
//!
//! Each team has its own bound, so no team can displace another team's entries. Within a team each
//! action is a class of entries, and refused and failed requests together form one more class with
//! a bound of its own. When a team has too many entries, its largest class loses its oldest
//! entries. So a flood of one action displaces only entries of that action.

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::alerts::HOST;
use super::backend::Connection;
use super::listing::{self, Cursor, Order, PageQuery, Period};
use super::rows::{self, Column};
use super::sql::{Bind, Sql};
use super::{Page, Store, StoreError, from_json, parse, to_json};
use crate::clock::Timestamp;
use crate::model::{AuditAction, AuditOutcome, Name};

/// The largest number of rows deleted in one transaction.
const DELETED_MAX: u32 = 500;

/// The class of refused and failed requests and of failed sign-ins, which anyone can produce at no
/// cost.
const CHEAP: &str = "cheap";

const COLUMNS: &str = "SELECT id, at, team, actor, actor_team, actor_token, action, subject, detail, outcome, \
    request_id, request, source, class FROM audit";
/// Inserts entries. The column `request_id` is only used by rows of earlier programs, whose numbers
/// could repeat.
const INSERT: &str = "INSERT INTO audit (id, at, team, actor, actor_team, actor_token, action, subject, detail, \
    outcome, request_id, request, source, class) SELECT given.column1, given.column2, given.column3, given.column4, \
    given.column5, given.column6, given.column7, given.column8, given.column9, given.column10, 0, given.column11, \
    given.column12, given.column13 FROM {rows} WHERE given.column1 IS NOT NULL";
const END: &str = "UPDATE audit SET team = given.column2, subject = given.column3, detail = given.column4, \
    outcome = given.column5, class = given.column6 FROM {rows} WHERE audit.id = given.column1";
pub(super) const OLD: &str = "SELECT id FROM audit WHERE at < $1 ORDER BY at, id LIMIT $2";
pub(super) const NEXT_TEAM: &str = "SELECT MIN(team) FROM audit WHERE team > $1";
pub(super) const CLASSES: &str = "SELECT class, COUNT(*) FROM audit WHERE team = $1 GROUP BY class";
pub(super) const OLDEST: &str =
    "SELECT id FROM audit WHERE team = $1 AND class = $2 ORDER BY at, id LIMIT $3";

/// The numbers of entries that are kept for each team.
#[derive(Clone, Copy, Debug)]
pub struct AuditBounds {
    /// Entries of all other classes together.
    pub rows: u32,
    /// Entries for refused and failed requests and failed sign-ins.
    pub cheap_rows: u32,
}

/// The user who did an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditActor {
    /// The name of the user.
    pub user: String,
    /// The user's team. An operator may act on another team.
    pub team: Name,
    /// The id of the token that was used, never its text.
    pub token: Option<Uuid>,
}

/// An entry: an action that a user did or tried to do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditEntry {
    /// The id of the entry.
    pub id: Uuid,
    /// The time at which the action began.
    pub at: Timestamp,
    /// The team that the action affects; `None` for the host or all teams.
    pub team: Option<Name>,
    /// The actor; `None` for a failed sign-in.
    pub actor: Option<AuditActor>,
    /// The action.
    pub action: AuditAction,
    /// The subject of the action: `expense@1.2.0`, an id or a name. Empty if the subject never
    /// became known.
    pub subject: String,
    /// A small JSON object with more details.
    pub detail: Value,
    /// The outcome; `begun` until the result is recorded.
    pub outcome: AuditOutcome,
    /// The `request-id` of the response and the `id` of the request in the log. Unique, except in
    /// entries of earlier programs.
    pub request_id: String,
    /// The address that the request came from. Empty if there was no request, and in entries of
    /// earlier programs that did not record the address.
    pub source: String,
}

impl AuditEntry {
    /// Returns the class in which the entry competes for room with other entries of its team.
    fn class(&self) -> &'static str {
        match (self.outcome, self.action) {
            (AuditOutcome::Failed | AuditOutcome::Refused, _) | (_, AuditAction::SignInFail) => {
                CHEAP
            }
            (_, action) => action.as_str(),
        }
    }
}

/// A filter of entries. The default filter selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only actions of this user.
    pub actor: Option<String>,
    /// Only this action.
    pub action: Option<AuditAction>,
    /// Only actions on this subject.
    pub subject: Option<String>,
    /// Only actions that began in this period.
    pub period: Period,
}

impl AuditFilter {
    /// Returns the cursor of a page that ends with this entry.
    pub fn cursor(entry: &AuditEntry) -> Cursor {
        Cursor {
            at: Some(entry.at),
            key: entry.id,
        }
    }
}

#[derive(sqlx::FromRow)]
struct AuditRow {
    id: Uuid,
    at: i64,
    team: String,
    actor: String,
    actor_team: String,
    actor_token: Option<Uuid>,
    action: String,
    subject: String,
    detail: String,
    outcome: String,
    request_id: i64,
    request: String,
    source: String,
    class: String,
}

impl AuditRow {
    fn new(entry: AuditEntry) -> Result<Self, StoreError> {
        let class = entry.class().to_owned();
        let (actor, actor_team, actor_token) = match entry.actor {
            Some(AuditActor { user, team, token }) => (user, team.to_string(), token),
            None => (String::new(), String::new(), None),
        };
        Ok(Self {
            id: entry.id,
            at: entry.at.as_micros(),
            team: entry
                .team
                .map_or_else(|| HOST.to_owned(), |team| team.to_string()),
            actor,
            actor_team,
            actor_token,
            action: entry.action.as_str().to_owned(),
            subject: entry.subject,
            detail: to_json(&entry.detail)?,
            outcome: entry.outcome.as_str().to_owned(),
            request_id: 0,
            request: entry.request_id,
            source: entry.source,
            class,
        })
    }

    fn into_entry(self) -> Result<AuditEntry, StoreError> {
        let team = if self.team == HOST {
            None
        } else {
            Some(parse("an audit's team", &self.team)?)
        };
        let actor = if self.actor_team.is_empty() {
            None
        } else {
            let team = parse("an audit's actor", &self.actor_team)?;
            Some(AuditActor {
                user: self.actor,
                team,
                token: self.actor_token,
            })
        };
        Ok(AuditEntry {
            id: self.id,
            at: Timestamp::from_micros(self.at),
            team,
            actor,
            action: parse("an audit's action", &self.action)?,
            subject: self.subject,
            detail: from_json("an audit's detail", &self.detail)?,
            outcome: parse("an audit's outcome", &self.outcome)?,
            request_id: if self.request.is_empty() {
                self.request_id.to_string()
            } else {
                self.request
            },
            source: self.source,
        })
    }
}

impl Store {
    /// Inserts entries, all or none.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn insert_audit(&self, entries: Vec<AuditEntry>) -> Result<(), StoreError> {
        self.write_audit(INSERT, inserted().into(), entries).await
    }

    /// Records the outcomes of entries that have begun. Also updates their teams, subjects and
    /// details, which may have become known only now.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn end_audit(&self, entries: Vec<AuditEntry>) -> Result<(), StoreError> {
        let columns = [
            Column::Uuid(|row: &AuditRow| row.id),
            Column::Text(|row| &row.team),
            Column::Text(|row| &row.subject),
            Column::Text(|row| &row.detail),
            Column::Text(|row| &row.outcome),
            Column::Text(|row| &row.class),
        ];
        self.write_audit(END, columns.into(), entries).await
    }

    async fn write_audit(
        &self,
        sql: &'static str,
        columns: Vec<Column<AuditRow>>,
        entries: Vec<AuditEntry>,
    ) -> Result<(), StoreError> {
        let store = self.clone();
        self.detached(async move {
            let rows = entries
                .into_iter()
                .map(AuditRow::new)
                .collect::<Result<Vec<_>, _>>()?;
            let mut transaction = store.core().backend.begin().await?;
            rows::execute(&mut transaction, sql, &columns, &rows).await?;
            store.core().commit(transaction, &[]).await
        })
        .await
    }

    /// Returns a page of a team's entries, newest first; without a team, of all teams and the host.
    ///
    /// # Errors
    /// [`StoreError::Cursor`], and errors of the database.
    pub async fn audit(
        &self,
        team: Option<&Name>,
        filter: &AuditFilter,
        page: &Page<Cursor>,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        Order::At.check(page)?;
        let (store, sql) = (self.clone(), list(team, filter, page));
        self.detached(async move {
            let mut connection = store.read().await?;
            let rows: Vec<AuditRow> = sql.rows(&mut connection).await?;
            rows.into_iter().map(AuditRow::into_entry).collect()
        })
        .await
    }

    /// Deletes entries older than `before`, and then entries above a team's bounds. Deletes at most
    /// 500 entries, and returns their number; 0 means that nothing is left to delete.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn delete_old_audit(
        &self,
        before: Timestamp,
        bounds: AuditBounds,
    ) -> Result<u64, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut transaction = store.core().backend.begin().await?;
            let old = vec![
                Bind::Number(before.as_micros()),
                Bind::Number(DELETED_MAX.into()),
            ];
            let mut ids: Vec<(Uuid,)> = Sql::with_binds(OLD, old).rows(&mut transaction).await?;
            if ids.is_empty() {
                ids = too_many(&mut transaction, bounds).await?;
            }
            if ids.is_empty() {
                transaction.rollback().await?;
                return Ok(0);
            }
            let mut delete = Sql::new("DELETE FROM audit WHERE id");
            delete.within(ids.into_iter().map(|(id,)| Bind::Id(id)));
            let deleted = delete.execute(&mut transaction).await?;
            store.core().commit(transaction, &[]).await?;
            Ok(deleted)
        })
        .await
    }
}

/// The columns of [`INSERT`].
fn inserted() -> [Column<AuditRow>; 13] {
    [
        Column::Uuid(|row: &AuditRow| row.id),
        Column::Integer(|row| row.at),
        Column::Text(|row| &row.team),
        Column::Text(|row| &row.actor),
        Column::Text(|row| &row.actor_team),
        Column::MaybeUuid(|row| row.actor_token),
        Column::Text(|row| &row.action),
        Column::Text(|row| &row.subject),
        Column::Text(|row| &row.detail),
        Column::Text(|row| &row.outcome),
        Column::Text(|row| &row.request),
        Column::Text(|row| &row.source),
        Column::Text(|row| &row.class),
    ]
}

/// Inserts an entry as part of the caller's transaction.
pub(super) async fn insert(
    connection: &mut Connection,
    entry: AuditEntry,
) -> Result<(), StoreError> {
    rows::execute(connection, INSERT, &inserted(), &[AuditRow::new(entry)?])
        .await
        .map(|_| ())
}

/// Returns the oldest entries above the bounds of the first team that has too many.
async fn too_many(
    connection: &mut Connection,
    bounds: AuditBounds,
) -> Result<Vec<(Uuid,)>, StoreError> {
    let mut team = Some(HOST.to_owned());
    while let Some(name) = team {
        let classes: Vec<(String, i64)> = Sql::with_binds(CLASSES, vec![name.as_str().into()])
            .rows(connection)
            .await?;
        if let Some((class, excess)) = first_excess(&classes, bounds) {
            let limit = Bind::Number(excess.min(DELETED_MAX.into()));
            let binds = vec![name.as_str().into(), class.into(), limit];
            return Sql::with_binds(OLDEST, binds).rows(connection).await;
        }
        let next: Vec<(Option<String>,)> = Sql::with_binds(NEXT_TEAM, vec![name.as_str().into()])
            .rows(connection)
            .await?;
        team = next.into_iter().next().and_then(|(team,)| team);
    }
    Ok(Vec::new())
}

/// Returns a class with too many entries and the number of its surplus entries. The bound is shared
/// so that a class below its fair share loses nothing (max-min fairness).
fn first_excess(classes: &[(String, i64)], bounds: AuditBounds) -> Option<(&str, i64)> {
    let (cheap, mut others): (Vec<_>, Vec<_>) =
        classes.iter().partition(|(class, _)| class == CHEAP);
    let over = |count: i64, share: i64| (count > share).then(|| count - share);
    if let Some((class, excess)) = cheap
        .iter()
        .find_map(|(class, count)| Some((class.as_str(), over(*count, bounds.cheap_rows.into())?)))
    {
        return Some((class, excess));
    }
    others.sort_unstable_by_key(|(_, count)| *count);
    let mut left = i64::from(bounds.rows);
    let mut waiting = i64::try_from(others.len()).unwrap_or(i64::MAX);
    for (_, count) in &others {
        let share = left / waiting.max(1);
        if *count > share {
            // The remaining classes are larger still, and the largest loses first.
            return others
                .last()
                .map(|(class, largest)| (class.as_str(), largest - share));
        }
        left -= count;
        waiting -= 1;
    }
    None
}

/// Builds the SQL of [`Store::audit`]. Team, actor and period use an index. Action and subject are
/// compared row by row, which is cheap because the rows of a team are bounded.
pub(super) fn list(team: Option<&Name>, filter: &AuditFilter, page: &Page<Cursor>) -> Sql {
    let mut sql = Sql::new(COLUMNS);
    let by_actor = if team.is_some() {
        "idx_audit_actor_team_at"
    } else {
        "idx_audit_actor_at"
    };
    sql.index_on_sqlite(filter.actor.as_ref().map(|_| by_actor));
    match team {
        Some(team) => sql.push(" WHERE team = ").bind(team.as_str().into()),
        None => sql.push(" WHERE at >= ").bind(Bind::Number(i64::MIN)),
    };
    sql.and("actor =", filter.actor.as_deref().map(Bind::from));
    sql.and(
        "action =",
        filter.action.map(|action| action.as_str().into()),
    );
    sql.and("subject =", filter.subject.as_deref().map(Bind::from));
    let query = PageQuery {
        order: Order::At,
        key: "id",
        descending: true,
    };
    let after = page.after.map(|after| Cursor {
        at: after.at,
        key: Bind::Id(after.key),
    });
    listing::push_page(&mut sql, query, filter.period, after, page.limit);
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_class_gives_first_and_a_small_one_nothing() {
        let bounds = AuditBounds {
            rows: 100,
            cheap_rows: 10,
        };
        let excess = |classes: &[(&str, i64)]| {
            let classes: Vec<_> = classes
                .iter()
                .map(|(class, count)| ((*class).to_owned(), *count))
                .collect();
            first_excess(&classes, bounds).map(|(class, excess)| (class.to_owned(), excess))
        };
        let over = |class: &str, excess| Some((class.to_owned(), excess));
        assert_eq!(excess(&[]), None);
        assert_eq!(excess(&[("a", 60), ("b", 40), (CHEAP, 10)]), None);
        assert_eq!(excess(&[("a", 1), (CHEAP, 11)]), over(CHEAP, 1));
        assert_eq!(
            excess(&[("flood", 5_000), ("a", 20), ("b", 3)]),
            over("flood", 5_000 - 77)
        );
        assert_eq!(excess(&[("a", 51), ("b", 51)]), over("b", 1));
        assert_eq!(excess(&[("a", 30), ("b", 60), ("c", 70)]), over("c", 35));
        assert_eq!(excess(&[("a", 101)]), over("a", 1));
    }
}
