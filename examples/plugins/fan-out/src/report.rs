//! The step `report`: counts instances by status.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stepwell_guest::batch::{self, ITEMS_MAX};
use stepwell_guest::{Context, Failure, HostError, Step};

#[derive(Deserialize)]
pub(crate) struct Input {
    ids: Vec<String>,
}

#[derive(Default, Serialize)]
pub(crate) struct Summary {
    total: usize,
    /// Number of instances by status, `{"completed": 7, "running": 3}` for example.
    statuses: BTreeMap<String, u32>,
    /// Number of ids that name no instance of this team.
    unknown: u32,
    /// True if no instance runs or waits any more.
    done: bool,
}

pub(crate) struct Report;

impl Step for Report {
    const NAME: &'static str = "report";
    const DESCRIPTION: &'static str = "Counts the given instances by status";
    type Input = Input;
    type Output = Summary;

    fn run(_context: &Context, input: Input) -> Result<Summary, Failure> {
        let mut summary = Summary {
            total: input.ids.len(),
            ..Summary::default()
        };
        for chunk in input.ids.chunks(ITEMS_MAX) {
            for answer in batch::get_statuses(chunk)? {
                match answer {
                    Ok(instance) => *summary.statuses.entry(instance.status).or_default() += 1,
                    Err(HostError::NotFound) => summary.unknown += 1,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        summary.done = !["running", "waiting"]
            .iter()
            .any(|status| summary.statuses.contains_key(*status));
        Ok(summary)
    }
}
