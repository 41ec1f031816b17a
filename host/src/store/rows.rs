//! Statements on many rows, on both databases, with few different SQL texts.
//!
//! A statement contains `FROM {rows}` and refers to the rows as `given`, with the columns
//! `column1`, `column2` and so on. A text that changed with the number of rows would have to be
//! planned again for each number. So each database gets the rows in its own way:
//!
//! - Postgres gets one array for each column. The text is the same for any number of rows.
//! - SQLite has no arrays, so it gets a list of VALUES, whose length is rounded up to a power of
//!   two. Unbound parameters are NULL, and each statement must ignore rows whose first column is
//!   NULL, so the surplus rows cost almost nothing. `{lock}` is removed, because SQLite has only
//!   one writer. More than [`SQLITE_ROWS_MAX`] rows take several statements, which are usually
//!   prepared already: planning a new statement takes longer than running it.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments as _, AssertSqlSafe, FromRow};
use uuid::Uuid;

use super::backend::{Conn, Connection};
use super::{CommitError, StoreError};

/// The largest number of rows in one statement on SQLite, a power of two. Large enough for a group
/// of commits. With more of the widest rows, the prepared statement would take megabytes.
pub(super) const SQLITE_ROWS_MAX: usize = 256;
/// The largest number of rows in one statement on Postgres. Bounds the memory of the copied values.
const POSTGRES_ROWS_MAX: usize = 4_096;

/// A column of the rows: its type, and a function that reads its value from a row.
pub(super) enum Column<R> {
    Uuid(for<'r> fn(&'r R) -> Uuid),
    MaybeUuid(for<'r> fn(&'r R) -> Option<Uuid>),
    Integer(for<'r> fn(&'r R) -> i64),
    MaybeInteger(for<'r> fn(&'r R) -> Option<i64>),
    Text(for<'r> fn(&'r R) -> &'r str),
    MaybeText(for<'r> fn(&'r R) -> Option<&'r str>),
    /// A text that is written only when it is sent.
    MaybeDisplay(for<'r> fn(&'r R) -> Option<String>),
    Bytes(for<'r> fn(&'r R) -> &'r [u8]),
    MaybeBytes(for<'r> fn(&'r R) -> Option<&'r [u8]>),
}

/// Runs a statement on rows, and returns the number of affected rows.
pub(super) async fn execute<R>(
    connection: &mut Connection,
    sql: &str,
    columns: &[Column<R>],
    rows: &[R],
) -> Result<u64, StoreError> {
    let mut affected = 0;
    for rows in rows.chunks(rows_max(connection)) {
        affected += match connection.conn() {
            Conn::Sqlite(connection) => {
                let (text, arguments) = sqlite(sql, columns, rows)?;
                sqlx::query_with(AssertSqlSafe(text), arguments)
                    .execute(connection)
                    .await?
                    .rows_affected()
            }
            Conn::Postgres(connection) => {
                let (text, arguments) = postgres(sql, columns, rows)?;
                sqlx::query_with(AssertSqlSafe(text), arguments)
                    .execute(connection)
                    .await?
                    .rows_affected()
            }
        };
    }
    Ok(affected)
}

/// Runs a statement on rows, and returns the rows that it selects.
pub(super) async fn fetch<R, T>(
    connection: &mut Connection,
    sql: &str,
    columns: &[Column<R>],
    rows: &[R],
) -> Result<Vec<T>, StoreError>
where
    T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let mut found = Vec::new();
    for rows in rows.chunks(rows_max(connection)) {
        found.extend(match connection.conn() {
            Conn::Sqlite(connection) => {
                let (text, arguments) = sqlite(sql, columns, rows)?;
                sqlx::query_as_with(AssertSqlSafe(text), arguments)
                    .fetch_all(connection)
                    .await?
            }
            Conn::Postgres(connection) => {
                let (text, arguments) = postgres(sql, columns, rows)?;
                sqlx::query_as_with(AssertSqlSafe(text), arguments)
                    .fetch_all(connection)
                    .await?
            }
        });
    }
    Ok(found)
}

fn rows_max(connection: &Connection) -> usize {
    match connection {
        Connection::Sqlite(_) => SQLITE_ROWS_MAX,
        Connection::Postgres(_) => POSTGRES_ROWS_MAX,
    }
}

/// Statements that each have to change all of their rows.
///
/// Every statement is a round trip to the database. SQLite runs on a thread of its own, so for a
/// few rows the round trip costs more than the statement; the statements of one job are therefore
/// sent together. The statements of many jobs are sent one by one: together they would have a text
/// for every combination of numbers of rows, and each new text must be planned.
pub(super) struct StatementBatch<'c> {
    connection: &'c mut Connection,
    combined: Option<CombinedStatements>,
}

/// The statements that are sent together.
#[derive(Default)]
struct CombinedStatements {
    text: String,
    arguments: SqliteArguments,
    /// The number of rows that all statements together change.
    wanted: u64,
}

impl<'c> StatementBatch<'c> {
    /// Statements for so many jobs.
    pub(super) fn new(connection: &'c mut Connection, jobs: usize) -> Self {
        let combined = jobs == 1 && matches!(connection, Connection::Sqlite(_));
        Self {
            connection,
            combined: combined.then(CombinedStatements::default),
        }
    }

    /// Returns true if the database is SQLite.
    pub(super) fn is_sqlite(&self) -> bool {
        matches!(self.connection, Connection::Sqlite(_))
    }

    /// Changes each row with one of the statements. A row that a statement has changed does not
    /// match the later ones.
    ///
    /// # Errors
    /// A conflict over `what` if a row was not changed; [`StatementBatch::finish`] may be the one to find
    /// it.
    pub(super) async fn change<R>(
        &mut self,
        what: &str,
        statements: &[&str],
        columns: &[Column<R>],
        rows: &[R],
    ) -> Result<(), CommitError> {
        if rows.is_empty() {
            return Ok(());
        }
        let wanted = rows.len() as u64;
        if let Some(combined) = &mut self.combined {
            combined.wanted += wanted;
            for (rows, sql) in rows
                .chunks(SQLITE_ROWS_MAX)
                .flat_map(|rows| statements.iter().map(move |sql| (rows, sql)))
            {
                let arguments = &mut combined.arguments;
                let text = add_sqlite(arguments, sql, columns, rows)?;
                // The next statement's arguments must not fill the places of missing rows.
                for _ in 0..columns.len() * (rows.len().next_power_of_two() - rows.len()) {
                    let null = None::<i64>;
                    arguments
                        .add(null)
                        .map_err(sqlx::Error::Encode)
                        .map_err(StoreError::from)?;
                }
                combined.text.push_str(&text);
                combined.text.push(';');
            }
            return Ok(());
        }
        let mut changed = 0;
        for sql in statements {
            changed += execute(self.connection, sql, columns, rows).await?;
            if changed == wanted {
                return Ok(());
            }
        }
        Err(CommitError::conflict(what))
    }

    /// Sends what was not sent yet.
    ///
    /// # Errors
    /// A conflict if a row was not changed.
    pub(super) async fn finish(self) -> Result<&'c mut Connection, CommitError> {
        if let (Some(combined), Connection::Sqlite(connection)) =
            (self.combined, &mut *self.connection)
            && combined.wanted > 0
        {
            let sql = AssertSqlSafe(combined.text);
            let done = sqlx::query_with(sql, combined.arguments)
                .execute(&mut **connection)
                .await
                .map_err(StoreError::from)?;
            if done.rows_affected() != combined.wanted {
                return Err(CommitError::conflict(
                    "an instance, or one of its approvals,",
                ));
            }
        }
        Ok(self.connection)
    }
}

/// Returns the text and the arguments of a statement for SQLite.
pub(super) fn sqlite<R>(
    sql: &str,
    columns: &[Column<R>],
    rows: &[R],
) -> Result<(String, SqliteArguments), StoreError> {
    let mut arguments = SqliteArguments::default();
    arguments.reserve(columns.len() * rows.len(), 0);
    let text = add_sqlite(&mut arguments, sql, columns, rows)?;
    Ok((text, arguments))
}

/// Adds the arguments of a statement, and returns its text.
fn add_sqlite<R>(
    arguments: &mut SqliteArguments,
    sql: &str,
    columns: &[Column<R>],
    rows: &[R],
) -> Result<String, StoreError> {
    let row = format!("({})", vec!["?"; columns.len()].join(", "));
    let values = vec![row.as_str(); rows.len().next_power_of_two()].join(", ");
    let text = sql
        .replace("{rows}", &format!("(VALUES {values}) AS given"))
        .replace("{lock}", "");
    for row in rows {
        for column in columns {
            match column {
                Column::Uuid(value) => arguments.add(value(row)),
                Column::MaybeUuid(value) => arguments.add(value(row)),
                Column::Integer(value) => arguments.add(value(row)),
                Column::MaybeInteger(value) => arguments.add(value(row)),
                Column::Text(value) => arguments.add(value(row)),
                Column::MaybeText(value) => arguments.add(value(row)),
                Column::MaybeDisplay(value) => arguments.add(value(row)),
                Column::Bytes(value) => arguments.add(value(row)),
                Column::MaybeBytes(value) => arguments.add(value(row)),
            }
            .map_err(sqlx::Error::Encode)?;
        }
    }
    Ok(text)
}

fn postgres<R>(
    sql: &str,
    columns: &[Column<R>],
    rows: &[R],
) -> Result<(String, PgArguments), StoreError> {
    let (mut arrays, mut names) = (Vec::new(), Vec::new());
    let mut arguments = PgArguments::default();
    for (index, column) in columns.iter().enumerate() {
        let (kind, added) = match column {
            Column::Uuid(value) => (
                "UUID",
                arguments.add(rows.iter().map(value).collect::<Vec<_>>()),
            ),
            Column::MaybeUuid(value) => (
                "UUID",
                arguments.add(rows.iter().map(value).collect::<Vec<_>>()),
            ),
            Column::Integer(value) => (
                "BIGINT",
                arguments.add(rows.iter().map(value).collect::<Vec<_>>()),
            ),
            Column::MaybeInteger(value) => (
                "BIGINT",
                arguments.add(rows.iter().map(value).collect::<Vec<_>>()),
            ),
            Column::Text(value) => (
                "TEXT",
                arguments.add(rows.iter().map(value).collect::<Vec<_>>()),
            ),
            Column::MaybeText(value) => (
                "TEXT",
                arguments.add(rows.iter().map(value).collect::<Vec<_>>()),
            ),
            Column::MaybeDisplay(value) => (
                "TEXT",
                arguments.add(rows.iter().map(value).collect::<Vec<_>>()),
            ),
            Column::Bytes(value) => (
                "BYTEA",
                arguments.add(rows.iter().map(value).collect::<Vec<_>>()),
            ),
            Column::MaybeBytes(value) => (
                "BYTEA",
                arguments.add(rows.iter().map(value).collect::<Vec<_>>()),
            ),
        };
        added.map_err(sqlx::Error::Encode)?;
        arrays.push(format!("${}::{kind}[]", index + 1));
        names.push(format!("column{}", index + 1));
    }
    let given = format!(
        "UNNEST({}) AS given({})",
        arrays.join(", "),
        names.join(", ")
    );
    Ok((
        sql.replace("{rows}", &given)
            .replace("{lock}", " FOR UPDATE OF seen"),
        arguments,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_few() {
        let columns = [Column::Integer(|row: &i64| *row), Column::Text(|_| "x")];
        let text = |count: usize| {
            sqlite("SELECT 1 FROM {rows}{lock}", &columns, &vec![1; count])
                .expect("encodes")
                .0
        };
        assert_eq!(text(1), "SELECT 1 FROM (VALUES (?, ?)) AS given");
        assert_eq!(
            text(3),
            "SELECT 1 FROM (VALUES (?, ?), (?, ?), (?, ?), (?, ?)) AS given"
        );
        assert_eq!(text(3), text(4));
        let text = |count: usize| {
            postgres("SELECT 1 FROM {rows}{lock}", &columns, &vec![1; count])
                .expect("encodes")
                .0
        };
        assert_eq!(
            text(1),
            "SELECT 1 FROM UNNEST($1::BIGINT[], $2::TEXT[]) AS given(column1, column2) FOR UPDATE OF seen"
        );
        assert_eq!(text(1), text(300));
    }

    #[test]
    fn a_full_statement_has_no_more_parameters_than_sqlite_allows() {
        let columns: Vec<_> = (0..32).map(|_| Column::Integer(|row: &i64| *row)).collect();
        let (text, _) =
            sqlite("SELECT 1 FROM {rows}", &columns, &[1; SQLITE_ROWS_MAX]).expect("encodes");
        assert!(SQLITE_ROWS_MAX.is_power_of_two() && text.matches('?').count() <= 32_766);
    }
}
