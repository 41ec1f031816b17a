//! Single flight: of the callers who want the value of one key, one works it out and the others wait for it. Callers of
//! other keys do not wait.
//!
//! A key has a [`Slot`], an asynchronous lock around the value. The caller that holds it either finds the value or works
//! it out. A caller that is dropped half-way leaves the slot to the next one.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

/// The place of one key's value.
pub(crate) type Slot<T> = Arc<tokio::sync::Mutex<T>>;

/// Slots by key. Clones share them.
#[derive(Debug)]
pub(crate) struct Slots<K, T> {
    slots: Arc<Mutex<HashMap<K, Slot<T>>>>,
    max: usize,
}

impl<K: Hash + Eq, T: Default> Slots<K, T> {
    /// Keeps at most `max` slots. A caller that comes when all are in use gets one for itself alone.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            slots: Arc::default(),
            max,
        }
    }

    /// The slot of a key, a new and empty one if there is none. `in_use`: whether a value is still worth its slot; asked
    /// only when there are too many, and not of slots that a caller holds.
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

    /// Forgets all slots. Callers that hold one share it with nobody who comes later.
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
        // Full: the slot of 1 is given up, that of 2 is worth keeping, and that of 0 is held.
        *slots.get(3, |value| *value == 2).lock().await = 3;
        assert_eq!(*slots.get(2, |_| true).lock().await, 2);
        assert!(Arc::ptr_eq(&held, &slots.get(0, |_| true)));
        // Full again, of slots that are all worth keeping: the newcomer is alone.
        *slots.get(9, |_| true).lock().await = 9;
        assert_eq!(*slots.get(9, |_| true).lock().await, 0);
    }
}
