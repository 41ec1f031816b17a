//! Read-only view of the team's workflow data, in the shape of the HTTP API. Results are cached and
//! may be as old as the cache's time to live.
//!
//! Read into a type of yours with the fields you need, or into [`serde_json::Value`].
//!
//! ```no_run
//! # use stepwell_guest::{Context, Failure};
//! # fn example(context: &Context) -> Result<(), Failure> {
//! #[derive(serde::Deserialize)]
//! struct Instance { status: String }
//!
//! let instance: Instance = stepwell_guest::workflows::get_instance(&context.instance_id)?;
//! # Ok(())
//! # }
//! ```

use serde::de::DeserializeOwned;

use crate::bindings::stepwell::plugin::workflows;
use crate::{Failure, HostError, json};

/// Reads a workflow with its newest definition.
///
/// # Errors
///
/// Fails with `host-denied` without the grant, with `host-not-found`, and with the fatal code
/// `host-answer-invalid` if the response does not fit the type.
pub fn get_workflow<T: DeserializeOwned>(name: &str) -> Result<T, Failure> {
    decode(workflows::get_workflow(name))
}

/// Reads one version of a workflow. A version never changes. The first is 1.
///
/// # Errors
///
/// Fails as [`get_workflow`] does.
pub fn get_version<T: DeserializeOwned>(name: &str, version: u32) -> Result<T, Failure> {
    decode(workflows::get_version(name, version))
}

/// Reads an instance by its id.
///
/// # Errors
///
/// Fails as [`get_workflow`] does.
pub fn get_instance<T: DeserializeOwned>(id: &str) -> Result<T, Failure> {
    decode(workflows::get_instance(id))
}

/// Reads at most 200 pending approvals of one approver, oldest first.
///
/// # Errors
///
/// Fails as [`get_workflow`] does.
pub fn pending_approvals<T: DeserializeOwned>(approver: &str) -> Result<Vec<T>, Failure> {
    decode(workflows::pending_approvals(approver))
}

fn decode<T: DeserializeOwned>(answer: Result<String, HostError>) -> Result<T, Failure> {
    json::decode(answer?.as_bytes()).map_err(|reason| Failure::fatal("host-answer-invalid", reason))
}
