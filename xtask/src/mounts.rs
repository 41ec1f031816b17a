//! Permission to mount file systems. Tests of databases on a full disk mount small ones of their
//! own.

use std::path::Path;
use std::process::Command;

use crate::process;

/// Tries to mount and unmount a file system, and returns whether that worked. A developer or a
/// container need not be allowed to mount; the tests are then left out with a note at the end.
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
