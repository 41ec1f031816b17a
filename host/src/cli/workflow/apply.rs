//! `workflow apply`: files, folders and stdin, one definition after the other.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::applied_line;
use crate::cli::client::{Client, ClientError, Payload};
use crate::cli::error::CliError;
use crate::cli::output::{Output, cell, count, escape, tell};
use crate::model::definition::SOURCE_BYTES_MAX;
use crate::model::yaml::Place;

/// File extensions of definitions in a folder.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];
/// Deepest nesting of folders.
const DEPTH_MAX: usize = 32;
/// Most definitions that one command applies.
const FILES_MAX: usize = 10_000;
/// The path that means stdin.
const STDIN: &str = "-";

/// Applies the definitions in `paths` and prints one result for each. A mistake in one definition
/// does not stop the others.
///
/// # Errors
/// Some definitions were not applied. An unreachable server, or a server that refuses the token,
/// ends the command at once.
pub(super) fn apply(client: &Client, output: Output, paths: &[PathBuf]) -> Result<(), CliError> {
    let mut failed = 0;
    let mut sources = Vec::new();
    for path in paths {
        match listed(path) {
            Ok(found) => sources.extend(found),
            Err(error) => {
                tell_mistake(&error);
                failed += 1;
            }
        }
    }
    let all = sources.len() + failed;
    for source in &sources {
        match apply_one(client, source) {
            Ok(version) => output.show(&version, |version| {
                let line = applied_line(version);
                let result = match cell(version, "/result").as_str() {
                    // A server of an earlier release sends no result.
                    "-" => String::new(),
                    result => format!(", {result}"),
                };
                format!("{}: {line}{}\n", escape(&shown(source)), escape(&result))
            })?,
            Err(NotApplied::Ends(error)) => return Err(error),
            Err(NotApplied::Mistakes(mistakes)) => {
                mistakes.iter().for_each(|mistake| tell_mistake(mistake));
                failed += 1;
            }
        }
    }
    match (failed, all) {
        (0, _) => Ok(()),
        (1, 1) => Err(CliError::new("the definition was not applied")),
        (failed, all) => {
            let message = format!("{failed} of {} were not applied", count(all, "definition"));
            Err(CliError::new(message))
        }
    }
}

/// The reason that a definition was not applied.
enum NotApplied {
    /// The server would refuse or miss every other definition too.
    Ends(CliError),
    /// The mistakes of this definition. Each begins with the name of the file.
    Mistakes(Vec<String>),
}

fn tell_mistake(mistake: &str) {
    for (index, line) in mistake.split('\n').enumerate() {
        let margin = if index == 0 { "error: " } else { "  " };
        tell(&format!("{margin}{}", escape(line)));
    }
}

fn shown(source: &Path) -> String {
    if source.as_os_str() == STDIN {
        "stdin".to_owned()
    } else {
        source.display().to_string()
    }
}

fn apply_one(client: &Client, source: &Path) -> Result<Value, NotApplied> {
    let text = read(source).map_err(|mistake| NotApplied::Mistakes(vec![mistake]))?;
    let name = shown(source);
    match client.post("/workflows", Payload::Text(&text)) {
        Ok(version) => Ok(version),
        Err(
            error @ (ClientError::Unreachable { .. }
            | ClientError::Api {
                status: 401 | 403, ..
            }),
        ) => Err(NotApplied::Ends(error.into())),
        Err(ClientError::Api { problems, .. }) if !problems.is_empty() => {
            Err(NotApplied::Mistakes(
                problems
                    .iter()
                    .map(|problem| mistake(&name, problem))
                    .collect(),
            ))
        }
        Err(error) => Err(NotApplied::Mistakes(vec![format!("{name}: {error}")])),
    }
}

/// Formats a mistake as `order.yaml:4:19: …`, with the line of the text below it.
fn mistake(name: &str, problem: &Value) -> String {
    let number = |field: &str| problem.get(field).and_then(Value::as_u64);
    let mut text = match (number("line"), number("column")) {
        (Some(line), Some(column)) => format!("{name}:{line}:{column}: "),
        _ => format!("{name}: "),
    };
    text.push_str(&escape(&cell(problem, "/message")));
    if let Some(excerpt) = problem.get("excerpt").and_then(Value::as_str) {
        text.push('\n');
        text.push_str(excerpt);
    }
    text
}

/// Reads a definition. Stops reading above the largest size of a definition.
fn read(source: &Path) -> Result<String, String> {
    let name = shown(source);
    let most = SOURCE_BYTES_MAX as u64 + 1;
    let mut bytes = Vec::new();
    let read = if source.as_os_str() == STDIN {
        io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        File::open(source).and_then(|file| file.take(most).read_to_end(&mut bytes))
    };
    read.map_err(|error| format!("{name}: cannot be read: {error}"))?;
    if bytes.len() > SOURCE_BYTES_MAX {
        return Err(format!(
            "{name}: a definition has at most {SOURCE_BYTES_MAX} bytes, and this has more"
        ));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(format!(
            "{name}: this is UTF-16; save the file as UTF-8 text"
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(error.as_bytes().get(..valid).unwrap_or_default());
        let Place { line, column } = Place::of(&before, valid);
        format!("{name}:{line}:{column}: this is not UTF-8; save the file as UTF-8 text")
    })
}

/// Returns the files of a path: the path itself, or the definitions below a folder, sorted by name.
fn listed(path: &Path) -> Result<Vec<PathBuf>, String> {
    if path.as_os_str() == STDIN || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    list_below(path, 0, &mut files)?;
    if files.is_empty() {
        let wanted = EXTENSIONS
            .map(|extension| format!("*.{extension}"))
            .join(", ");
        return Err(format!(
            "{}: there is none of {wanted} below it",
            path.display()
        ));
    }
    Ok(files)
}

/// Collects the definitions below a folder. Skips hidden files and folders, and links to folders.
fn list_below(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let wrong = |error: io::Error| format!("{}: cannot be listed: {error}", folder.display());
    if depth > DEPTH_MAX {
        return Err(format!(
            "{}: folders nest deeper than {DEPTH_MAX}",
            folder.display()
        ));
    }
    let entries = fs::read_dir(folder).map_err(wrong)?;
    let mut entries: Vec<_> = entries.collect::<Result<_, _>>().map_err(wrong)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let kind = entry.file_type().map_err(wrong)?;
        let extension = path.extension().and_then(|extension| extension.to_str());
        if kind.is_dir() {
            list_below(&path, depth + 1, files)?;
        } else if extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
            && path.is_file()
        {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            return Err(format!(
                "{}: there are more than {FILES_MAX} definitions below it",
                folder.display()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_means_its_definitions_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("b/.git")).expect("folders");
        for name in [
            "c.yaml",
            "a.json",
            "b/z.yml",
            "b/y.yaml",
            "b/.git/x.yaml",
            ".hidden.yaml",
            "README.md",
        ] {
            fs::write(at(name), "").expect("writes");
        }
        let found = listed(folder.path()).expect("lists");
        assert_eq!(found, ["a.json", "b/y.yaml", "b/z.yml", "c.yaml"].map(at));
        fs::create_dir(at("empty")).expect("a folder");
        assert!(
            listed(&at("empty"))
                .expect_err("is empty")
                .contains("*.yaml")
        );
    }

    #[test]
    fn a_file_that_is_no_text_is_named_with_the_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("w.yaml");
        fs::write(&path, b"name: w\nsteps: \xe4\n").expect("writes");
        let mistake = read(&path).expect_err("is not UTF-8");
        assert!(
            mistake.ends_with("w.yaml:2:8: this is not UTF-8; save the file as UTF-8 text"),
            "{mistake}"
        );
        fs::write(&path, vec![b'#'; SOURCE_BYTES_MAX + 1]).expect("writes");
        assert!(read(&path).expect_err("is too long").contains("at most"));
        assert!(
            read(&folder.path().join("none"))
                .expect_err("is missing")
                .contains("cannot be read")
        );
    }
}
