//! Uploads on disk. Each upload is written to a temporary file while it arrives, counted and
//! hashed, and stays there until it is accepted or refused. A slow or silent upload holds only its
//! slot here, a little memory and some disk space, all bounded for each team and for the host.
//!
//! The files are readable by this user only. They are removed when they are no longer needed, and
//! files left by a killed process are removed at the next start.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::UploadError;
use crate::config::PluginsConfig;
use crate::model::Name;

/// Bytes of an upload that are buffered before a write. A larger buffer means fewer hand-overs to a
/// blocking thread.
const BUFFER_BYTES: usize = 256 * 1_024;

/// The directory of uploads, and the slots in it.
pub(super) struct Spool {
    directory: PathBuf,
    limits: Limits,
    usage: Arc<Mutex<SpoolUsage>>,
}

/// The bounds from `[plugins]`.
struct Limits {
    uploads: usize,
    uploads_per_team: usize,
    bytes: u64,
    bytes_per_team: u64,
}

/// Uploads on disk now. Teams without uploads have no entry.
#[derive(Default)]
struct SpoolUsage {
    all: UploadUsage,
    teams: HashMap<Name, UploadUsage>,
}

/// A number of uploads, and their bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct UploadUsage {
    pub(super) uploads: usize,
    pub(super) bytes: u64,
}

/// An upload that is arriving.
pub struct Upload {
    file: NamedTempFile,
    hash: Sha256,
    buffer: Vec<u8>,
    slot: SpoolSlot,
    limits: (u64, u64),
}

/// A component that has arrived. Its file is removed when this is dropped.
pub struct Component {
    file: NamedTempFile,
    digest: String,
    slot: SpoolSlot,
}

/// A slot among the uploads. Dropping it frees the slot and its bytes.
struct SpoolSlot {
    team: Name,
    bytes: u64,
    usage: Arc<Mutex<SpoolUsage>>,
}

impl Spool {
    /// Creates and empties the directory: files in it were left by a killed process.
    pub(super) fn open(data_dir: &Path, config: &PluginsConfig) -> std::io::Result<Self> {
        let directory = data_dir.join("uploads");
        crate::private::create_folder(&directory)?;
        for entry in std::fs::read_dir(&directory)? {
            std::fs::remove_file(entry?.path())?;
        }
        // Whatever the settings, one component fits.
        let one = config.component_bytes_max as u64;
        let limits = Limits {
            uploads: config.uploads_max,
            uploads_per_team: config.uploads_per_team_max,
            bytes: config.upload_bytes_max.max(one),
            bytes_per_team: config.upload_bytes_per_team_max.max(one),
        };
        Ok(Self {
            directory,
            limits,
            usage: Arc::default(),
        })
    }

    /// Reserves a slot for an upload of a team.
    ///
    /// # Errors
    /// [`UploadError::TooManyUploads`], or an error of the disk.
    pub(super) fn begin(&self, team: &Name) -> Result<Upload, UploadError> {
        let slot = self.slot(team)?;
        let file = self.file().map_err(disk)?;
        let limits = (self.limits.bytes, self.limits.bytes_per_team);
        Ok(Upload {
            file,
            hash: Sha256::new(),
            buffer: Vec::new(),
            slot,
            limits,
        })
    }

    /// Writes a stored component to a file, so that it can be compiled again. The file takes no
    /// slot: stored plugins can always be loaded. Blocks.
    pub(super) fn put(&self, component: &[u8]) -> Result<NamedTempFile, UploadError> {
        let mut file = self.file().map_err(disk)?;
        file.write_all(component).map_err(disk)?;
        Ok(file)
    }

    fn file(&self) -> std::io::Result<NamedTempFile> {
        // Temporary files have mode 0600.
        tempfile::Builder::new()
            .prefix("upload-")
            .tempfile_in(&self.directory)
    }

    /// Returns the totals of all uploads on disk.
    pub(super) fn share(&self) -> UploadUsage {
        self.usage.lock().all
    }

    fn slot(&self, team: &Name) -> Result<SpoolSlot, UploadError> {
        let mut usage = self.usage.lock();
        let of_team = usage.teams.get(team).map_or(0, |share| share.uploads);
        if of_team >= self.limits.uploads_per_team {
            return Err(UploadError::TooManyUploads(format!(
                "the team has {of_team} uploads under way, as many as it may (`plugins.uploads_per_team_max`): wait for \
                 one of them to end"
            )));
        }
        if usage.all.uploads >= self.limits.uploads {
            return Err(UploadError::TooManyUploads(format!(
                "the host has {} uploads of all teams under way, as many as it may (`plugins.uploads_max`): try again \
                 in a moment",
                usage.all.uploads
            )));
        }
        usage.all.uploads += 1;
        usage.teams.entry(team.clone()).or_default().uploads += 1;
        Ok(SpoolSlot {
            team: team.clone(),
            bytes: 0,
            usage: Arc::clone(&self.usage),
        })
    }
}

impl Upload {
    /// Adds bytes that have arrived.
    ///
    /// # Errors
    /// [`UploadError::TooManyUploads`] if the team's or the host's uploads exceed their limit of
    /// bytes; an error of the disk.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        self.slot.grow(bytes.len() as u64, self.limits)?;
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush().await
        } else {
            Ok(())
        }
    }

    /// Ends the upload when all of it has arrived, and returns the component.
    ///
    /// # Errors
    /// An error of the disk.
    pub async fn finish(mut self) -> Result<Component, UploadError> {
        self.flush().await?;
        let digest =
            self.hash
                .finalize()
                .iter()
                .fold(String::with_capacity(64), |mut text, byte| {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "{byte:02x}");
                    text
                });
        Ok(Component {
            file: self.file,
            digest,
            slot: self.slot,
        })
    }

    /// Writes and hashes the buffer on a blocking thread.
    async fn flush(&mut self) -> Result<(), UploadError> {
        let mut file = self.file.as_file().try_clone().map_err(disk)?;
        let (buffer, mut hash) = (std::mem::take(&mut self.buffer), self.hash.clone());
        let writing = tokio::task::spawn_blocking(move || {
            file.write_all(&buffer)?;
            hash.update(&buffer);
            Ok((buffer, hash))
        });
        let (mut buffer, hash) = writing
            .await
            .map_err(|error| UploadError::Host(error.to_string()))?
            .map_err(disk)?;
        buffer.clear();
        (self.buffer, self.hash) = (buffer, hash);
        Ok(())
    }
}

impl Component {
    /// Returns the SHA-256, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> u64 {
        self.slot.bytes
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }
}

impl SpoolSlot {
    fn grow(&mut self, more: u64, (max, max_per_team): (u64, u64)) -> Result<(), UploadError> {
        let mut usage = self.usage.lock();
        let of_team = usage
            .teams
            .get(&self.team)
            .map_or(0, |share| share.bytes)
            .saturating_add(more);
        if of_team > max_per_team {
            return Err(UploadError::TooManyUploads(format!(
                "the team's uploads have more than {max_per_team} bytes together \
                 (`plugins.upload_bytes_per_team_max`): wait for one of them to end"
            )));
        }
        if usage.all.bytes.saturating_add(more) > max {
            return Err(UploadError::TooManyUploads(format!(
                "the uploads of all teams have more than {max} bytes together (`plugins.upload_bytes_max`): try again \
                 in a moment"
            )));
        }
        usage.all.bytes = usage.all.bytes.saturating_add(more);
        usage.teams.entry(self.team.clone()).or_default().bytes = of_team;
        self.bytes = self.bytes.saturating_add(more);
        Ok(())
    }
}

impl Drop for SpoolSlot {
    fn drop(&mut self) {
        let mut usage = self.usage.lock();
        usage.all.uploads = usage.all.uploads.saturating_sub(1);
        usage.all.bytes = usage.all.bytes.saturating_sub(self.bytes);
        if let Some(share) = usage.teams.get_mut(&self.team) {
            share.uploads = share.uploads.saturating_sub(1);
            share.bytes = share.bytes.saturating_sub(self.bytes);
            if *share == UploadUsage::default() {
                usage.teams.remove(&self.team);
            }
        }
    }
}

fn disk(error: std::io::Error) -> UploadError {
    if error.kind() == std::io::ErrorKind::StorageFull {
        return UploadError::DiskFull;
    }
    UploadError::Host(format!("spool an upload: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::Config;

    fn team(name: &str) -> Name {
        name.parse().expect("is a name")
    }

    fn spool(folder: &Path, set: impl FnOnce(&mut PluginsConfig)) -> Spool {
        let mut config = Config::defaults().expect("the defaults load").plugins;
        set(&mut config);
        Spool::open(folder, &config).expect("opens")
    }

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder.join("uploads"))
            .expect("is there")
            .count()
    }

    #[tokio::test]
    async fn a_component_is_what_was_written_and_its_file_is_private() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let spool = spool(folder.path(), |_| {});
        let mut upload = spool.begin(&team("a")).expect("there is room");
        let chunk = vec![7; 100_000];
        for _ in 0..10 {
            upload.write(&chunk).await.expect("writes");
        }
        let component = upload.finish().await.expect("is whole");
        let written = std::fs::read(component.path()).expect("is read");
        assert_eq!((component.bytes(), written.len()), (1_000_000, 1_000_000));
        let expected: String = Sha256::digest(&written)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(component.digest(), expected);
        let mode = std::fs::metadata(component.path())
            .expect("is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(component);
        assert_eq!(
            (files(folder.path()), spool.share()),
            (0, UploadUsage::default())
        );
    }

    #[tokio::test]
    async fn a_teams_uploads_leave_room_for_those_of_others() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let spool = spool(folder.path(), |config| {
            config.component_bytes_max = 50;
            (config.uploads_max, config.uploads_per_team_max) = (3, 2);
            (config.upload_bytes_max, config.upload_bytes_per_team_max) = (150, 100);
        });
        let begin = |name| spool.begin(&team(name)).map_err(|error| error.to_string());
        let (mut first, second) = (begin("a").expect("fits"), begin("a").expect("fits"));
        assert!(
            begin("a")
                .err()
                .is_some_and(|error| error.contains("plugins.uploads_per_team_max"))
        );
        let mut other = begin("b").expect("is another team");
        assert!(
            begin("c")
                .err()
                .is_some_and(|error| error.contains("plugins.uploads_max"))
        );
        drop(second);
        begin("a").expect("fits again");
        first.write(&[0; 60]).await.expect("fits");
        let error = first
            .write(&[0; 41])
            .await
            .expect_err("is too much of one team");
        assert!(
            error
                .to_string()
                .contains("plugins.upload_bytes_per_team_max"),
            "{error}"
        );
        other
            .write(&[0; 90])
            .await
            .expect("is another team's share");
        let error = other
            .write(&[0; 1])
            .await
            .expect_err("is too much together");
        assert!(
            error.to_string().contains("plugins.upload_bytes_max"),
            "{error}"
        );
        drop((first, other));
        assert_eq!(
            (files(folder.path()), spool.share()),
            (0, UploadUsage::default())
        );
        assert!(spool.usage.lock().teams.is_empty());
    }

    #[test]
    fn files_that_a_killed_process_left_are_removed_at_the_start() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        drop(spool(folder.path(), |_| {}));
        std::fs::write(folder.path().join("uploads/upload-x"), "left").expect("writes");
        drop(spool(folder.path(), |_| {}));
        assert_eq!(files(folder.path()), 0);
    }
}
