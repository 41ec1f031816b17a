//! Resources that guests hold handles of. The generated bindings name these types.

use std::time::Instant;

use crate::model::effects::Space;

/// An open bucket. The host derives its space from the attempt: a guest cannot name the bucket of
/// another instance or plugin.
pub struct Bucket {
    pub(super) space: Space,
}

/// A running timer.
pub struct Timer {
    pub(super) operation: String,
    pub(super) started: Instant,
}
