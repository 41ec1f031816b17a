//! Files and folders for the user who runs the host, and for nobody else on the machine.
//!
//! The data directory holds every team's data, the hashes of all tokens, and the key that seals machine code. Modes are
//! given when something is created, because a umask belongs to the whole process; what was there before with looser
//! modes is put right at every start. Symbolic links are left alone: what they lead to may be somebody else's.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

const FOLDER: u32 = 0o700;
const FILE: u32 = 0o600;
/// What the group and the others may do.
const OTHERS: u32 = 0o077;

/// What [`tighten_all`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tightened {
    /// Files and folders that others could reach, and no longer can.
    pub changed: u64,
    /// Files and folders whose modes could not be changed: they belong to another user.
    pub failed: u64,
}

/// Creates a folder, and those above it that are missing, with mode 0700. One that is there stays as it is.
///
/// # Errors
/// The file system's.
pub fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER).create(path)
}

/// Options that read and write, and create what is missing with mode 0600.
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

/// Creates a file with mode 0600 that was not there, and refuses one that was: nobody can have put a link in its place.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`], or another of the file system's.
pub fn create_new(path: &Path) -> io::Result<std::fs::File> {
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(FILE)
        .open(path)
}

/// Takes from others what they may do with a file or a folder. Returns whether they could do anything; what is not there
/// and what is a link is left alone.
///
/// # Errors
/// The file system's: most likely it belongs to another user.
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

/// As [`tighten`], for a folder and all that is in it.
///
/// # Errors
/// The folder cannot be read.
pub fn tighten_all(folder: &Path) -> io::Result<Tightened> {
    let mut done = Tightened::default();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // First, so that nothing in it is reached while it is worked on.
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

impl Tightened {
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
            Tightened {
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
        assert_eq!(tighten_all(&data).expect("is read"), Tightened::default());
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
