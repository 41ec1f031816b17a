//! Files and folders that only the user who runs the host can access.
//!
//! The data directory holds every team's data, the hashes of all tokens, and the key that seals
//! machine code. Modes are given at creation, because a umask belongs to the whole process. Looser
//! modes of existing files are corrected at every start. Symbolic links are left unchanged, because
//! their targets may belong to another user.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

const FOLDER: u32 = 0o700;
const FILE: u32 = 0o600;
/// Permissions of the group and of other users.
const OTHERS: u32 = 0o077;

/// The result of [`tighten_all`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TightenedModes {
    /// Files and folders that other users could access before.
    pub changed: u64,
    /// Files and folders whose modes could not be changed, most likely because another user owns
    /// them.
    pub failed: u64,
}

/// Creates a folder and its missing parents with mode 0700. An existing folder stays as it is.
///
/// # Errors
/// An error of the file system.
pub fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER).create(path)
}

/// Returns options that open a file for reading and writing, and create a missing file with mode
/// 0600.
pub fn read_and_write() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(FILE);
    options
}

/// Creates a new file with mode 0600. An existing file or link is refused, so no other user can
/// have prepared it.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`], or another error of the file system.
pub fn create_new(path: &Path) -> io::Result<std::fs::File> {
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(FILE)
        .open(path)
}

/// Removes all permissions of the group and of other users from a file or folder. Returns true if
/// there were any. Missing files and symbolic links are left unchanged.
///
/// # Errors
/// An error of the file system; most likely the file belongs to another user.
pub fn tighten(path: &Path) -> io::Result<bool> {
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mode = found.permissions().mode();
    if found.is_symlink() || mode & OTHERS == 0 {
        return Ok(false);
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS)).map(|()| true)
}

/// Applies [`tighten`] to a folder and everything in it.
///
/// # Errors
/// The folder cannot be read.
pub fn tighten_all(folder: &Path) -> io::Result<TightenedModes> {
    let mut done = TightenedModes::default();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // The folder first, so that nothing in it is accessed while the work goes on.
        done.note(tighten(&folder));
        for entry in folder.read_dir()? {
            let entry = entry?;
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => done.note(tighten(&entry.path())),
            }
        }
    }
    Ok(done)
}

impl TightenedModes {
    fn note(&mut self, tightened: io::Result<bool>) {
        match tightened {
            Ok(changed) => self.changed += u64::from(changed),
            Err(_) => self.failed += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("is there").permissions().mode() & 0o777
    }

    #[test]
    fn what_was_open_to_others_is_closed_and_links_are_not_followed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (data, outside) = (folder.path().join("data"), folder.path().join("outside"));
        create_folder(&data.join("deep")).expect("is created");
        for (path, bits) in [
            (data.join("a"), 0o644),
            (data.join("deep/b"), 0o666),
            (outside.clone(), 0o644),
        ] {
            std::fs::write(&path, "x").expect("is written");
            std::fs::set_permissions(&path, Permissions::from_mode(bits)).expect("is set");
        }
        std::os::unix::fs::symlink(&outside, data.join("link")).expect("is linked");
        for path in [&data, &data.join("deep")] {
            std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("is set");
        }
        assert_eq!(
            tighten_all(&data).expect("is read"),
            TightenedModes {
                changed: 4,
                failed: 0
            }
        );
        assert_eq!(
            [&data, &data.join("deep")].map(|path| mode(path)),
            [0o700, 0o700]
        );
        assert_eq!(
            [&data.join("a"), &data.join("deep/b")].map(|path| mode(path)),
            [0o600, 0o600]
        );
        assert_eq!(mode(&outside), 0o644);
        assert_eq!(
            tighten_all(&data).expect("is read"),
            TightenedModes::default()
        );
    }

    #[test]
    fn a_new_file_is_private_and_takes_no_place_that_is_taken() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("secret");
        drop(create_new(&path).expect("is created"));
        assert_eq!(mode(&path), 0o600);
        assert_eq!(
            create_new(&path).map(drop).expect_err("is there").kind(),
            io::ErrorKind::AlreadyExists
        );
    }
}
