//! Query strings. Unknown parameters are refused, because a misspelt filter that is silently
//! ignored would show everything.

use std::str::FromStr;

use super::error::ApiError;
use crate::model::plain::plain;
use crate::store::Period;

const LIMIT_DEFAULT: u32 = 50;
/// Most items of a page.
pub(super) const LIMIT_MAX: u32 = 200;

/// The parameters that have not been read yet.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses a query string without its question mark.
    pub(super) fn new(encoded: &str) -> Self {
        Self(
            form_urlencoded::parse(encoded.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    /// Takes the value of `name`, if given.
    ///
    /// # Errors
    /// 400 when the parameter is given twice or is empty. Ignoring an empty filter would show, or
    /// silence, everything.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let mut found = None;
        let mut twice = false;
        self.0.retain_mut(|(key, value)| {
            if key == name {
                twice |= found.replace(std::mem::take(value)).is_some();
            }
            key != name
        });
        if twice {
            return Err(ApiError::invalid(format!(
                "the parameter '{name}' is given twice"
            )));
        }
        if found.as_deref().is_some_and(str::is_empty) {
            return Err(ApiError::invalid(format!(
                "the parameter '{name}' is empty: give a value, or leave it out"
            )));
        }
        Ok(found)
    }

    /// Takes all values of a parameter that may be repeated.
    ///
    /// # Errors
    /// 400 when a value is empty.
    pub(super) fn take_all(&mut self, name: &str) -> Result<Vec<String>, ApiError> {
        let mut all = Vec::new();
        self.0.retain_mut(|(key, value)| {
            if key == name {
                all.push(std::mem::take(value));
            }
            key != name
        });
        if all.iter().any(String::is_empty) {
            return Err(ApiError::invalid(format!(
                "the parameter '{name}' is empty: give a value, or leave it out"
            )));
        }
        Ok(all)
    }

    /// Takes and parses the value of `name`.
    ///
    /// # Errors
    /// 400 with the parser's message.
    pub(super) fn parse<T: FromStr<Err: ToString>>(
        &mut self,
        name: &str,
    ) -> Result<Option<T>, ApiError> {
        self.parse_with(name, |text| {
            text.parse()
                .map_err(|error: T::Err| plain(&error.to_string()))
        })
    }

    /// Takes the value of `name` and converts it with `parser`.
    ///
    /// # Errors
    /// 400 with the parser's message.
    pub(super) fn parse_with<T>(
        &mut self,
        name: &str,
        parser: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ApiError> {
        let Some(text) = self.take(name)? else {
            return Ok(None);
        };
        parser(&text)
            .map(Some)
            .map_err(|problem| ApiError::invalid(format!("the parameter '{name}': {problem}")))
    }

    /// Takes the period of `<what>_after`, inclusive, and `<what>_before`, exclusive.
    ///
    /// # Errors
    /// 400 for text that is not an RFC 3339 time.
    pub(super) fn period(&mut self, what: &str) -> Result<Period, ApiError> {
        Ok(Period {
            from: self.parse(&format!("{what}_after"))?,
            to: self.parse(&format!("{what}_before"))?,
        })
    }

    /// Takes `limit`, 1 to 200, by default 50.
    ///
    /// # Errors
    /// 400 for a limit out of range.
    pub(super) fn limit(&mut self) -> Result<u32, ApiError> {
        let limit = self.parse("limit")?.unwrap_or(LIMIT_DEFAULT);
        if (1..=LIMIT_MAX).contains(&limit) {
            Ok(limit)
        } else {
            Err(ApiError::invalid(format!(
                "the parameter 'limit' must be 1 to {LIMIT_MAX}"
            )))
        }
    }

    /// Checks that all parameters have been read.
    ///
    /// # Errors
    /// 400 naming the first unknown parameter.
    pub(super) fn finish(&self) -> Result<(), ApiError> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
                Err(ApiError::invalid(format!(
                    "there is no parameter '{shown}' here"
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_taken_once_and_none_is_left() {
        let mut query = Query::new("status=running&limit=7");
        assert_eq!(
            query.take("status").expect("is fine").as_deref(),
            Some("running")
        );
        assert_eq!(query.take("project_id").expect("is fine"), None);
        assert!(query.finish().is_err());
        assert_eq!(query.limit().expect("is fine"), 7);
        assert!(query.finish().is_ok());
    }

    #[test]
    fn what_is_out_of_range_empty_or_given_twice_is_refused() {
        for limit in ["0", "201", "-1", "ten"] {
            assert!(
                Query::new(&format!("limit={limit}")).limit().is_err(),
                "{limit}"
            );
        }
        for pairs in ["a=1&a=2", "a=", "a", "%61=1&a=2"] {
            assert!(Query::new(pairs).take("a").is_err(), "{pairs}");
        }
    }

    #[test]
    fn repeated_values_are_taken_in_order_and_none_may_be_empty() {
        let mut query = Query::new("a=1&b=2&a=3");
        assert_eq!(query.take_all("a").expect("is fine"), ["1", "3"]);
        assert!(query.take_all("a").expect("is fine").is_empty());
        assert!(query.finish().is_err());
        assert!(Query::new("a=1&a=").take_all("a").is_err());
    }

    #[test]
    fn names_and_values_are_decoded() {
        let mut query = Query::new("n%61me=step%20a%2Fb+c%26&&bad=%ff%zz");
        assert_eq!(
            query.take("name").expect("is fine").as_deref(),
            Some("step a/b c&")
        );
        assert_eq!(
            query.take("bad").expect("is fine").as_deref(),
            Some("\u{fffd}%zz")
        );
        assert!(query.finish().is_ok());
    }
}
