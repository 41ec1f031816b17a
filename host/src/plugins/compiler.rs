//! The cache of machine code: compiles uploads in a child process, and stores one sealed file for
//! each digest.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::UploadError;
use super::worker::Worker;
use crate::clock::Timestamp;
use crate::config::PluginsConfig;
use crate::private;
use crate::runtime::{self, SealKey};

/// Compiles components and stores their machine code.
pub(super) struct Compiler {
    worker: Worker,
    directory: PathBuf,
    key: SealKey,
}

impl Compiler {
    /// Opens the cache. `program` is this program, to be run as `compile-worker`. `folder` is for
    /// the key and the machine code.
    pub(super) fn open(
        program: PathBuf,
        folder: &Path,
        config: &PluginsConfig,
    ) -> std::io::Result<Self> {
        let directory = folder.join("compiled");
        private::create_folder(&directory)?;
        let key = open_key(&folder.join("compiled.key"))?;
        Ok(Self {
            worker: Worker::new(program, config),
            directory,
            key,
        })
    }

    pub(super) fn key(&self) -> &SealKey {
        &self.key
    }

    /// Reads sealed machine code that was stored before. Blocks, and may read tens of megabytes.
    pub(super) fn read(&self, digest: &str) -> Option<Vec<u8>> {
        let mut file = std::fs::File::open(self.path(digest)).ok()?;
        let mut sealed = Vec::new();
        file.read_to_end(&mut sealed).ok()?;
        Some(sealed)
    }

    /// Sets the modification time of machine code to the time of its use, because the cache evicts
    /// the least recently used.
    pub(super) fn touch(&self, digest: &str, now: Timestamp) {
        let since = Duration::from_micros(u64::try_from(now.as_micros()).unwrap_or_default());
        let file = std::fs::File::options()
            .append(true)
            .open(self.path(digest));
        // The time only decides which file of a full cache is deleted first.
        let _ = file.and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH + since));
    }

    /// Returns true if there is machine code, which may be unusable.
    pub(super) fn has(&self, digest: &str) -> bool {
        self.path(digest).is_file()
    }

    /// Deletes machine code that cannot be used.
    pub(super) fn discard(&self, digest: &str) {
        if let Err(error) = std::fs::remove_file(self.path(digest)) {
            tracing::warn!(%error, digest, "could not remove a compiled plugin");
        }
    }

    /// Compiles the component in a file. Returns the sealed machine code.
    pub(super) async fn compile(
        self: &Arc<Self>,
        digest: &str,
        component: &Path,
    ) -> Result<Vec<u8>, UploadError> {
        let code = self.worker.compile(digest, component).await?;
        let (compiler, digest) = (Arc::clone(self), digest.to_owned());
        // Tens of megabytes of code are too much work for a thread that serves requests.
        let sealing =
            tokio::task::spawn_blocking(move || runtime::seal(&compiler.key, &digest, &code));
        sealing
            .await
            .map_err(|error| UploadError::Host(error.to_string()))
    }

    /// Stores sealed machine code. A server stores that of accepted versions only, so code of
    /// refused uploads cannot fill the disk.
    pub(super) fn keep(&self, digest: &str, sealed: &[u8]) {
        if let Err(error) = self.write(digest, sealed) {
            // The host works without the file: the next start compiles again.
            tracing::warn!(%error, digest, "could not keep a compiled plugin");
        }
    }

    fn path(&self, digest: &str) -> PathBuf {
        // A digest is hexadecimal and made by the host; no user text becomes part of a path.
        self.directory.join(format!("{digest}.code"))
    }

    fn write(&self, digest: &str, sealed: &[u8]) -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
        file.write_all(sealed)?;
        file.persist(self.path(digest))
            .map_err(|error| error.error)?;
        Ok(())
    }
}

/// Reads the key that seals compiled plugins, or creates it on the first start. Only this user can
/// read the file.
fn open_key(path: &Path) -> std::io::Result<SealKey> {
    let mut key = [0; 32];
    match std::fs::File::open(path) {
        Ok(mut file) => file.read_exact(&mut key)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            getrandom::fill(&mut key).map_err(std::io::Error::other)?;
            let directory = path.parent().unwrap_or(Path::new("."));
            // Temporary files have mode 0600, and the key keeps it.
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(&key)?;
            file.as_file().sync_all()?;
            match file.persist_noclobber(path) {
                Ok(_) => {}
                // Another process was faster; code that it seals must open here too.
                Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {
                    std::fs::File::open(path)?.read_exact(&mut key)?;
                }
                Err(error) => return Err(error.error),
            }
        }
        Err(error) => return Err(error),
    }
    Ok(SealKey(key))
}
