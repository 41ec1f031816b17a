//! Conditions under which a client wants a change: `If-Match` and `If-None-Match` (RFC 9110, section
//! 13.1), which prevent lost updates.

/// A condition on the current version of a row. The transaction that changes the row checks it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// No condition.
    #[default]
    None,
    /// The row must not exist: `If-None-Match: *`.
    Absent,
    /// The row must exist: `If-Match: *`.
    Present,
    /// The row must exist and have one of these tags: `If-Match` with entity tags, without quotes.
    AnyOf(Vec<String>),
}

impl Precondition {
    /// Checks the condition. `current` is the tag of the row, or none if there is no row.
    ///
    /// # Errors
    /// One sentence that says what `noun` is now, and what the client can do.
    pub fn check(&self, noun: &str, current: Option<&str>) -> Result<(), String> {
        match (self, current) {
            (Self::None, _) | (Self::Absent, None) | (Self::Present, Some(_)) => Ok(()),
            (Self::AnyOf(tags), Some(current)) if tags.iter().any(|tag| tag == current) => Ok(()),
            (Self::Absent, Some(current)) => Err(format!(
                "the {noun} exists already, with the ETag \"{current}\", and If-None-Match says that it must not"
            )),
            (Self::Present | Self::AnyOf(_), None) => Err(format!(
                "there is no such {noun}, and If-Match says that there must be one"
            )),
            (Self::AnyOf(_), Some(current)) => Err(format!(
                "the {noun} has changed: its ETag is \"{current}\" now, which is not in If-Match; nothing was done; read \
                 it again and decide whether your change still fits"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold_for_the_rows_that_they_name() {
        let some = Precondition::AnyOf(vec!["1".to_owned(), "2".to_owned()]);
        for (condition, current, holds) in [
            (&Precondition::None, None, true),
            (&Precondition::None, Some("1"), true),
            (&Precondition::Absent, None, true),
            (&Precondition::Absent, Some("1"), false),
            (&Precondition::Present, None, false),
            (&Precondition::Present, Some("1"), true),
            (&some, None, false),
            (&some, Some("2"), true),
            (&some, Some("3"), false),
        ] {
            let checked = condition.check("workflow", current);
            assert_eq!(
                checked.is_ok(),
                holds,
                "{condition:?} {current:?}: {checked:?}"
            );
        }
        let refused = some.check("workflow", Some("3")).expect_err("has changed");
        assert!(refused.contains("\"3\" now"), "{refused}");
    }
}
