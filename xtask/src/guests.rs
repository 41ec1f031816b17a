//! `cargo xtask guests`: builds the guest workspace under examples/ and encodes each plugin as a
//! component.
//!
//! Cargo decides which crates to compile. Encoding takes milliseconds, so it runs each time, and a
//! component is written only if its bytes differ. So there is no record of encoded components that
//! could be out of date.

mod build;
mod component;
mod error;
mod toolchain;

use std::fs::{self, File, TryLockError};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::process::tell;
use crate::workspace;
use component::Component;
use error::GuestsError;
use toolchain::Toolchain;

/// The target of guests: no operating system, and no imports except the plugin contract.
const TARGET: &str = "wasm32-unknown-unknown";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to write the components [default: guests/ in cargo's target folder]
    #[arg(long, value_name = "FOLDER")]
    out_dir: Option<PathBuf>,
    /// Print [{name, path, bytes, imports}] instead of paths
    #[arg(long)]
    json: bool,
    /// Show what each component imports
    #[arg(long, short)]
    verbose: bool,
    /// Install nothing: neither a target with rustup nor Debian packages
    #[arg(long)]
    no_install: bool,
    /// Fail when examples/Cargo.lock would change
    #[arg(long)]
    locked: bool,
}

/// The guest of the tests. It is built with the examples, but is not an example.
const TEST_GUEST: &str = "scenarios";

/// Builds all guests and prints the paths.
pub(crate) fn run(options: &Options) -> Result<(), GuestsError> {
    let (components, _) = build(options)?;
    print(&components, options);
    Ok(())
}

/// Builds all guests for the tests, installing missing tools. Returns the folder of the components.
pub(crate) fn build_for_tests() -> Result<PathBuf, GuestsError> {
    let options = Options {
        out_dir: None,
        json: false,
        verbose: false,
        no_install: false,
        locked: true,
    };
    let (components, folder) = build(&options)?;
    tell(&format!(
        "{} guests are in {}",
        components.len(),
        workspace::shown(&folder)
    ));
    Ok(folder)
}

fn build(options: &Options) -> Result<(Vec<Component>, PathBuf), GuestsError> {
    let root = workspace::root().map_err(GuestsError::NoFolders)?;
    let folder = workspace::target_folder(&root)
        .map_err(GuestsError::NoFolders)?
        .join("guests");
    let out_folder = match &options.out_dir {
        Some(folder) => std::path::absolute(folder).map_err(GuestsError::NoFolders)?,
        None => folder.clone(),
    };
    fs::create_dir_all(&folder).map_err(GuestsError::at(&folder))?;
    fs::create_dir_all(&out_folder).map_err(GuestsError::at(&out_folder))?;
    // Held until the end, because two runs at a time would choose, install and write in the same
    // folders.
    let lock_path = folder.join("lock");
    let _lock = lock(&lock_path).map_err(GuestsError::at(&lock_path))?;

    let toolchain = Toolchain::find(&folder, !options.no_install)?;
    let modules = build::core_modules(&toolchain, &root, &folder.join("build"), options.locked)?;
    let mut components = Vec::new();
    for module in modules {
        components.push(Component::encode(&module, &out_folder)?);
    }
    components.sort_by(|one, other| one.name.cmp(&other.name));
    Ok((components, out_folder))
}

fn lock(path: &Path) -> io::Result<File> {
    let file = File::create(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            tell("waiting for another `cargo xtask guests`");
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(file)
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the command's answer: data there, a table for people here"
)]
fn print(components: &[Component], options: &Options) {
    let examples = components
        .iter()
        .filter(|component| component.name != TEST_GUEST);
    for component in examples {
        let (name, kib) = (&component.name, component.bytes.div_ceil(1024));
        eprintln!(
            "{name:<12} {kib:>5} KiB  {}",
            workspace::shown(&component.path)
        );
        if options.verbose {
            for import in &component.imports {
                eprintln!("             imports {import}");
            }
        }
    }
    if options.json {
        let list: Vec<_> = components
            .iter()
            .map(|component| {
                let Component {
                    name,
                    path,
                    bytes,
                    imports,
                } = component;
                json!({ "name": name, "path": path, "bytes": bytes, "imports": imports })
            })
            .collect();
        println!("{}", json!(list));
    } else if !io::stdout().is_terminal() {
        // At a terminal, the table above shows the paths already.
        for component in components {
            println!("{}", component.path.display());
        }
    }
}
