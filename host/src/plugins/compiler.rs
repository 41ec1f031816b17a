//! Machine code of uploads: compiles it in a child process, and keeps it in a directory, one sealed file for each
//! digest.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::UploadError;
use super::worker::Worker;
use crate::config::PluginsConfig;
use crate::private;
use crate::runtime::{self, SealKey};

/// Compiles, and keeps what was compiled.
pub(super) struct Compiler {
    worker: Worker,
    directory: PathBuf,
    key: SealKey,
}

impl Compiler {
    /// `program` is this program, to be run as `compile-worker`.
    pub(super) fn open(
        program: PathBuf,
        data_dir: &Path,
        config: &PluginsConfig,
    ) -> std::io::Result<Self> {
        let directory = data_dir.join("compiled");
        private::create_folder(&directory)?;
        let key = open_key(&data_dir.join("compiled.key"))?;
        Ok(Self {
            worker: Worker::new(program, config),
            directory,
            key,
        })
    }

    pub(super) fn key(&self) -> &SealKey {
        &self.key
    }

    /// The sealed machine code, if it was compiled before. Tens of megabytes may be read.
    pub(super) fn read(&self, digest: &str) -> Option<Vec<u8>> {
        std::fs::read(self.path(digest)).ok()
    }

    /// Forgets machine code that cannot be used.
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
        // A code of tens of megabytes is no work for a thread that answers requests.
        let sealing =
            tokio::task::spawn_blocking(move || runtime::seal(&compiler.key, &digest, &code));
        sealing
            .await
            .map_err(|error| UploadError::Host(error.to_string()))
    }

    /// Keeps sealed machine code, of a version that was taken in: what is refused must not fill the disk.
    pub(super) fn keep(&self, digest: &str, sealed: &[u8]) {
        if let Err(error) = self.write(digest, sealed) {
            // It works without: the next start compiles again.
            tracing::warn!(%error, digest, "could not keep a compiled plugin");
        }
    }

    fn path(&self, digest: &str) -> PathBuf {
        // A digest is hexadecimal and ours; no user text becomes part of a path.
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

/// The key that seals compiled plugins: made on the first start, readable by this user only.
fn open_key(path: &Path) -> std::io::Result<SealKey> {
    let mut key = [0; 32];
    match std::fs::File::open(path) {
        Ok(mut file) => file.read_exact(&mut key)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            getrandom::fill(&mut key).map_err(std::io::Error::other)?;
            let directory = path.parent().unwrap_or(Path::new("."));
            // Temporary files are made with mode 0600, and so stays the key.
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(&key)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)?;
        }
        Err(error) => return Err(error),
    }
    Ok(SealKey(key))
}
