//! `cargo xtask dashboard`: builds the page that the host embeds, from `dashboard/` into `host/assets/dashboard/`.
//!
//! What is built is committed, because whoever builds the host should need no node. `--check` builds it once more and
//! compares. Compressed files are left out of that: other versions of zlib compress to other bytes.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::node;

/// `cargo xtask dashboard`
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only compare what is committed with what would be built
    #[arg(long)]
    check: bool,
}

const SOURCE: &str = "dashboard";
const TARGET: &str = "host/assets/dashboard";
/// What must be the same to the byte.
const COMPARED: [&str; 4] = ["dashboard.js", "dashboard.css", "icon.svg", "index.html"];

/// Checks the types, and builds or compares.
///
/// # Errors
/// There is no node, the source does not build, or what is committed is not what it builds to.
pub(crate) fn run(root: &Path, options: &Options) -> Result<(), String> {
    if options.check {
        check(root)
    } else {
        build(&prepare(root)?, &root.join(TARGET))
    }
}

/// Compares what is committed with what would be built.
///
/// # Errors
/// As [`run`].
pub(crate) fn check(root: &Path) -> Result<(), String> {
    let source = prepare(root)?;
    let folder =
        tempfile::tempdir().map_err(|error| format!("make a temporary folder: {error}"))?;
    build(&source, folder.path())?;
    for name in COMPARED {
        let read = |folder: &Path| {
            fs::read(folder.join(name)).map_err(|error| format!("read {name}: {error}"))
        };
        if read(folder.path())? != read(&root.join(TARGET))? {
            return Err(format!(
                "find {TARGET}/{name} as {SOURCE}/ builds it\nhint: cargo xtask dashboard"
            ));
        }
    }
    Ok(())
}

/// The source's folder, with all that it is built with, and its types checked.
fn prepare(root: &Path) -> Result<std::path::PathBuf, String> {
    node::ensure()?;
    let source = root.join(SOURCE);
    node::install(&source)?;
    node::npm(&source, &["run", "--silent", "check"])?;
    Ok(source)
}

fn build(source: &Path, target: &Path) -> Result<(), String> {
    node::perform(
        Command::new("node")
            .current_dir(source)
            .arg("build.mjs")
            .arg(target),
    )
}
