//! Whether the tests may mount file systems: databases on a disk that is full are tested on small ones of their own.

use std::path::Path;
use std::process::Command;

use crate::process;

/// Mounts one and takes it away again. Neither who builds a workflow engine nor a container that tests it need be allowed
/// to: then these tests are left out, and it is said at the end.
pub(crate) fn may_mount() -> bool {
    let Ok(folder) = tempfile::tempdir() else {
        return false;
    };
    let mounted = answers(
        "mount",
        &["-t", "tmpfs", "-o", "size=1m", "tmpfs"],
        folder.path(),
    );
    mounted && answers("umount", &[], folder.path())
}

fn answers(program: &str, arguments: &[&str], folder: &Path) -> bool {
    process::answer(Command::new(program).args(arguments).arg(folder)).is_some()
}
