//! Tests of the dashboard in a real browser. Node's test runner drives Chromium against a server
//! that it starts.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{apt, node, process, workspace};

const FOLDER: &str = "tests/browser";
/// The path of the browser, if it is none of those below.
const VARIABLE: &str = "STEPWELL_TEST_CHROMIUM";
const NAMES: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];
const MAC: &str = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome";
/// Set by all CI services. In CI, tests are left out only if an option says so.
const CI_VARIABLE: &str = "CI";

/// The programs that the tests need, or the reason why the tests cannot run here.
pub(crate) enum Browser {
    Ready { chromium: PathBuf },
    Missing { why: String },
}

/// Finds Chromium and node. Installs them first if they are missing and this process may install
/// packages. A developer of a workflow engine need not have a browser, so on a developer's machine
/// the tests are left out with a note.
///
/// # Errors
/// Fails in CI if Chromium or node is missing.
pub(crate) fn ensure() -> Result<Browser, String> {
    match node::ensure().and_then(|()| chromium()) {
        Ok(chromium) => Ok(Browser::Ready { chromium }),
        Err(why) if is_ci() => Err(format!("{why}\nhint: or pass --without-browser")),
        Err(why) => Ok(Browser::Missing { why }),
    }
}

/// Returns true in CI.
pub(crate) fn is_ci() -> bool {
    std::env::var_os(CI_VARIABLE)
        .is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}

fn chromium() -> Result<PathBuf, String> {
    if let Some(chromium) = find() {
        return Ok(chromium);
    }
    if apt::may_install().is_err() {
        return Err(format!(
            "find Chromium, in which the dashboard is tested\n\
             hint: install it (Debian: `sudo apt-get install chromium`) or name it in {VARIABLE}"
        ));
    }
    process::tell("Chromium is missing; installing Debian's package `chromium` with apt-get");
    apt::install(&["chromium"])?;
    find().ok_or_else(|| "find Chromium in PATH after its installation".to_owned())
}

fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    let in_path = NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    // A link to a package that is not installed is no browser.
    let found = in_path
        .chain([MAC.into()])
        .find(|program| program.is_file());
    found.filter(|program| process::answer(Command::new(program).arg("--version")).is_some())
}

/// Returns the command that runs the tests. Its output ends with `# pass 9` and `# fail 0`.
///
/// # Errors
/// Fails if the packages cannot be installed, or if the server's program does not exist.
pub(crate) fn command(root: &Path, chromium: &Path, guests: &Path) -> Result<Command, String> {
    let folder = root.join(FOLDER);
    node::install(&folder)?;
    let target = workspace::target_folder(root)
        .map_err(|error| format!("find the target folder: {error}"))?;
    let server = target
        .join("release")
        .join(format!("stepwell{}", std::env::consts::EXE_SUFFIX));
    if !server.is_file() {
        return Err(format!(
            "find {}, which `cargo test` builds",
            workspace::shown(&server)
        ));
    }
    let mut command = Command::new("node");
    command
        .current_dir(folder)
        .args(["--test-reporter=tap", "dashboard.mjs"]);
    command
        .env("STEPWELL_TEST_BINARY", server)
        .env("STEPWELL_TEST_GUESTS", guests)
        .env(VARIABLE, chromium);
    command.env("STEPWELL_TEST_SCREENSHOTS", target.join("screenshots"));
    Ok(command)
}
