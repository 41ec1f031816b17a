//! Steps that run blocks of other steps: `parallel`, `for_each`, `switch` and `loop`.
//!
//! A group opens a block, which then runs like the definition's own list of steps, and decides what
//! the end of a block means. What an open group knows is not stored: it follows from the definition,
//! the instance's data and the attempts at the steps inside, so every host computes the same.

use super::blocks::{BlockVariables, Closing, GroupNext};
use super::for_each::{ForEach, ForEachRun};
use super::parallel::{Parallel, ParallelRun};
use super::repeat::{Loop, LoopRun};
use super::switch::{Switch, SwitchRun};
use super::{Beginning, Block};
use crate::Timestamp;
use crate::address::BlockKey;
use crate::definition::{DefinitionMistake, StepSource};
use crate::expression::{Expression, Template};
use crate::failure::Failure;
use crate::yaml::Path;

/// A step that runs blocks of steps.
#[derive(Clone, Debug)]
pub struct Group {
    /// The rule by which blocks run.
    pub kind: GroupKind,
    /// The blocks, in the order written. `for_each` and `loop` have one.
    pub blocks: Vec<Block>,
}

/// The rule by which a group runs its blocks.
#[derive(Clone, Debug)]
pub enum GroupKind {
    /// All branches at the same time.
    Parallel(Parallel),
    /// The block once for each item of a list.
    ForEach(ForEach),
    /// The first case whose condition holds.
    Switch(Switch),
    /// The block again and again, until a condition holds.
    Loop(Loop),
}

/// An open group.
#[derive(Clone, Debug)]
pub(crate) enum GroupRun {
    Parallel(ParallelRun),
    ForEach(ForEachRun),
    Switch(SwitchRun),
    Loop(LoopRun),
}

impl GroupKind {
    /// Checks the fields of the group itself. Returns none for a step of another kind.
    pub(super) fn check(
        written: &StepSource,
        path: &Path,
        mistakes: &mut Vec<DefinitionMistake>,
    ) -> Option<Self> {
        if let Some(branches) = &written.parallel {
            return Parallel::check(written, branches, path, mistakes).map(Self::Parallel);
        }
        if let Some(items) = &written.for_each {
            return ForEach::check(written, items, path, mistakes).map(Self::ForEach);
        }
        if let Some(cases) = &written.switch {
            return Switch::check(written, cases, path, mistakes).map(Self::Switch);
        }
        let rounds = written.repeat.as_ref()?;
        Loop::check(written, rounds, path, mistakes).map(Self::Loop)
    }

    /// Returns the templates that are evaluated when the group begins, with their paths in the step.
    pub(super) fn templates(&self) -> Vec<(Path, &Template)> {
        match self {
            Self::ForEach(each) => vec![(Path::default().field("for_each"), &each.items)],
            _ => Vec::new(),
        }
    }

    /// Returns the conditions that are evaluated when the group begins, with their paths in the step.
    pub(super) fn conditions(&self) -> Vec<(Path, &Expression)> {
        match self {
            Self::Switch(switch) => switch.conditions(),
            _ => Vec::new(),
        }
    }

    /// Returns the condition that sees the steps of a block at its end, with its path in the step.
    pub(crate) fn end_condition(&self) -> Option<(Path, &Expression)> {
        match self {
            Self::Loop(rounds) => {
                let path = Path::default().field("loop").field("until");
                Some((path, &rounds.until))
            }
            _ => None,
        }
    }

    /// Returns true if the blocks have the variable.
    pub(crate) fn gives(&self, variable: &str) -> bool {
        match self {
            Self::ForEach(_) => matches!(variable, "item" | "index"),
            Self::Loop(_) => matches!(variable, "index" | "previous"),
            Self::Parallel(_) | Self::Switch(_) => false,
        }
    }
}

impl Group {
    /// Begins the group.
    ///
    /// # Errors
    /// The failure of the step: an expression does not fit the data.
    pub(super) fn begin(&self, beginning: &Beginning<'_>) -> Result<GroupRun, Failure> {
        Ok(match &self.kind {
            GroupKind::Parallel(_) => GroupRun::Parallel(ParallelRun::new(beginning.ready_at)),
            GroupKind::ForEach(each) => GroupRun::ForEach(each.begin(beginning)?),
            GroupKind::Switch(switch) => GroupRun::Switch(switch.begin(beginning)?),
            GroupKind::Loop(rounds) => GroupRun::Loop(rounds.begin(beginning, self.blocks.first())),
        })
    }

    /// Returns the block with this key.
    pub fn block(&self, key: &BlockKey) -> Option<&Block> {
        match (&self.kind, key) {
            (GroupKind::Parallel(parallel), BlockKey::Branch(branch)) => {
                let place = parallel.branches.iter().position(|name| name == branch)?;
                self.blocks.get(place)
            }
            (GroupKind::Switch(_), BlockKey::Index(case)) => self.blocks.get(*case),
            (GroupKind::ForEach(_) | GroupKind::Loop(_), BlockKey::Index(_)) => self.blocks.first(),
            _ => None,
        }
    }

    /// Returns the number by which the blocks of the group are in order.
    pub(crate) fn number(&self, key: &BlockKey) -> Option<usize> {
        match (&self.kind, key) {
            (_, BlockKey::Index(index)) => Some(*index),
            (GroupKind::Parallel(parallel), BlockKey::Branch(branch)) => {
                parallel.branches.iter().position(|name| name == branch)
            }
            _ => None,
        }
    }

    /// Returns the variables of a block that has been open, for its expressions to be evaluated
    /// again. None if there was no such block.
    pub(crate) fn variables(
        &self,
        key: &BlockKey,
        beginning: &Beginning<'_>,
    ) -> Option<(BlockVariables, Timestamp)> {
        let run = self.begin(beginning).ok()?;
        match (run, &self.kind, key) {
            (GroupRun::ForEach(run), GroupKind::ForEach(each), BlockKey::Index(index)) => run
                .variables_again(
                    each,
                    *index,
                    beginning.step,
                    beginning.steps,
                    self.blocks.first()?,
                ),
            (GroupRun::Loop(_), GroupKind::Loop(rounds), BlockKey::Index(round)) => {
                Some(rounds.round(*round, beginning, self.blocks.first()?))
            }
            (GroupRun::Parallel(_) | GroupRun::Switch(_), ..) => {
                Some((BlockVariables::default(), beginning.ready_at))
            }
            _ => None,
        }
    }
}

impl GroupRun {
    /// Returns what the group does now.
    pub(crate) fn next(&mut self, group: &Group, now: Timestamp) -> GroupNext {
        match (self, &group.kind) {
            (Self::Parallel(run), GroupKind::Parallel(parallel)) => {
                run.next(parallel, &group.blocks)
            }
            (Self::ForEach(run), GroupKind::ForEach(each)) => run.next(each, &group.blocks),
            (Self::Switch(run), GroupKind::Switch(_)) => run.next(&group.blocks),
            (Self::Loop(run), GroupKind::Loop(_)) => run.next(&group.blocks, now),
            // A run is made by the group itself.
            _ => GroupNext::Waits,
        }
    }

    /// Takes the end of a block.
    pub(crate) fn close(&mut self, group: &Group, closing: Closing<'_>) {
        match (self, &group.kind) {
            (Self::Parallel(run), GroupKind::Parallel(parallel)) => run.close(parallel, closing),
            (Self::ForEach(run), GroupKind::ForEach(each)) => run.close(each, closing),
            (Self::Switch(run), GroupKind::Switch(_)) => run.close(closing),
            (Self::Loop(run), GroupKind::Loop(rounds)) => run.close(rounds, closing),
            _ => {}
        }
    }

    /// Returns the size of the list of a `for_each`, in bytes.
    pub(crate) fn list_bytes(&self) -> u64 {
        match self {
            Self::ForEach(run) => run.list_bytes(),
            _ => 0,
        }
    }

    /// Returns the size of what the group keeps, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Parallel(run) => run.bytes(),
            Self::ForEach(run) => run.bytes(),
            Self::Switch(_) => 0,
            Self::Loop(run) => run.bytes(),
        }
    }
}
