//! Conditional requests (RFC 9110, section 13): `ETag`, `If-None-Match` for reads, and `If-Match` for
//! changes, which prevents lost updates.
//!
//! A tag names the state of a row, such as the number of its version. A compressed response has the
//! tag with [`GZIP`] appended, because its bytes differ; both tags name the same state.

use bytes::Bytes;
use hyper::header::{ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use hyper::{Response, StatusCode};

use super::error::ApiError;
use super::response::Content;
use crate::model::Precondition;

/// The end of the tag of a compressed response.
pub(super) const GZIP: &str = "-gzip";

/// Returns the header for a tag. The tag has ASCII letters, digits, `-` and `.` only.
pub(super) fn quoted(tag: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{tag}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Adds a tag to a response.
pub(super) fn tagged(mut response: Response<Content>, tag: &str) -> Response<Content> {
    response.headers_mut().insert(ETAG, quoted(tag));
    response
}

/// Returns 304 if the client knows the state with this tag. Weak tags count: a proxy may have
/// weakened ours.
pub(super) fn unless_changed(headers: &HeaderMap, tag: &str) -> Option<Response<Content>> {
    knows(headers, tag).then(|| {
        let mut response = Response::new(Content::Whole(Bytes::new()));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        tagged(response, tag)
    })
}

/// Returns whether `If-None-Match` has the tag, or `*`.
pub(super) fn knows(headers: &HeaderMap, tag: &str) -> bool {
    let lists = headers.get_all(IF_NONE_MATCH).iter();
    lists
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .any(|one| {
            let one = one.trim();
            one == "*" || unquoted(one.trim_start_matches("W/")) == Some(tag)
        })
}

/// Reads the precondition of a change. Weak tags in `If-Match` match nothing, as the standard says.
///
/// # Errors
/// 400 for a malformed header, for both headers together, and for tags in `If-None-Match`, which
/// mean nothing for a change.
pub(super) fn precondition(headers: &HeaderMap) -> Result<Precondition, ApiError> {
    let wanted = list(headers, &IF_MATCH)?;
    let unwanted = list(headers, &IF_NONE_MATCH)?;
    match (wanted.as_deref(), unwanted.as_deref()) {
        (None, None) => Ok(Precondition::None),
        (Some(_), Some(_)) => Err(ApiError::invalid(
            "send If-Match or If-None-Match, not both",
        )),
        (None, Some(["*"])) => Ok(Precondition::Absent),
        (None, Some(_)) => Err(ApiError::invalid(
            "If-None-Match of a change must be '*': the row must not exist",
        )),
        (Some(["*"]), None) => Ok(Precondition::Present),
        (Some(tags), None) => {
            let mut all = Vec::new();
            for tag in tags {
                let is_weak = tag.starts_with("W/");
                let tag = unquoted(tag.trim_start_matches("W/")).ok_or_else(|| {
                    ApiError::invalid(format!(
                        "If-Match must be '*' or the ETag of an earlier response, with its quotes: \"4\", not {tag}"
                    ))
                })?;
                if !is_weak {
                    all.push(tag.to_owned());
                }
            }
            Ok(Precondition::AnyOf(all))
        }
    }
}

/// Like [`precondition`], for a route whose row always exists: only `If-Match` means something.
///
/// # Errors
/// 400 for `If-None-Match`, and those of [`precondition`].
pub(super) fn if_match(headers: &HeaderMap) -> Result<Precondition, ApiError> {
    match precondition(headers)? {
        Precondition::Absent => Err(ApiError::invalid(
            "If-None-Match means nothing here: this request changes what exists",
        )),
        other => Ok(other),
    }
}

/// Returns the items of a header that is a list; none without the header.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<Vec<&'a str>>, ApiError> {
    let mut items = Vec::new();
    for value in headers.get_all(name) {
        let text = value
            .to_str()
            .map_err(|_| ApiError::invalid(format!("the header {name} is not ASCII")))?;
        items.extend(
            text.split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty()),
        );
    }
    match headers.contains_key(name) {
        true if items.is_empty() => Err(ApiError::invalid(format!("the header {name} is empty"))),
        true => Ok(Some(items)),
        false => Ok(None),
    }
}

/// Returns the tag between the quotes, without the mark of a compressed response.
fn unquoted(text: &str) -> Option<&str> {
    let tag = text.strip_prefix('"')?.strip_suffix('"')?;
    Some(tag.strip_suffix(GZIP).unwrap_or(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("is a header"));
        headers
    }

    fn any_of(tags: &[&str]) -> Precondition {
        Precondition::AnyOf(tags.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn headers_become_preconditions() {
        for (text, expected) in [
            ("*", Precondition::Present),
            ("\"4\"", any_of(&["4"])),
            ("\"4-gzip\" , \"5\"", any_of(&["4", "5"])),
            ("W/\"4\"", any_of(&[])),
        ] {
            let read = precondition(&headers(IF_MATCH, text));
            assert_eq!(read.expect("is one"), expected, "{text}");
        }
        let absent = headers(IF_NONE_MATCH, "*");
        assert_eq!(precondition(&absent).expect("is one"), Precondition::Absent);
        assert!(if_match(&absent).is_err());
        assert_eq!(
            precondition(&HeaderMap::new()).expect("is none"),
            Precondition::None
        );
        for (name, text) in [
            (IF_MATCH, "4"),
            (IF_MATCH, "\"4"),
            (IF_MATCH, ""),
            (IF_MATCH, " , "),
            (IF_NONE_MATCH, "\"4\""),
        ] {
            assert!(precondition(&headers(name, text)).is_err(), "{text}");
        }
        let mut both = headers(IF_MATCH, "*");
        both.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        assert!(precondition(&both).is_err());
    }

    #[test]
    fn readers_that_know_the_state_get_304() {
        for (text, known) in [
            ("\"4\"", true),
            ("W/\"4-gzip\"", true),
            ("\"3\", \"4\"", true),
            ("*", true),
            ("\"40\"", false),
            ("4", false),
        ] {
            let response = unless_changed(&headers(IF_NONE_MATCH, text), "4");
            assert_eq!(response.is_some(), known, "{text}");
            if let Some(response) = response {
                assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
                assert_eq!(response.headers()[ETAG], "\"4\"");
            }
        }
    }
}
