//! The instances that this host is driving, written down where a crash of the process cannot take it.
//!
//! The file `in-hand` in the data directory is a table of ids, 16 bytes each; zeros are a free place. It is written
//! without fsync: it only has to survive the process, and the operating system's page cache does. A driver that begins or
//! ends costs one small write to that cache, and a step costs nothing. A process that ends in an orderly way empties the
//! file, so what stands in it at a start was being driven when the last process crashed.

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
/// Ids that are told to other hosts.
const SAMPLE_MAX: usize = 500;

/// The table. Writing it never fails for its users: without it a crash is merely not counted.
#[derive(Debug)]
pub(super) struct InHand {
    file: File,
    state: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    of: HashMap<Uuid, u64>,
    free: Vec<u64>,
}

impl InHand {
    /// Opens the table, which nobody else uses while the data directory is locked, and empties it. Returns what stood in
    /// it.
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
        // A rest of less than an id is a write that the crash cut off.
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

    /// Forgets everything: the process ends in an orderly way, or what stood there was counted.
    pub(super) fn clear(&self) {
        *self.state.lock() = Places::default();
        self.noted(self.file.set_len(0));
    }

    /// A driver of the instance begins to work.
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

    /// It rests.
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

    /// Some of what stands in it, as other hosts are told: ids with commas between.
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
        let (table, before) = InHand::open(folder.path()).expect("opens");
        assert!(before.is_empty());
        ids.into_iter().take(3).for_each(|id| table.take(id));
        table.put_down(ids[1]);
        table.take(ids[3]);
        drop(table);
        let (table, mut before) = InHand::open(folder.path()).expect("opens");
        before.sort_unstable();
        assert_eq!(before, [ids[0], ids[2], ids[3]]);
        table.clear();
        assert!(InHand::open(folder.path()).expect("opens").1.is_empty());
    }

    #[test]
    fn places_are_used_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (table, _) = InHand::open(folder.path()).expect("opens");
        for number in 1..1_000 {
            table.take(Uuid::from_u128(number));
            table.put_down(Uuid::from_u128(number));
        }
        assert_eq!(table.file.metadata().expect("is there").len(), ID_BYTES);
        assert_eq!(table.sample(), "");
    }
}
