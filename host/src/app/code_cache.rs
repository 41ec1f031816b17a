//! The user's cache folder of `stepwell run`. It holds machine code, so that a component is
//! compiled once.
//!
//! Machine code is run without further checks, so it is trusted only with its seal. The seal's key
//! is trusted only if it belongs to this user and no other user can read it: with `sudo -E` the
//! folder could be another user's. A folder that cannot be trusted is not used. Code of another
//! version of the engine does not load; it is deleted and compiled again.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::private;

/// Maximum bytes of machine code in the folder. A JavaScript component has 40 MB.
const BYTES_MAX: u64 = 1 << 30;
const FOLDER: &str = "stepwell/run";
const CODE: &str = "compiled";
const KEY: &str = "compiled.key";
/// The mode bits of the group and of other users.
const OTHERS: u32 = 0o077;

/// Returns the user's folder for machine code: below `XDG_CACHE_HOME`, or `.cache` in the home.
/// Creates the folder if it is missing. `owned` is a folder that this process has just made, so
/// that its owner is the user.
///
/// # Errors
/// The folder cannot be created, or other users can reach it.
pub(super) fn open(owned: &Path) -> io::Result<PathBuf> {
    let folder = of_user()
        .ok_or_else(|| io::Error::other("neither XDG_CACHE_HOME nor HOME names a folder"))?;
    private::create_folder(&folder)?;
    check(&folder, owned)?;
    Ok(folder)
}

fn of_user() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join(FOLDER))
}

/// Refuses a folder, or a key in the folder, that another user owns or can reach.
fn check(folder: &Path, owned: &Path) -> io::Result<()> {
    let user = owned.metadata()?.uid();
    for path in [folder.to_owned(), folder.join(CODE), folder.join(KEY)] {
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if metadata.is_symlink() || metadata.uid() != user || metadata.mode() & OTHERS != 0 {
            return Err(io::Error::other(format!(
                "{} is not for this user alone",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Deletes the least recently used machine code until the rest fits. A file that cannot be deleted
/// stays.
pub(super) fn prune(folder: &Path) {
    prune_to(&folder.join(CODE), BYTES_MAX);
}

fn prune_to(folder: &Path, bytes_max: u64) {
    let Ok(entries) = folder.read_dir() else {
        return;
    };
    let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let metadata = entry.metadata().ok()?;
            let used = metadata.modified().ok()?;
            metadata
                .is_file()
                .then(|| (used, metadata.len(), entry.path()))
        })
        .collect();
    files.sort();
    let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, size, path) in files {
        if bytes <= bytes_max {
            return;
        }
        if std::fs::remove_file(path).is_ok() {
            bytes = bytes.saturating_sub(size);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_folder_that_others_can_reach_is_not_trusted() {
        let owned = tempfile::tempdir().expect("a temporary directory");
        let folder = owned.path().join("cache");
        private::create_folder(&folder).expect("creates");
        assert!(check(&folder, owned.path()).is_ok());
        std::fs::write(folder.join(KEY), [0; 32]).expect("writes");
        std::fs::set_permissions(folder.join(KEY), Permissions::from_mode(0o600)).expect("is ours");
        assert!(check(&folder, owned.path()).is_ok());
        for (path, mode) in [(folder.join(KEY), 0o640), (folder.clone(), 0o750)] {
            let before = path.metadata().expect("is there").permissions();
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("is ours");
            let error = check(&folder, owned.path()).expect_err("others can reach it");
            assert!(
                error.to_string().contains("not for this user alone"),
                "{error}"
            );
            std::fs::set_permissions(&path, before).expect("is ours");
        }
        std::fs::remove_file(folder.join(KEY)).expect("removes");
        std::os::unix::fs::symlink("/etc/hostname", folder.join(KEY)).expect("links");
        assert!(
            check(&folder, owned.path()).is_err(),
            "a link leads elsewhere"
        );
    }

    #[test]
    fn what_was_used_longest_ago_is_deleted_first() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for (name, age) in [("old", 300), ("new", 100), ("middle", 200)] {
            let path = folder.path().join(name);
            std::fs::write(&path, [0; 10]).expect("writes");
            let used = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 - age);
            File::options()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_modified(used))
                .expect("is ours");
        }
        prune_to(folder.path(), 25);
        assert!(!folder.path().join("old").exists());
        assert!(folder.path().join("middle").exists() && folder.path().join("new").exists());
        prune_to(folder.path(), 9);
        assert_eq!(folder.path().read_dir().expect("is there").count(), 0);
    }
}
