//! SQL that is built at run time: one text for both databases, made of constants, with every value
//! bound.

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use super::StoreError;
use super::backend::{Connection, with_backend};

/// The largest number of values in a statement that is kept prepared. Longer statements have a
/// different text for every number of values.
const PREPARED_BINDS_MAX: usize = 64;

/// A bound value.
#[derive(Clone, Debug)]
pub(super) enum Bind {
    Text(String),
    Number(i64),
    Id(Uuid),
}

impl From<&str> for Bind {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// A statement and its values.
#[derive(Clone, Debug)]
pub(super) struct Sql {
    text: String,
    binds: Vec<Bind>,
    /// The index that SQLite must use, and the position in the text for its name.
    index: Option<(usize, &'static str)>,
}

/// Binds all of `$binds`, in their order.
macro_rules! bind_all {
    ($query:expr, $binds:expr) => {{
        let mut query = $query;
        for bind in $binds {
            query = match bind {
                Bind::Text(text) => query.bind(text),
                Bind::Number(number) => query.bind(number),
                Bind::Id(id) => query.bind(id),
            };
        }
        query
    }};
}

impl Sql {
    /// Starts a statement with `text`.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            binds: Vec::new(),
            index: None,
        }
    }

    /// Forces SQLite to use an index of the table whose name was appended last. For statements that
    /// fit two indexes. SQLite only knows the average number of rows for each value, so it cannot
    /// know that one value is rare, and may choose the worse index. PostgreSQL knows, and needs no
    /// hint.
    pub(super) fn index_on_sqlite(&mut self, index: Option<&'static str>) -> &mut Self {
        self.index = index.map(|index| (self.text.len(), index));
        self
    }

    /// Inserts `text` before the statement.
    pub(super) fn after(mut self, text: &str) -> Self {
        self.text.insert_str(0, text);
        self
    }

    /// Appends `text`.
    pub(super) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Appends a value.
    pub(super) fn bind(&mut self, value: Bind) -> &mut Self {
        self.binds.push(value);
        self.text.push_str(&format!("${}", self.binds.len()));
        self
    }

    /// Appends ` AND <condition> <value>` if there is a value.
    pub(super) fn and(&mut self, condition: &str, value: Option<Bind>) -> &mut Self {
        match value {
            Some(value) => self.push(" AND ").push(condition).push(" ").bind(value),
            None => self,
        }
    }

    /// Appends ` IN (<values>)`. There must be at least one value.
    pub(super) fn within(&mut self, values: impl IntoIterator<Item = Bind>) -> &mut Self {
        let mut before = " IN (";
        for value in values {
            self.push(before).bind(value);
            before = ", ";
        }
        self.push(")")
    }

    /// Runs the statement and returns its rows.
    pub(super) async fn rows<T>(self, connection: &mut Connection) -> Result<Vec<T>, StoreError>
    where
        T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let Self {
            mut text,
            binds,
            index,
        } = self;
        if let (Some((position, index)), Connection::Sqlite(_)) = (index, &*connection) {
            text.insert_str(position, &format!(" INDEXED BY {index}"));
        }
        let keep = binds.len() <= PREPARED_BINDS_MAX;
        Ok(with_backend!(connection, c => {
            bind_all!(sqlx::query_as(AssertSqlSafe(text)), binds).persistent(keep).fetch_all(c).await
        })?)
    }

    /// Runs the statement and returns the number of changed rows.
    pub(super) async fn execute(self, connection: &mut Connection) -> Result<u64, StoreError> {
        let Self { text, binds, .. } = self;
        let keep = binds.len() <= PREPARED_BINDS_MAX;
        Ok(with_backend!(connection, c => {
            let done = bind_all!(sqlx::query(AssertSqlSafe(text)), binds).persistent(keep).execute(c).await;
            done.map(|done| done.rows_affected())
        })?)
    }

    /// Creates a statement whose text already has the placeholders of its values.
    pub(super) fn with_binds(text: &str, binds: Vec<Bind>) -> Self {
        Self {
            text: text.to_owned(),
            binds,
            index: None,
        }
    }

    /// The text so far.
    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Prefixes the statement with EXPLAIN or its equivalent.
    #[cfg(test)]
    pub(super) fn explained(self, how: &str) -> Self {
        let index = self
            .index
            .map(|(position, index)| (position + how.len() + 1, index));
        Self {
            text: format!("{how} {}", self.text),
            binds: self.binds,
            index,
        }
    }
}
