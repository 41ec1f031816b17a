//! A step that runs several branches at the same time.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Block;
use super::blocks::{BlockVariables, Closing, GroupNext, Opening, object, too_large};
use crate::address::BlockKey;
use crate::definition::{DefinitionMistake, StepSource};
use crate::instance::StepFailure;
use crate::yaml::Path;
use crate::{Json, StepId, Timestamp};

/// A step that runs several branches at the same time. Its output is an object with the outputs of
/// the branches that have ended.
#[derive(Clone, Debug)]
pub struct Parallel {
    /// The names of the branches, in the order of the blocks.
    pub branches: Vec<StepId>,
    /// Number of branches that must end. The others are then stopped.
    pub wait_for: usize,
}

/// An open `parallel`.
#[derive(Clone, Debug)]
pub(crate) struct ParallelRun {
    ready_at: Timestamp,
    /// Number of opened branches.
    opened: usize,
    outputs: BTreeMap<StepId, Json>,
    /// Time of the last end of a branch.
    ended_at: Timestamp,
    failed: usize,
    failure: Option<StepFailure>,
}

impl Parallel {
    pub(super) fn check(
        written: &StepSource,
        branches: &BTreeMap<StepId, Vec<StepSource>>,
        path: &Path,
        mistakes: &mut Vec<DefinitionMistake>,
    ) -> Option<Self> {
        let mut wrong = |path: Path, message: String| {
            let message = format!("step `{}`: {message}", written.id);
            mistakes.push(DefinitionMistake::new(path, message));
        };
        if branches.is_empty() {
            let message = "`parallel` needs at least one branch, such as `left: [ … ]`";
            wrong(path.field("parallel"), message.to_owned());
        }
        for (branch, steps) in branches {
            if steps.is_empty() {
                let message = format!("the branch `{branch}` has no steps");
                wrong(path.field("parallel").field(branch.as_str()), message);
            }
        }
        let count = branches.len();
        let wait_for = match &written.wait_for {
            None => Some(count),
            Some(Value::String(text)) if text == "all" => Some(count),
            Some(Value::String(text)) if text == "any" => Some(1),
            Some(number) => number
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
                .filter(|number| (1..=count).contains(number)),
        };
        if wait_for.is_none() {
            let message = format!("`wait_for` must be `all`, `any`, or a number from 1 to {count}");
            wrong(path.field("wait_for"), message);
        }
        Some(Self {
            branches: branches.keys().cloned().collect(),
            wait_for: wait_for?,
        })
    }
}

impl ParallelRun {
    pub(super) fn new(ready_at: Timestamp) -> Self {
        Self {
            ready_at,
            opened: 0,
            outputs: BTreeMap::new(),
            ended_at: ready_at,
            failed: 0,
            failure: None,
        }
    }

    pub(super) fn next(&mut self, parallel: &Parallel, blocks: &[Block]) -> GroupNext {
        if let Some(failure) = &self.failure
            && self.failed > parallel.branches.len() - parallel.wait_for
        {
            return GroupNext::Ended(Err(failure.clone()));
        }
        if self.outputs.len() >= parallel.wait_for {
            return GroupNext::joined(object(&self.outputs), self.ended_at);
        }
        let next = parallel
            .branches
            .get(self.opened)
            .zip(blocks.get(self.opened));
        let Some((branch, block)) = next else {
            return GroupNext::Waits;
        };
        self.opened += 1;
        GroupNext::Opens(Opening {
            key: BlockKey::Branch(branch.clone()),
            block: block.clone(),
            variables: BlockVariables::default(),
            ready_at: self.ready_at,
        })
    }

    pub(super) fn close(&mut self, parallel: &Parallel, closing: Closing<'_>) {
        let BlockKey::Branch(branch) = closing.key else {
            return;
        };
        self.ended_at = closing.at;
        match closing.end {
            Ok(output) if self.bytes() + output.len() > closing.bytes_max => {
                self.failed = parallel.branches.len();
                self.failure = Some(StepFailure {
                    rejected: false,
                    failure: too_large("parallel", closing.bytes_max),
                    at: closing.at,
                });
            }
            Ok(output) => {
                self.outputs.insert(branch.clone(), output);
            }
            Err(failure) => {
                self.failed += 1;
                self.failure.get_or_insert(failure);
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.outputs.values().map(Json::len).sum()
    }
}
