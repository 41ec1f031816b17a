//! Static files that are compiled into the program: the dashboard's page, script, style and icon,
//! which `cargo xtask dashboard` builds from `dashboard/`, and the style of the API reference.
//!
//! The files are public, because they hold no data. Their names contain a hash of their content, so
//! browsers cache them for good and never mix two versions.

use std::sync::LazyLock;

use bytes::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderValue, VARY,
};
use hyper::{HeaderMap, Response, StatusCode};
use sha2::{Digest as _, Sha256};

use super::accept;
use super::conditional;
use super::error::ApiError;
use super::request::Request;
use super::response::{Content, HandlerResult};

/// The pages' content security policy: only our own files, no inline code, no framing. Charts and
/// icons are drawn by the script.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The assets' folder, relative to `/workflow-metrics/dashboard`. All addresses of the page are
/// relative, so that it also works under a path of a reverse proxy.
const FOLDER: &str = "dashboard/assets/";
/// The assets' folder, relative to `/reference`.
const FOLDER_FROM_REFERENCE: &str = "workflow-metrics/dashboard/assets/";
/// Bytes of a content hash in a file's name. The hash distinguishes versions and is not a
/// protection.
const HASH_BYTES: usize = 8;

/// A built file, also as gzip if that is smaller.
struct Source {
    stem: &'static str,
    extension: &'static str,
    content_type: &'static str,
    plain: &'static [u8],
    gzip: Option<&'static [u8]>,
}

const SOURCES: [Source; 4] = [
    Source {
        stem: "dashboard",
        extension: "js",
        content_type: "text/javascript; charset=utf-8",
        plain: include_bytes!("../../assets/dashboard/dashboard.js"),
        gzip: Some(include_bytes!("../../assets/dashboard/dashboard.js.gz")),
    },
    Source {
        stem: "dashboard",
        extension: "css",
        content_type: "text/css; charset=utf-8",
        plain: include_bytes!("../../assets/dashboard/dashboard.css"),
        gzip: Some(include_bytes!("../../assets/dashboard/dashboard.css.gz")),
    },
    Source {
        stem: "icon",
        extension: "svg",
        content_type: "image/svg+xml",
        plain: include_bytes!("../../assets/dashboard/icon.svg"),
        gzip: None,
    },
    Source {
        stem: REFERENCE,
        extension: "css",
        content_type: "text/css; charset=utf-8",
        plain: include_bytes!("openapi/reference.css"),
        gzip: None,
    },
];
/// Stem of the API reference's style, which does not belong to the dashboard.
const REFERENCE: &str = "reference";
const PAGE: &str = include_str!("../../assets/dashboard/index.html");

/// The page and the files under their final names.
struct Assets {
    page: String,
    page_tag: HeaderValue,
    files: Vec<File>,
}

struct File {
    name: String,
    tag: HeaderValue,
    source: &'static Source,
}

static ASSETS: LazyLock<Assets> = LazyLock::new(|| {
    let mut page = PAGE.to_owned();
    let files = SOURCES.iter().map(|source| {
        let hash = hash(source.plain);
        let name = format!("{}.{hash}.{}", source.stem, source.extension);
        page = page.replace(
            &format!("assets/{}.{}", source.stem, source.extension),
            &format!("{FOLDER}{name}"),
        );
        File {
            name,
            tag: tag(&hash),
            source,
        }
    });
    let files = files.collect();
    Assets {
        page_tag: tag_of(page.as_bytes()),
        page,
        files,
    }
});

/// Returns the path of the API reference's style, relative to `/reference`.
pub(super) fn reference_style() -> String {
    from_reference(REFERENCE)
}

/// Returns the path of the icon, relative to `/reference`. Without it a browser would ask for
/// `/favicon.ico`, which is another program's behind a proxy.
pub(super) fn reference_icon() -> String {
    from_reference("icon")
}

fn from_reference(stem: &str) -> String {
    let file = ASSETS
        .files
        .iter()
        .find(|file| file.source.stem == stem)
        .expect("is one of them");
    format!("{FOLDER_FROM_REFERENCE}{}", file.name)
}

/// Returns the `ETag` of a content.
pub(super) fn tag_of(bytes: &[u8]) -> HeaderValue {
    tag(&hash(bytes))
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .take(HASH_BYTES)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn tag(hash: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{hash}\"")).expect("hexadecimal digits are a header's value")
}

/// Serves the dashboard's page. The page fetches its data itself, with the token that the user
/// enters.
pub(super) async fn show_page(request: Request) -> HandlerResult {
    // The query string is ignored: the page keeps its state in the fragment.
    let mut response = unless_known(
        &request.head.headers,
        &ASSETS.page_tag,
        Bytes::from_static(ASSETS.page.as_bytes()),
    );
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// Serves a file that a page refers to.
pub(super) async fn show_asset(request: Request) -> HandlerResult {
    request.query.finish()?;
    let name = request.parameter("file")?;
    let file = ASSETS
        .files
        .iter()
        .find(|file| file.name == name)
        .ok_or_else(|| ApiError::not_found("file"))?;
    let gzip = file
        .source
        .gzip
        .filter(|_| accept::gzip(&request.head.headers));
    let bytes = Bytes::from_static(gzip.unwrap_or(file.source.plain));
    let mut response = unless_known(&request.head.headers, &file.tag, bytes);
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(file.source.content_type),
    );
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=31536000, immutable"),
    );
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if gzip.is_some() {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

/// Returns 200 with `body`, or 304 if the client has the same content already.
pub(super) fn unless_known(
    headers: &HeaderMap,
    tag: &HeaderValue,
    body: Bytes,
) -> Response<Content> {
    let ours = tag.to_str().unwrap_or_default().trim_matches('"');
    let known = conditional::knows(headers, ours);
    let mut response = Response::new(Content::Whole(if known { Bytes::new() } else { body }));
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    response.headers_mut().insert(ETAG, tag.clone());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_file_by_its_hash_and_nothing_else() {
        for file in ASSETS
            .files
            .iter()
            .filter(|file| file.source.stem != REFERENCE)
        {
            assert!(
                ASSETS.page.contains(&format!("\"{FOLDER}{}\"", file.name)),
                "{}",
                file.name
            );
        }
        assert_eq!(
            ASSETS.page.matches("assets/").count(),
            ASSETS.files.len() - 1
        );
    }

    #[test]
    fn the_page_has_nothing_that_its_policy_forbids() {
        for inline in [
            "<style",
            " style=",
            " onload=",
            "javascript:",
            "http:",
            "https:",
        ] {
            assert!(!PAGE.contains(inline), "{inline}");
        }
        assert_eq!(
            PAGE.matches("<script").count(),
            PAGE.matches("<script type=\"module\" src=").count()
        );
    }
}
