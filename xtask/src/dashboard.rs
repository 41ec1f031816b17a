//! `cargo xtask dashboard`: builds the page that the host embeds, from `dashboard/` into `host/assets/dashboard/`.
//!
//! What is built is committed, because whoever builds the host should need no node. `--check` builds it once more and
//! compares. Compressed files are left out of that: other versions of zlib compress to other bytes.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

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
/// There is no npm, the source does not build, or what is committed is not what it builds to.
pub(crate) fn run(root: &Path, options: &Options) -> Result<(), String> {
    let source = root.join(SOURCE);
    install(&source)?;
    npm(&source, &["run", "--silent", "check"])?;
    let target = root.join(TARGET);
    if !options.check {
        return build(&source, &target);
    }
    let folder = tempfile::tempdir().map_err(|error| format!("make a temporary folder: {error}"))?;
    build(&source, folder.path())?;
    for name in COMPARED {
        let read = |folder: &Path| fs::read(folder.join(name)).map_err(|error| format!("read {name}: {error}"));
        if read(folder.path())? != read(&target)? {
            return Err(format!("find {TARGET}/{name} as {SOURCE}/ builds it\nhint: cargo xtask dashboard"));
        }
    }
    Ok(())
}

/// Installs exactly what the lockfile names. No package runs a script of its own.
pub(crate) fn install(folder: &Path) -> Result<(), String> {
    npm(folder, &["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
}

fn build(source: &Path, target: &Path) -> Result<(), String> {
    perform(Command::new("node").current_dir(source).arg("build.mjs").arg(target))
}

fn npm(folder: &Path, arguments: &[&str]) -> Result<(), String> {
    perform(Command::new("npm").current_dir(folder).args(arguments))
}

fn perform(command: &mut Command) -> Result<(), String> {
    // What npm says is progress, and stdout is for results.
    let shown = format!("{command:?}");
    let status = command.stdin(Stdio::null()).stdout(std::io::stderr()).status();
    let status = status.map_err(|error| {
        format!(
            "start {shown}: {error}\nhint: install node 20 or newer with npm (Debian: `apt-get install nodejs npm`)"
        )
    })?;
    if status.success() { Ok(()) } else { Err(format!("run {shown}: {status}")) }
}
