//! Schemathesis for the tests, and a validator of the API's description. Schemathesis reads the
//! description and sends requests that it allows or forbids. Both are Python programs in an
//! environment of their own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{apt, browser, process, workspace};

/// The packages to install, each with its version.
const REQUIREMENTS: &str = "tests/schemathesis/requirements.txt";
/// A copy of the requirements in the environment. It exists only if all packages are installed.
const INSTALLED: &str = "installed.txt";

/// The programs that the tests need, or the reason why the tests cannot run here.
pub(crate) enum Schemathesis {
    Ready { programs: PathBuf },
    Missing { why: String },
}

/// Finds the folder with the programs, and installs them first if they are missing. On a
/// developer's machine without Python, or without access to its packages, the tests are left out
/// with a note.
///
/// # Errors
/// Fails in CI if the programs are missing.
pub(crate) fn ensure(root: &Path) -> Result<Schemathesis, String> {
    match programs(root) {
        Ok(programs) => Ok(Schemathesis::Ready { programs }),
        Err(why) if browser::is_ci() => Err(format!("{why}\nhint: or pass --without-schemathesis")),
        Err(why) => Ok(Schemathesis::Missing { why }),
    }
}

fn programs(root: &Path) -> Result<PathBuf, String> {
    let folder = workspace::target_folder(root)
        .map_err(|error| format!("install schemathesis: {error}"))?
        .join("tools")
        .join("schemathesis");
    environment(&folder, &root.join(REQUIREMENTS), "st")
}

/// Makes an environment of Python in `folder` with the packages of a file, unless it is there.
/// Returns the folder of its programs. `program` is one of them, which is asked for its version.
///
/// # Errors
/// Fails without Python, or without access to its packages.
pub(crate) fn environment(
    folder: &Path,
    requirements: &Path,
    program: &str,
) -> Result<PathBuf, String> {
    let describe = |error: io::Error| format!("install {program}: {error}");
    let wanted = fs::read(requirements).map_err(describe)?;
    let (programs, installed) = (folder.join("bin"), folder.join(INSTALLED));
    // The program fails if the Python that made the environment was removed.
    let answers =
        || process::answer(Command::new(programs.join(program)).arg("--version")).is_some();
    if fs::read(&installed).is_ok_and(|there| there == wanted) && answers() {
        return Ok(programs);
    }
    process::tell(&format!("installing {program} with pip"));
    make_environment(folder)?;
    let mut pip = Command::new(programs.join("pip"));
    // The file names all packages, so pip need not resolve dependencies.
    pip.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
        "--requirement",
    ]);
    pip.arg(requirements);
    perform(&mut pip)?;
    fs::write(&installed, wanted).map_err(describe)?;
    Ok(programs)
}

/// Creates the environment. Debian has the module `venv` in a package of its own, and without it
/// leaves half of an environment behind.
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
    process::tell(
        "Python's module venv is missing; installing Debian's package `python3-venv` with apt-get",
    );
    apt::install(&["python3-venv"])?;
    make()
}

/// Runs a program without Python's variables from the environment. Its output is progress, and
/// stdout is for results.
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
