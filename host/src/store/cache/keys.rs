//! Lookup of a key pair by references to its halves, so that a hit copies neither half.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A pair `(A, B)`, owned or borrowed. Both forms hash and compare alike, as a map requires of a
/// borrowed key.
pub(in crate::store) trait PairKey<A, B> {
    fn halves(&self) -> (&A, &B);
}

impl<A, B> PairKey<A, B> for (A, B) {
    fn halves(&self) -> (&A, &B) {
        (&self.0, &self.1)
    }
}

impl<A, B> PairKey<A, B> for (&A, &B) {
    fn halves(&self) -> (&A, &B) {
        *self
    }
}

impl<A: Hash, B: Hash> Hash for dyn PairKey<A, B> + '_ {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        // The tuple's derived hash gives the same result.
        self.halves().hash(hasher);
    }
}

impl<A: PartialEq, B: PartialEq> PartialEq for dyn PairKey<A, B> + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.halves() == other.halves()
    }
}

impl<A: Eq, B: Eq> Eq for dyn PairKey<A, B> + '_ {}

// mini-moka keeps its keys in an `Arc`.
impl<'a, A: 'a, B: 'a> Borrow<dyn PairKey<A, B> + 'a> for Arc<(A, B)> {
    fn borrow(&self) -> &(dyn PairKey<A, B> + 'a) {
        &**self
    }
}
