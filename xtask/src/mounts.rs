//! Whether the tests may mount file systems: databases on a disk that is full are tested on small ones of their own.

use std::path::Path;
use std::process::Command;

use crate::{browser, process};

/// Mounts one and takes it away again. Who builds a workflow engine need not be root: on a machine of one's own the tests
/// that need it are left out, and it is said.
///
/// # Errors
/// It is not allowed in CI.
pub(crate) fn may_mount() -> Result<bool, String> {
    let folder = tempfile::tempdir().map_err(|error| format!("make a temporary folder: {error}"))?;
    let mounted = answers("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs"], folder.path());
    if mounted {
        answers("umount", &[], folder.path());
    } else if browser::is_ci() {
        return Err("mount a small file system, on which databases fill their disk\n\
             hint: be root (in a container: with the capability SYS_ADMIN), or pass --without-mounts"
            .to_owned());
    }
    Ok(mounted)
}

fn answers(program: &str, arguments: &[&str], folder: &Path) -> bool {
    process::answer(Command::new(program).args(arguments).arg(folder)).is_some()
}
