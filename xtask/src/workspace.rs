//! Folders of the project: the checkout, and the folder for built files.

use std::env;
use std::io;
use std::path::{Path, PathBuf};

/// Returns the root of the checkout. When cargo runs this program, cargo names the root. Otherwise
/// it is searched upwards from the current folder. A path fixed at compile time would be wrong
/// after the checkout has moved.
pub(crate) fn root() -> io::Result<PathBuf> {
    if let Some(manifest) = env::var_os("CARGO_MANIFEST_DIR")
        && let Some(root) = Path::new(&manifest).parent()
        && is_root(root)
    {
        return Ok(root.into());
    }
    let current = env::current_dir()?;
    current
        .ancestors()
        .find(|folder| is_root(folder))
        .map(Path::to_path_buf)
        .ok_or_else(|| io::Error::other("this is not inside of a checkout of Stepwell"))
}

fn is_root(folder: &Path) -> bool {
    folder.join("examples/Cargo.toml").is_file() && folder.join("xtask/Cargo.toml").is_file()
}

/// Returns cargo's target folder of the root workspace.
pub(crate) fn target_folder(root: &Path) -> io::Result<PathBuf> {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => std::path::absolute(folder),
        None => Ok(root.join("target")),
    }
}

/// Returns the path for people: relative to the current folder if it is inside of it.
pub(crate) fn shown(path: &Path) -> String {
    let current = env::current_dir().unwrap_or_default();
    path.strip_prefix(current)
        .unwrap_or(path)
        .display()
        .to_string()
}
