//! Generators of clients for the tests: openapi-typescript and the TypeScript compiler from npm;
//! openapi-generator (typescript-fetch) and openapi-python-client from PyPI. They read the API's
//! description as its users' generators do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{browser, node, process, schemathesis, workspace};

/// The folder with the packages to install, each with its version.
const SOURCE: &str = "tests/clients";
const NPM_FILES: [&str; 2] = ["package.json", "package-lock.json"];
/// A copy of the lockfile. It exists only if all packages are installed.
const INSTALLED: &str = "installed.json";

/// The generators, or the reason why the tests cannot run here.
pub(crate) enum Clients {
    Ready { folder: PathBuf },
    Missing { why: String },
}

/// Finds the folder with the generators, and installs them first if they are missing. On a
/// developer's machine without node or Python, or without access to their packages, the tests are
/// left out with a note.
///
/// # Errors
/// Fails in CI if a generator is missing.
pub(crate) fn ensure(root: &Path) -> Result<Clients, String> {
    match install(root) {
        Ok(folder) => Ok(Clients::Ready { folder }),
        Err(why) if browser::is_ci() => Err(format!("{why}\nhint: or pass --without-clients")),
        Err(why) => Ok(Clients::Missing { why }),
    }
}

fn install(root: &Path) -> Result<PathBuf, String> {
    let describe = |error: io::Error| format!("install the generators of clients: {error}");
    let source = root.join(SOURCE);
    let folder = workspace::target_folder(root)
        .map_err(describe)?
        .join("tools")
        .join("clients");
    fs::create_dir_all(&folder).map_err(describe)?;
    node::ensure()?;
    let [_, lockfile] = NPM_FILES;
    let wanted = fs::read(source.join(lockfile)).map_err(describe)?;
    let installed = folder.join(INSTALLED);
    if !fs::read(&installed).is_ok_and(|there| there == wanted) {
        process::tell("installing openapi-typescript with npm");
        for name in NPM_FILES {
            fs::copy(source.join(name), folder.join(name)).map_err(describe)?;
        }
        node::install(&folder)?;
        fs::write(&installed, wanted).map_err(describe)?;
    }
    schemathesis::environment(
        &folder.join("python"),
        &source.join("requirements.txt"),
        "openapi-python-client",
    )?;
    Ok(folder)
}
