//! Input of commands: a file, or stdin if its name is `-`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::error::CliError;

/// The name that stands for stdin.
const STDIN: &str = "-";
/// The byte order mark that Windows programs put before a text in UTF-8.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Returns the name of a source for messages.
pub(super) fn shown(source: &Path) -> String {
    if is_stdin(source) {
        "stdin".to_owned()
    } else {
        source.display().to_string()
    }
}

/// Returns true if a name stands for stdin.
pub(super) fn is_stdin(source: &Path) -> bool {
    source.as_os_str() == STDIN
}

/// Reads all bytes of a file or of stdin.
pub(super) fn read_bytes(source: &Path) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let read = if is_stdin(source) {
        io::stdin().lock().read_to_end(&mut bytes)
    } else {
        File::open(source).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    match read {
        Ok(_) => Ok(bytes),
        Err(error) => Err(cannot_read(source, &error)),
    }
}

/// Reads a text in UTF-8. A leading byte order mark is removed.
pub(super) fn read_text(source: &Path) -> Result<String, CliError> {
    let text = String::from_utf8(read_bytes(source)?).map_err(|error| {
        CliError::with_hint(
            format!(
                "{} is not a text in UTF-8: byte {} is wrong",
                shown(source),
                error.utf8_error().valid_up_to() + 1
            ),
            "save it as UTF-8; PowerShell's `>` writes UTF-16",
        )
    })?;
    Ok(without_mark(&text).to_owned())
}

/// Returns a text without a leading byte order mark.
pub(super) fn without_mark(text: &str) -> &str {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// Returns bytes without a leading byte order mark.
pub(super) fn bytes_without_mark(bytes: &[u8]) -> &[u8] {
    bytes
        .strip_prefix(BYTE_ORDER_MARK.as_bytes())
        .unwrap_or(bytes)
}

fn cannot_read(source: &Path, error: &io::Error) -> CliError {
    CliError::new(format!("cannot read {}: {}", shown(source), plain(error)))
}

/// Returns the text of an error of the operating system without its number.
pub(super) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" (os error ") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_skipped_once() {
        assert_eq!(without_mark("\u{feff}{}"), "{}");
        assert_eq!(without_mark("{}\u{feff}"), "{}\u{feff}");
        assert_eq!(bytes_without_mark(b"\xef\xbb\xbf{}"), b"{}");
    }

    #[test]
    fn files_that_cannot_be_read_are_named() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let missing = folder.path().join("none.json");
        let error = read_text(&missing).expect_err("is not there");
        assert!(error.message.contains("none.json"), "{}", error.message);
        assert!(!error.message.contains("os error"), "{}", error.message);
        let wide = folder.path().join("wide.json");
        std::fs::write(&wide, b"\xff\xfe{\0}\0").expect("writes");
        let error = read_text(&wide).expect_err("is UTF-16");
        assert!(error.message.contains("UTF-8"), "{}", error.message);
    }
}
