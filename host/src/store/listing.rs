//! The parts that all lists share: pages by key, periods of time, and the SQL of both.
//!
//! Every list has one order, which an index provides, so a page costs only its own rows and not the
//! rows before it. The order depends on the filter. A list that is filtered by properties is sorted
//! by its key. A list that is filtered by a time is sorted by that time and, for equal times, by
//! the key. The cursor of such a list contains both.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::sql::{Bind, Sql};
use super::{Page, StoreError, signed};
use crate::clock::Timestamp;

/// The end of a page of a list. As text, which clients get, a cursor is `<key>` or
/// `<microseconds>.<key>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor<K = Uuid> {
    /// The time of the last item, in a list that is sorted by time.
    pub at: Option<Timestamp>,
    /// The id or name of the last item.
    pub key: K,
}

impl<K: fmt::Display> fmt::Display for Cursor<K> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.at {
            write!(formatter, "{}.", at.as_micros())?;
        }
        self.key.fmt(formatter)
    }
}

impl<K: FromStr<Err: fmt::Display>> FromStr for Cursor<K> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (at, key) = match text.split_once('.') {
            Some((at, key)) => (Some(at), key),
            None => (None, text),
        };
        let wrong =
            |problem: &dyn fmt::Display| format!("give what a page answers as `next`: {problem}");
        let at = at
            .map(str::parse)
            .transpose()
            .map_err(|error| wrong(&error))?
            .map(Timestamp::from_micros);
        Ok(Self {
            at,
            key: key.parse().map_err(|error| wrong(&error))?,
        })
    }
}

/// A half-open period, so that periods can be laid end to end. An open end is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Period {
    /// The beginning, inclusive.
    pub from: Option<Timestamp>,
    /// The end, exclusive.
    pub to: Option<Timestamp>,
}

impl Period {
    /// Returns true if the period has no bound at all.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }
}

/// The column that a list is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Key,
    At,
    Created,
    Started,
    Expires,
    Completed,
}

impl Order {
    fn column(self) -> Option<&'static str> {
        match self {
            Self::Key => None,
            Self::At => Some("at"),
            Self::Created => Some("created_at"),
            Self::Started => Some("started_at"),
            Self::Expires => Some("expires_at"),
            Self::Completed => Some("completed_at"),
        }
    }

    /// Refuses a cursor that comes from a list in another order.
    pub(super) fn check<K>(self, page: &Page<Cursor<K>>) -> Result<(), StoreError> {
        match &page.after {
            Some(after) if after.at.is_some() != self.column().is_some() => Err(StoreError::Cursor),
            _ => Ok(()),
        }
    }
}

/// The order of a list's pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageQuery {
    pub(super) order: Order,
    /// The column of the key.
    pub(super) key: &'static str,
    pub(super) descending: bool,
}

/// Appends the bounds of a period.
pub(super) fn push_period(sql: &mut Sql, column: &str, period: Period) {
    let bind = |time: Option<Timestamp>| time.map(|time| Bind::Number(time.as_micros()));
    sql.and(&format!("{column} >="), bind(period.from));
    sql.and(&format!("{column} <"), bind(period.to));
}

/// Appends the conditions, order and limit of a page that continues after a cursor. `period` limits
/// the column that the list is sorted by.
pub(super) fn push_page(
    sql: &mut Sql,
    query: PageQuery,
    mut period: Period,
    after: Option<Cursor<Bind>>,
    limit: u32,
) {
    let PageQuery {
        order,
        key,
        descending,
    } = query;
    let (compare, direction) = if descending {
        ("<", " DESC")
    } else {
        (">", "")
    };
    if let Some(column) = order.column() {
        // A cursor is a closer bound than the period's. With both, SQLite might start at the
        // farther one.
        if after.is_some() {
            let end = if descending {
                &mut period.to
            } else {
                &mut period.from
            };
            *end = None;
        }
        push_period(sql, column, period);
        if let Some(Cursor { at, key: last }) = after {
            sql.push(&format!(" AND ({column}, {key}) {compare} ("));
            sql.bind(Bind::Number(at.unwrap_or_default().as_micros()))
                .push(", ")
                .bind(last)
                .push(")");
        }
        sql.push(&format!(" ORDER BY {column}{direction}, {key}{direction}"));
    } else {
        sql.and(&format!("{key} {compare}"), after.map(|after| after.key));
        sql.push(&format!(" ORDER BY {key}{direction}"));
    }
    sql.push(" LIMIT ").bind(Bind::Number(signed(limit)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    #[test]
    fn cursors_survive_their_text() {
        let id = Uuid::from_u128(7);
        for at in [
            None,
            Some(Timestamp::from_micros(1_800_000_000_000_000)),
            Some(Timestamp::from_micros(-1)),
        ] {
            let cursor = Cursor { at, key: id };
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        assert_eq!("expense".parse::<Cursor<Name>>().expect("parses").at, None);
        for wrong in [
            "",
            ".",
            "1.",
            "x.y",
            "7",
            "1.2.3",
            "99999999999999999999.00000000-0000-0000-0000-000000000007",
        ] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_cursor_takes_the_place_of_the_bound_that_it_is_closer_than() {
        let period = Period {
            from: Some(Timestamp::from_micros(1)),
            to: Some(Timestamp::from_micros(9)),
        };
        let query = PageQuery {
            order: Order::Created,
            key: "id",
            descending: true,
        };
        let text = |after| {
            let mut sql = Sql::new("SELECT id FROM t WHERE team = ");
            push_page(sql.bind("acme".into()), query, period, after, 5);
            sql.text().to_owned()
        };
        assert_eq!(
            text(None),
            "SELECT id FROM t WHERE team = $1 AND created_at >= $2 AND created_at < $3 \
             ORDER BY created_at DESC, id DESC LIMIT $4"
        );
        assert_eq!(
            text(Some(Cursor {
                at: Some(Timestamp::from_micros(5)),
                key: Bind::Id(Uuid::nil())
            })),
            "SELECT id FROM t WHERE team = $1 AND created_at >= $2 AND (created_at, id) < ($3, $4) \
             ORDER BY created_at DESC, id DESC LIMIT $5"
        );
    }
}
