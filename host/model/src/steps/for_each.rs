//! A step that runs a block once for each item of a list.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::blocks::{
    BlockVariables, Closing, GroupNext, Opening, block_settled_at, check_steps, list, object,
    too_large,
};
use super::{Beginning, Block};
use crate::address::BlockKey;
use crate::definition::{DefinitionMistake, StepSource};
use crate::expression::Template;
use crate::failure::{self, Blame, Failure};
use crate::instance::{StepFailure, Steps};
use crate::yaml::Path;
use crate::{Json, StepAddress, Timestamp};

/// Most items of one list.
pub const ITEMS_MAX: usize = 10_000;
/// Most items that run at the same time.
const PARALLEL_MAX: usize = 1_000;
/// Memory of an item beside its text, in bytes.
const ITEM_BYTES: usize = 64;
/// Items that run at the same time unless `max_parallel` says otherwise.
const PARALLEL_DEFAULT: usize = 16;

/// The consequence of an item that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnItemError {
    /// The step fails, and the other items are stopped.
    #[default]
    Fail,
    /// The other items go on. The output has `{"output": …}` or `{"failure": …}` for each item.
    Collect,
}

/// A step that runs a block once for each item of a list. Its output is the list of the outputs, in
/// the order of the items.
#[derive(Clone, Debug)]
pub struct ForEach {
    /// The template for the list.
    pub items: Template,
    /// Most items that run at the same time.
    pub max_parallel: usize,
    /// The consequence of an item that fails.
    pub on_item_error: OnItemError,
}

/// Returns the time when the end of another item made room for this one; none if there was room from
/// the beginning. `ends` are in order.
fn room_at(each: &ForEach, index: usize, ends: &[Timestamp]) -> Option<Timestamp> {
    ends.get(index.checked_sub(each.max_parallel)?).copied()
}

/// An open `for_each`.
#[derive(Clone)]
pub(crate) struct ForEachRun {
    ready_at: Timestamp,
    items: Arc<[Json]>,
    /// Number of opened items.
    opened: usize,
    /// The ends of the items that have ended, with the places of the items.
    ended: Vec<(usize, Json)>,
    /// Times of these ends, in order. The end of one item makes room for another.
    ends: Vec<Timestamp>,
    items_bytes: usize,
    outputs_bytes: usize,
    failure: Option<StepFailure>,
}

impl fmt::Debug for ForEachRun {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (items, ended) = (self.items.len(), self.ended.len());
        write!(
            formatter,
            "ForEachRun({ended} of {items} items, {} opened)",
            self.opened
        )
    }
}

impl ForEach {
    pub(super) fn check(
        written: &StepSource,
        items: &Value,
        path: &Path,
        mistakes: &mut Vec<DefinitionMistake>,
    ) -> Option<Self> {
        let step = format!("step `{}`: ", written.id);
        check_steps(written, "for_each", path, mistakes);
        let max_parallel = written
            .max_parallel
            .map_or(PARALLEL_DEFAULT, |number| number as usize);
        if !(1..=PARALLEL_MAX).contains(&max_parallel) {
            let message = format!("{step}`max_parallel` must be 1 to {PARALLEL_MAX}");
            mistakes.push(DefinitionMistake::new(path.field("max_parallel"), message));
        }
        let path = path.field("for_each");
        let items = match (Template::parse_all(items), items) {
            (Ok(items), Value::Array(_)) => Some(items),
            (Ok(items @ Template::Expression(_)), _) => Some(items),
            (Ok(_), _) => {
                let message = format!(
                    "{step}`for_each` must be a list, or `${{…}}` that gives one, such as ${{input.items}}"
                );
                mistakes.push(DefinitionMistake::new(path, message));
                None
            }
            (Err(errors), _) => {
                let prefix = format!("{step}`for_each`: ");
                mistakes.extend(errors.iter().map(|(rest, error)| {
                    DefinitionMistake::expression(path.join(&rest.0), &prefix, error)
                }));
                None
            }
        };
        Some(Self {
            items: items?,
            max_parallel,
            on_item_error: written.on_item_error.unwrap_or_default(),
        })
    }

    pub(super) fn begin(&self, beginning: &Beginning<'_>) -> Result<ForEachRun, Failure> {
        let wrong = |message: String| {
            let message = format!("step `{}`: `for_each`: {message}", beginning.step);
            Failure::fatal(failure::EXPRESSION, Blame::Definition, message)
        };
        let list = (beginning.evaluate)(&self.items)?;
        let Some(items) = list.items() else {
            let shown: String = list.as_str().chars().take(80).collect();
            return Err(wrong(format!("must give a list, and gives {shown}")));
        };
        if items.len() > ITEMS_MAX {
            let count = items.len();
            return Err(wrong(format!(
                "the list has {count} items, and may have {ITEMS_MAX}; start an instance for each part of the list"
            )));
        }
        Ok(ForEachRun {
            ready_at: beginning.ready_at,
            items_bytes: list.len() + items.len() * ITEM_BYTES,
            outputs_bytes: 0,
            items: items.into(),
            opened: 0,
            ended: Vec::new(),
            ends: Vec::new(),
            failure: None,
        })
    }
}

impl ForEachRun {
    /// Returns the variables of an item's block, and the time when it opened. `steps` has the steps
    /// of the items that have ended.
    pub(super) fn variables_again(
        &self,
        each: &ForEach,
        index: usize,
        group: &StepAddress,
        steps: &Steps,
        block: &Block,
    ) -> Option<(BlockVariables, Timestamp)> {
        let ends = (0..self.items.len()).filter_map(|item| {
            block_settled_at(steps, &group.prefix(&BlockKey::Index(item)), block)
        });
        let mut ends: Vec<_> = ends.collect();
        ends.sort_unstable();
        let room_at = room_at(each, index, &ends);
        Some((self.variables(index)?, room_at.unwrap_or(self.ready_at)))
    }

    fn variables(&self, index: usize) -> Option<BlockVariables> {
        Some(BlockVariables {
            item: Some(self.items.get(index)?.clone()),
            index: Some(index),
            previous: None,
        })
    }

    pub(super) fn next(&mut self, each: &ForEach, blocks: &[Block]) -> GroupNext {
        if let Some(failure) = &self.failure {
            return GroupNext::Ended(Err(failure.clone()));
        }
        if self.ended.len() >= self.items.len() {
            self.ended.sort_unstable_by_key(|(place, _)| *place);
            let ends = self.ended.iter().map(|(_, end)| end);
            return GroupNext::joined(
                list(ends),
                self.ends.last().copied().unwrap_or(self.ready_at),
            );
        }
        let has_room = self.opened - self.ended.len() < each.max_parallel;
        let next = has_room.then(|| self.variables(self.opened)).flatten();
        let (Some(variables), Some(block)) = (next, blocks.first()) else {
            return GroupNext::Waits;
        };
        let index = self.opened;
        self.opened += 1;
        let room_at = room_at(each, index, &self.ends);
        GroupNext::Opens(Opening {
            key: BlockKey::Index(index),
            block: block.clone(),
            variables,
            ready_at: room_at.unwrap_or(self.ready_at),
        })
    }

    pub(super) fn close(&mut self, each: &ForEach, closing: Closing<'_>) {
        let BlockKey::Index(index) = closing.key else {
            return;
        };
        let end = match (each.on_item_error, closing.end) {
            (OnItemError::Fail, Err(failure)) => {
                self.failure.get_or_insert(failure);
                return;
            }
            (OnItemError::Fail, Ok(output)) => output,
            (OnItemError::Collect, Ok(output)) => {
                object(&BTreeMap::from([("output", output)])).unwrap_or_default()
            }
            (OnItemError::Collect, Err(failed)) => {
                let Failure { code, message, .. } = &failed.failure;
                json!({ "failure": { "code": code, "message": message } }).into()
            }
        };
        self.outputs_bytes += end.len() + 1;
        if self.outputs_bytes > closing.bytes_max {
            self.failure.get_or_insert(StepFailure {
                rejected: false,
                failure: too_large("for_each", closing.bytes_max),
                at: closing.at,
            });
        }
        self.ended.push((*index, end));
        let place = self.ends.partition_point(|end| *end <= closing.at);
        self.ends.insert(place, closing.at);
    }

    pub(super) fn list_bytes(&self) -> u64 {
        self.items_bytes as u64
    }

    pub(super) fn bytes(&self) -> usize {
        self.items_bytes + self.outputs_bytes
    }
}
