//! A step that runs a block again and again: `loop`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::blocks::{
    BlockEnd, BlockVariables, Closing, GroupNext, Opening, block_output, block_settled_at,
    check_steps,
};
use super::{Beginning, Block};
use crate::address::BlockKey;
use crate::definition::{DefinitionMistake, StepSource};
use crate::expression::Expression;
use crate::failure::{self, Blame, Failure};
use crate::instance::StepFailure;
use crate::yaml::Path;
use crate::{Json, Timestamp, duration};

/// Most rounds of a loop.
const ROUNDS_MAX: u32 = 1_000;
/// Longest delay between rounds.
const DELAY_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

/// A loop as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoopSource {
    /// A condition in CEL, evaluated after each round. It sees the steps of the round.
    pub until: String,
    /// Most rounds. The step fails if the condition does not hold after the last one.
    pub max: u32,
    /// Time between rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<String>,
}

/// A step that runs a block until a condition holds. Its output is that of the last round.
#[derive(Clone, Debug)]
pub struct Loop {
    /// The condition, evaluated after each round.
    pub until: Expression,
    /// Most rounds.
    pub max: usize,
    /// Time between rounds.
    pub delay: Duration,
}

/// An open `loop`.
#[derive(Clone, Debug)]
pub(crate) struct LoopRun {
    round: usize,
    variables: BlockVariables,
    ready_at: Timestamp,
    is_open: bool,
    end: Option<BlockEnd>,
}

impl Loop {
    pub(super) fn check(
        written: &StepSource,
        rounds: &LoopSource,
        path: &Path,
        mistakes: &mut Vec<DefinitionMistake>,
    ) -> Option<Self> {
        check_steps(written, "loop", path, mistakes);
        let step = format!("step `{}`: ", written.id);
        let path = path.field("loop");
        if !(1..=ROUNDS_MAX).contains(&rounds.max) {
            let message = format!("{step}`loop.max` must be 1 to {ROUNDS_MAX}");
            mistakes.push(DefinitionMistake::new(path.field("max"), message));
        }
        let delay = rounds.delay.as_deref().map(duration::parse).transpose();
        let delay = match delay {
            Ok(delay) if delay.is_none_or(|delay| delay <= DELAY_MAX) => delay.unwrap_or_default(),
            Ok(_) => {
                let message = format!("{step}`loop.delay` must be at most 365d");
                mistakes.push(DefinitionMistake::new(path.field("delay"), message));
                Duration::ZERO
            }
            Err(error) => {
                let message = format!("{step}`loop.delay`: {error}");
                mistakes.push(DefinitionMistake::new(path.field("delay"), message));
                Duration::ZERO
            }
        };
        let until = Expression::parse(&rounds.until).map_err(|error| {
            let prefix = format!("{step}`loop.until`: ");
            DefinitionMistake::expression(path.field("until"), &prefix, &error)
        });
        match until {
            Ok(until) => Some(Self {
                until,
                max: rounds.max as usize,
                delay,
            }),
            Err(mistake) => {
                mistakes.push(mistake);
                None
            }
        }
    }

    /// Begins the loop, or goes on with the last round that has an attempt. The rounds before it
    /// are over, and their conditions are not evaluated again.
    pub(super) fn begin(&self, beginning: &Beginning<'_>, block: Option<&Block>) -> LoopRun {
        let round = beginning.steps.last_index(beginning.step).unwrap_or(0);
        let (variables, ready_at) = match block {
            Some(block) => self.round(round, beginning, block),
            None => (BlockVariables::default(), beginning.ready_at),
        };
        LoopRun {
            round,
            variables,
            ready_at,
            is_open: false,
            end: None,
        }
    }

    /// Returns the variables of a round, and the time when it began.
    pub(super) fn round(
        &self,
        round: usize,
        beginning: &Beginning<'_>,
        block: &Block,
    ) -> (BlockVariables, Timestamp) {
        let before = round.checked_sub(1).map(|before| {
            let prefix = beginning.step.prefix(&BlockKey::Index(before));
            let output = block_output(beginning.steps, &prefix, block);
            let settled_at = block_settled_at(beginning.steps, &prefix, block);
            (output, settled_at.unwrap_or(beginning.ready_at))
        });
        let (previous, began_at) = match before {
            None => (Json::null(), beginning.ready_at),
            Some((output, settled_at)) => (output, settled_at.after(self.delay)),
        };
        let variables = BlockVariables {
            item: None,
            index: Some(round),
            previous: Some(previous),
        };
        (variables, began_at)
    }
}

impl LoopRun {
    pub(super) fn next(&mut self, blocks: &[Block], now: Timestamp) -> GroupNext {
        if let Some(end) = self.end.take() {
            return GroupNext::Ended(end);
        }
        let Some(block) = blocks.first().filter(|_| !self.is_open) else {
            return GroupNext::Waits;
        };
        if self.ready_at > now {
            return GroupNext::Sleeps(self.ready_at);
        }
        self.is_open = true;
        GroupNext::Opens(Opening {
            key: BlockKey::Index(self.round),
            block: block.clone(),
            variables: self.variables.clone(),
            ready_at: self.ready_at,
        })
    }

    pub(super) fn close(&mut self, rounds: &Loop, closing: Closing<'_>) {
        self.is_open = false;
        let fail = |failure| StepFailure {
            rejected: false,
            failure,
            at: closing.at,
        };
        let output = match closing.end {
            Ok(output) => output,
            Err(failure) => return self.end = Some(Err(failure)),
        };
        match (closing.holds)(&rounds.until) {
            Err(failure) => self.end = Some(Err(fail(failure))),
            Ok(true) => self.end = Some(Ok(output)),
            Ok(false) if self.round + 1 >= rounds.max => {
                let message = format!(
                    "the condition of the `loop` did not hold after {} rounds",
                    rounds.max
                );
                let failure = Failure::fatal(failure::LOOP_LIMIT, Blame::Definition, message);
                self.end = Some(Err(fail(failure)));
            }
            Ok(false) => {
                self.round += 1;
                self.ready_at = closing.at.after(rounds.delay);
                self.variables.index = Some(self.round);
                self.variables.previous = Some(output);
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.variables.previous.as_ref().map_or(0, Json::len)
    }
}
