//! Schemathesis for the tests: it reads the API's description and asks for everything that this allows or forbids. And
//! a validator of the description itself. Both are Python's, and live in an environment of their own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{apt, browser, process, workspace};

/// What is installed, all of it by version.
const REQUIREMENTS: &str = "tests/schemathesis/requirements.txt";
/// In the environment, a copy of them: there only when all of them are installed.
const INSTALLED: &str = "installed.txt";

/// What the tests need, or why they cannot be run here.
pub(crate) enum Schemathesis {
    Ready { programs: PathBuf },
    Missing { why: String },
}

/// Finds the folder with the programs, and installs them first if they are missing. On a machine of one's own that has
/// no Python, or no way to its packages, these tests are left out, and it is said.
///
/// # Errors
/// They are missing in CI.
pub(crate) fn ensure(root: &Path) -> Result<Schemathesis, String> {
    match programs(root) {
        Ok(programs) => Ok(Schemathesis::Ready { programs }),
        Err(why) if browser::is_ci() => Err(format!("{why}\nhint: or pass --without-schemathesis")),
        Err(why) => Ok(Schemathesis::Missing { why }),
    }
}

fn programs(root: &Path) -> Result<PathBuf, String> {
    let describe = |error: io::Error| format!("install schemathesis: {error}");
    let requirements = root.join(REQUIREMENTS);
    let wanted = fs::read(&requirements).map_err(describe)?;
    let folder = workspace::target_folder(root)
        .map_err(describe)?
        .join("tools")
        .join("schemathesis");
    let (programs, installed) = (folder.join("bin"), folder.join(INSTALLED));
    // It does not answer when the Python that it was made with is gone.
    let answers = || process::answer(Command::new(programs.join("st")).arg("--version")).is_some();
    if fs::read(&installed).is_ok_and(|there| there == wanted) && answers() {
        return Ok(programs);
    }
    super::test::tell("installing schemathesis with pip");
    make_environment(&folder)?;
    let mut pip = Command::new(programs.join("pip"));
    // All that is needed is named, so nothing is to be looked for.
    pip.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
        "--requirement",
    ]);
    pip.arg(&requirements);
    perform(&mut pip)?;
    fs::write(&installed, wanted).map_err(describe)?;
    Ok(programs)
}

/// Debian has the module `venv` in a package of its own, and without it leaves half of an environment behind.
fn make_environment(folder: &Path) -> Result<(), String> {
    let make = || {
        perform(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(folder),
        )
    };
    let Err(problem) = make() else { return Ok(()) };
    if apt::may_install().is_err() {
        return Err(format!(
            "{problem}\nhint: install Python 3.11 or newer with its module venv (Debian: `sudo apt-get install python3-venv`)"
        ));
    }
    super::test::tell(
        "Python's module venv is missing; installing Debian's package `python3-venv` with apt-get",
    );
    apt::install(&["python3-venv"])?;
    make()
}

/// Runs a program without what Python finds elsewhere. What it says is progress, and stdout is for results.
fn perform(command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}");
    command
        .env_remove("PYTHONPATH")
        .env_remove("PYTHONHOME")
        .env_remove("PIP_TARGET")
        .env_remove("PIP_PREFIX");
    let status = command.stdin(Stdio::null()).stdout(io::stderr()).status();
    let status = status.map_err(|error| format!("start {shown}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("run {shown}: {status}"))
    }
}
