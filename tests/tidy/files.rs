//! The files of the tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders to skip if git cannot be asked.
const SKIPPED: [&str; 4] = [".git", "target", "node_modules", "stepwell-data"];

/// The folder of the host's source.
pub(crate) const SOURCES: &str = "host/src/";
/// The folder of the model's source.
pub(crate) const MODEL_SOURCES: &str = "host/model/src/";

/// A text file of the tree.
pub(crate) struct TextFile {
    /// The path from the root of the tree, with `/`.
    pub path: String,
    pub text: String,
}

/// Returns the root of the tree: the folder above the `stepwell` package.
pub(crate) fn root() -> PathBuf {
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    package.join("..")
}

/// Returns all text files that git tracks or would track; without git, all text files in the tree.
pub(crate) fn text_files() -> Vec<TextFile> {
    let root = root();
    let paths = tracked(&root).unwrap_or_else(|| {
        let mut paths = Vec::new();
        walk(&root, "", &mut paths);
        paths
    });
    assert!(
        paths.iter().any(|path| path == "Cargo.toml"),
        "found no tree at {}",
        root.display()
    );
    // Binary files, and files that were deleted and not yet staged, are left out.
    let read = |path: String| {
        fs::read_to_string(root.join(&path))
            .ok()
            .map(|text| TextFile { path, text })
    };
    paths.into_iter().filter_map(read).collect()
}

/// Returns the text files with this ending below this folder.
pub(crate) fn text_files_below(folder: &str, ending: &str) -> Vec<TextFile> {
    text_files()
        .into_iter()
        .filter(|file| file.path.starts_with(folder) && file.path.ends_with(ending))
        .collect()
}

/// Returns the path of a source file's module: `["store", "cache"]` for
/// `host/src/store/cache/mod.rs`.
pub(crate) fn module_path(path: &str) -> Vec<&str> {
    let below = path.strip_prefix(SOURCES);
    let below = below
        .or_else(|| path.strip_prefix(MODEL_SOURCES))
        .unwrap_or(path);
    let below = below.strip_suffix(".rs").unwrap_or(below);
    below.split('/').filter(|part| *part != "mod").collect()
}

fn tracked(root: &Path) -> Option<Vec<String>> {
    let arguments = [
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ];
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(arguments)
        .output()
        .ok()?;
    let paths = String::from_utf8(output.stdout)
        .ok()
        .filter(|_| output.status.success())?;
    // `others` and `cached` are read one after the other, and a conflict lists a file thrice.
    let mut paths: Vec<_> = paths
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(str::to_owned)
        .collect();
    paths.sort_unstable();
    paths.dedup();
    Some(paths)
}

fn walk(folder: &Path, prefix: &str, paths: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !SKIPPED.contains(&name.as_str()) => {
                walk(&entry.path(), &format!("{path}/"), paths);
            }
            Ok(kind) if kind.is_file() => paths.push(path),
            _ => {}
        }
    }
}
