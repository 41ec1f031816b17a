//! Single flight: of concurrent callers for one key, one computes the value and the others wait for
//! it. Callers for other keys do not wait.
//!
//! Each key has a [`Slot`], an asynchronous lock around the value. The caller that holds the lock
//! finds the value or computes it. If that caller is dropped half-way, the next one gets the lock.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

/// The lock around one key's value.
pub(crate) type Slot<T> = Arc<tokio::sync::Mutex<T>>;

/// Slots by key. Clones share the slots.
#[derive(Debug)]
pub(crate) struct Slots<K, T> {
    slots: Arc<Mutex<HashMap<K, Slot<T>>>>,
    max: usize,
}

impl<K: Hash + Eq, T: Default> Slots<K, T> {
    /// Creates a map of at most `max` slots. If all of them are in use, a further key gets a slot
    /// that is not shared.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            slots: Arc::default(),
            max,
        }
    }

    /// Returns the slot of a key, empty if it is new. If there are too many slots, those that no
    /// caller holds and whose value is not `in_use` are removed first.
    pub(crate) fn get(&self, key: K, in_use: impl Fn(&T) -> bool) -> Slot<T> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&key) {
            return Arc::clone(slot);
        }
        if slots.len() >= self.max {
            slots.retain(|_, slot| {
                Arc::strong_count(slot) > 1 || slot.try_lock().map_or(true, |value| in_use(&value))
            });
        }
        let slot = Slot::default();
        if slots.len() < self.max {
            slots.insert(key, Arc::clone(&slot));
        }
        slot
    }

    /// Removes all slots. Later callers do not share the slots that present callers hold.
    pub(crate) fn forget(&self) {
        self.slots.lock().clear();
    }
}

impl<K, T> Clone for Slots<K, T> {
    fn clone(&self) -> Self {
        Self {
            slots: Arc::clone(&self.slots),
            max: self.max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_that_takes_long_holds_up_itself_and_no_other() {
        let slots = Slots::<&str, u32>::new(8);
        let slow = slots.get("slow", |_| true);
        let mut working = slow.lock().await;
        let same = slots.get("slow", |_| true);
        assert!(
            same.try_lock().is_err(),
            "the second caller waits for the first"
        );
        *slots.get("quick", |_| true).lock().await = 2;
        *working = 1;
        drop(working);
        assert_eq!(
            (
                *same.lock().await,
                *slots.get("quick", |_| true).lock().await
            ),
            (1, 2)
        );
    }

    #[tokio::test]
    async fn slots_that_are_in_use_are_kept_and_the_others_make_room() {
        let slots = Slots::<u32, u32>::new(3);
        let held = slots.get(0, |_| false);
        for key in 1..3 {
            *slots.get(key, |_| false).lock().await = key;
        }
        // Full: the slot of 1 is removed, that of 2 is in use, and that of 0 is held.
        *slots.get(3, |value| *value == 2).lock().await = 3;
        assert_eq!(*slots.get(2, |_| true).lock().await, 2);
        assert!(Arc::ptr_eq(&held, &slots.get(0, |_| true)));
        // Full again, and all slots are in use: the new slot is not shared.
        *slots.get(9, |_| true).lock().await = 9;
        assert_eq!(*slots.get(9, |_| true).lock().await, 0);
    }
}
