//! `cargo xtask dashboard`: builds the page that the host embeds, from `dashboard/` into
//! `host/assets/dashboard/`.
//!
//! The built files are committed, so that a build of the host needs no node. `--check` builds them
//! again and compares. Compressed files are not compared, because other versions of zlib produce
//! other bytes.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::node;

/// Options of `cargo xtask dashboard`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only compare what is committed with what would be built
    #[arg(long)]
    check: bool,
}

const SOURCE: &str = "dashboard";
const TARGET: &str = "host/assets/dashboard";
/// Files that must be equal byte for byte.
const COMPARED: [&str; 4] = ["dashboard.js", "dashboard.css", "icon.svg", "index.html"];

/// Checks the types, and builds or compares.
///
/// # Errors
/// Fails if node is missing, the source does not build, or the committed files differ from the
/// built ones.
pub(crate) fn run(root: &Path, options: &Options) -> Result<(), String> {
    if options.check {
        check(root)
    } else {
        build(&prepare(root)?, &root.join(TARGET))
    }
}

/// Compares the committed files with a new build.
///
/// # Errors
/// Fails as [`run`] does.
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

/// Installs the packages and checks the types. Returns the folder of the source.
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
