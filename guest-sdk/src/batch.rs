//! Bulk work on workflow instances. Writes are effects: they are committed with the step.
//!
//! ```no_run
//! # use stepwell_guest::{Context, Failure};
//! use stepwell_guest::batch::{self, NewInstance};
//!
//! # fn example(context: &Context) -> Result<(), Failure> {
//! let mut items = Vec::new();
//! for name in ["Ada", "Grace"] {
//!     let key = format!("{}-{name}", context.idempotency_key);
//!     let input = serde_json::json!({ "name": name });
//!     items.push(NewInstance::new("hello", &input)?.idempotency_key(key));
//! }
//! for created in batch::create_instances(&items)? {
//!     println!("started {}", created?);
//! }
//! # Ok(())
//! # }
//! ```

use serde::Serialize;

use crate::bindings::stepwell::plugin::batch;
use crate::{Failure, HostError, json};

/// The state of an instance. `status` is `running`, `waiting`, `completed`, `rejected`, `failed` or
/// `cancelled`. `current_step` is the id of the step that runs or waits.
pub use batch::InstanceStatus;
/// New metadata for one instance.
pub use batch::InstanceUpdate;
/// An instance to create. The newest version of the workflow is used.
pub use batch::NewInstance;

/// Maximum number of items in one call.
pub const ITEMS_MAX: usize = 1_000;

/// One result for each item, in the order of the items.
pub type PerItem<T> = Vec<Result<T, HostError>>;

/// Creates instances and returns their ids. One bad item does not fail the others. A call takes at
/// most [`ITEMS_MAX`] items and an attempt at most 10,000. Instances that a step creates may create
/// further instances, down to 8 levels.
///
/// # Errors
///
/// Fails with `Denied` without the grant, and with `Limit` above a bound. Nothing is created then.
pub fn create_instances(items: &[NewInstance]) -> Result<PerItem<String>, HostError> {
    batch::create_instances(items)
}

/// Replaces the metadata of at most [`ITEMS_MAX`] instances.
///
/// # Errors
///
/// Fails as [`create_instances`] does.
pub fn update_instances(items: &[InstanceUpdate]) -> Result<PerItem<()>, HostError> {
    batch::update_instances(items)
}

/// Reads the status of at most [`ITEMS_MAX`] instances. A status may be as old as the instance
/// cache's time to live.
///
/// # Errors
///
/// Fails as [`create_instances`] does.
pub fn get_statuses(ids: &[String]) -> Result<PerItem<InstanceStatus>, HostError> {
    batch::get_statuses(ids)
}

impl NewInstance {
    /// Creates an item for a workflow of this team, with an input of at most 1 MiB of JSON.
    ///
    /// # Errors
    ///
    /// Fails with the fatal code `not-json` if JSON cannot hold the input.
    pub fn new<T: Serialize + ?Sized>(
        workflow: impl Into<String>,
        input: &T,
    ) -> Result<Self, Failure> {
        Ok(Self {
            workflow: workflow.into(),
            input: json::encode(input)?,
            entity_type: None,
            entity_id: None,
            idempotency_key: None,
        })
    }

    /// Sets the entity that the instance is about: a kind of at most 128 bytes and an id of at most
    /// 256 bytes.
    #[must_use]
    pub fn entity(mut self, entity_type: impl Into<String>, entity_id: impl Into<String>) -> Self {
        self.entity_type = Some(entity_type.into());
        self.entity_id = Some(entity_id.into());
        self
    }

    /// Sets an idempotency key of at most 256 bytes. A second instance with the same key in the
    /// same workflow is not created, and the call returns the id of the first. If the first was
    /// created with other fields, the item fails with `invalid`. Derive the key from the context's
    /// `idempotency_key`, so that a retried step creates nothing twice.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }
}

impl InstanceUpdate {
    /// Creates an update. `metadata` is a JSON object of at most 64 KiB that replaces the
    /// instance's metadata.
    ///
    /// # Errors
    ///
    /// Fails with the fatal code `not-json` if JSON cannot hold the metadata.
    pub fn new<T: Serialize + ?Sized>(
        instance_id: impl Into<String>,
        metadata: &T,
    ) -> Result<Self, Failure> {
        Ok(Self {
            instance_id: instance_id.into(),
            metadata: json::encode(metadata)?,
        })
    }
}
