//! A file with the instances that this host is driving, which survives a crash of the process.
//!
//! The file `in-hand` in the data directory is a table of ids, 16 bytes each; zeros mark a free
//! place. The file is written without fsync: it only has to survive the process, and the operating
//! system's page cache does. Each start and each end of a driver costs one small write to that
//! cache, and a step costs nothing. An orderly shutdown empties the file. So the ids in the file at
//! a start are the instances that were being driven when the last process crashed.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use parking_lot::Mutex;
use uuid::Uuid;

use super::StoreError;
use crate::private;

const ID_BYTES: u64 = 16;
/// The largest number of ids that are shared with other hosts.
const SAMPLE_MAX: usize = 500;

/// The table of driven instances. Write errors are only logged: the sole consequence is that a
/// crash is not counted.
#[derive(Debug)]
pub(super) struct DrivenInstances {
    file: File,
    state: Mutex<FileSlots>,
}

#[derive(Debug, Default)]
struct FileSlots {
    of: HashMap<Uuid, u64>,
    free: Vec<u64>,
}

impl DrivenInstances {
    /// Opens the table and returns the ids in it. The data directory must be locked, so that no
    /// other process uses the table.
    pub(super) fn open(data_dir: &Path) -> Result<(Self, Vec<Uuid>), StoreError> {
        let path = data_dir.join("in-hand");
        let cannot = |error: std::io::Error| {
            StoreError::Settings(format!(
                "cannot use {}, which tells what a crash hit: {error}",
                path.display()
            ))
        };
        let mut file = private::read_and_write().open(&path).map_err(cannot)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(cannot)?;
        // A remainder shorter than an id is a write that the crash cut off.
        let ids = bytes
            .chunks_exact(16)
            .filter_map(|id| Uuid::from_slice(id).ok())
            .filter(|id| !id.is_nil());
        let ids = ids.collect();
        Ok((
            Self {
                file,
                state: Mutex::default(),
            },
            ids,
        ))
    }

    /// Empties the table, at an orderly shutdown or after its crashes were counted.
    pub(super) fn clear(&self) {
        *self.state.lock() = FileSlots::default();
        self.noted(self.file.set_len(0));
    }

    /// Records that a driver begins to work on the instance.
    pub(super) fn take(&self, id: Uuid) {
        let mut state = self.state.lock();
        let next = u64::try_from(state.of.len() + state.free.len()).unwrap_or(u64::MAX);
        let place = state.free.pop().unwrap_or(next);
        state.of.insert(id, place);
        self.noted(
            self.file
                .write_all_at(id.as_bytes(), place.saturating_mul(ID_BYTES)),
        );
    }

    /// Records that the driver no longer works on the instance.
    pub(super) fn put_down(&self, id: Uuid) {
        let mut state = self.state.lock();
        let Some(place) = state.of.remove(&id) else {
            return;
        };
        state.free.push(place);
        self.noted(
            self.file
                .write_all_at(Uuid::nil().as_bytes(), place.saturating_mul(ID_BYTES)),
        );
    }

    /// Returns some of the ids for other hosts, separated by commas.
    pub(super) fn sample(&self) -> String {
        let state = self.state.lock();
        let ids: Vec<_> = state
            .of
            .keys()
            .take(SAMPLE_MAX)
            .map(Uuid::to_string)
            .collect();
        ids.join(",")
    }

    fn noted(&self, written: std::io::Result<()>) {
        if let Err(error) = written {
            tracing::debug!(%error, "could not write down which instances are in hand");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_finds_what_was_in_hand() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ids = [1, 2, 3, 4].map(Uuid::from_u128);
        let (table, before) = DrivenInstances::open(folder.path()).expect("opens");
        assert!(before.is_empty());
        ids.into_iter().take(3).for_each(|id| table.take(id));
        table.put_down(ids[1]);
        table.take(ids[3]);
        drop(table);
        let (table, mut before) = DrivenInstances::open(folder.path()).expect("opens");
        before.sort_unstable();
        assert_eq!(before, [ids[0], ids[2], ids[3]]);
        table.clear();
        assert!(
            DrivenInstances::open(folder.path())
                .expect("opens")
                .1
                .is_empty()
        );
    }

    #[test]
    fn places_are_used_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (table, _) = DrivenInstances::open(folder.path()).expect("opens");
        for number in 1..1_000 {
            table.take(Uuid::from_u128(number));
            table.put_down(Uuid::from_u128(number));
        }
        assert_eq!(table.file.metadata().expect("is there").len(), ID_BYTES);
        assert_eq!(table.sample(), "");
    }
}
