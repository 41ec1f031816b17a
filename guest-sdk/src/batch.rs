//! Bulk work on workflow instances. Writes are effects: they commit with the step.
//!
//! ```no_run
//! # use stepwell_guest::{Context, Failure};
//! use stepwell_guest::batch::{self, NewInstance};
//!
//! # fn example(context: &Context) -> Result<(), Failure> {
//! let mut items = Vec::new();
//! for name in ["Ada", "Grace"] {
//!     let key = format!("{}-{name}", context.idempotency_key);
//!     items.push(NewInstance::new("hello", &serde_json::json!({ "name": name }))?.idempotency_key(key));
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

/// Where an instance is: `status` is `running`, `waiting`, `completed`, `rejected`, `failed` or `cancelled`, and
/// `current_step` is the id of the step that runs or waits.
pub use batch::InstanceStatus;
/// New metadata for one instance.
pub use batch::InstanceUpdate;
/// One instance to create. The newest version of the workflow is used.
pub use batch::NewInstance;

/// The most items that one call takes.
pub const ITEMS_MAX: usize = 1_000;

/// One answer per item, in the order asked.
pub type PerItem<T> = Vec<Result<T, HostError>>;

/// Creates instances and answers their ids; one bad item does not fail the others. At most [`ITEMS_MAX`] a call and
/// 10,000 an attempt. Instances created by steps may create further ones, down to 8 levels.
///
/// # Errors
///
/// `Denied` without the grant, `Limit` above a bound: then nothing was created.
pub fn create_instances(items: &[NewInstance]) -> Result<PerItem<String>, HostError> {
    batch::create_instances(items)
}

/// Replaces the metadata of at most [`ITEMS_MAX`] instances.
///
/// # Errors
///
/// As [`create_instances`].
pub fn update_instances(items: &[InstanceUpdate]) -> Result<PerItem<()>, HostError> {
    batch::update_instances(items)
}

/// Reads the status of at most [`ITEMS_MAX`] instances. May be as old as the instance cache's time to live.
///
/// # Errors
///
/// As [`create_instances`].
pub fn get_statuses(ids: &[String]) -> Result<PerItem<InstanceStatus>, HostError> {
    batch::get_statuses(ids)
}

impl NewInstance {
    /// An instance of a workflow of this team, with an input of at most 1 MiB of JSON.
    ///
    /// # Errors
    ///
    /// The fatal code `not-json` for an input that JSON cannot hold.
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

    /// What the instance is about: a kind of at most 128 bytes and an id of at most 256.
    #[must_use]
    pub fn entity(mut self, entity_type: impl Into<String>, entity_id: impl Into<String>) -> Self {
        self.entity_type = Some(entity_type.into());
        self.entity_id = Some(entity_id.into());
        self
    }

    /// A second instance with the same key in the same workflow is not created; the id of the first is answered, unless
    /// the first was asked for with other fields: then it is `invalid`. At most 256 bytes. Derive it from the context's
    /// `idempotency_key`, so that a retried step creates nothing twice.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }
}

impl InstanceUpdate {
    /// Metadata is a JSON object of at most 64 KiB that replaces what the instance had.
    ///
    /// # Errors
    ///
    /// The fatal code `not-json` for metadata that JSON cannot hold.
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
