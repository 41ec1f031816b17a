//! Content negotiation: the `Accept` and `Accept-Encoding` headers, as far as responses differ.

use hyper::HeaderMap;
use hyper::header::{ACCEPT, ACCEPT_ENCODING};

/// Returns whether the client names `text/html` and weighs it at least as high as JSON. `*/*`
/// alone, which programs send, does not count.
pub(super) fn html(headers: &HeaderMap) -> bool {
    let html = weight(headers, "text/html");
    html > 0.0 && html >= weight(headers, "application/json")
}

/// Returns whether the client accepts gzip.
pub(super) fn gzip(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(ACCEPT_ENCODING).iter();
    codings
        .filter_map(|value| value.to_str().ok())
        .any(|value| listed(value, "gzip") > 0.0)
}

fn weight(headers: &HeaderMap, media_type: &str) -> f32 {
    let values = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .map(|value| listed(value, media_type))
        .fold(0.0, f32::max)
}

/// Returns the weight of a name in a list such as `a, b;q=0.5`: 1 without `q`, and 0 if the name is
/// missing or `q` is not a number.
fn listed(list: &str, name: &str) -> f32 {
    let mut weights = list.split(',').filter_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        parts
            .next()
            .filter(|known| known.eq_ignore_ascii_case(name))?;
        let quality = parts.find_map(|part| part.strip_prefix("q="));
        Some(quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0)))
    });
    weights.next().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants_html(accept: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().expect("is a header"));
        html(&headers)
    }

    #[test]
    fn browsers_get_the_page_and_programs_get_data() {
        assert!(wants_html(
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
        ));
        assert!(wants_html(
            "TEXT/HTML; charset=utf-8, application/json;q=0.9"
        ));
        for accept in [
            "*/*",
            "application/json",
            "text/*",
            "text/html;q=0",
            "text/html;q=0.4, application/json",
            "",
        ] {
            assert!(!wants_html(accept), "{accept}");
        }
        assert!(!html(&HeaderMap::new()));
    }

    #[test]
    fn weights_that_are_no_numbers_count_as_none() {
        for accept in [
            "text/html;q=",
            "text/html;q=x",
            "text/html;q=NaN",
            "text/html;q=-1",
        ] {
            assert!(!wants_html(accept), "{accept}");
        }
    }
}
