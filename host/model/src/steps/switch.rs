//! A step that runs the first case whose condition holds.

use serde::{Deserialize, Serialize};

use super::blocks::{BlockEnd, BlockVariables, Closing, GroupNext, Opening};
use super::{Beginning, Block};
use crate::Timestamp;
use crate::address::BlockKey;
use crate::definition::{DefinitionMistake, StepSource};
use crate::expression::Expression;
use crate::failure::Failure;
use crate::yaml::Path;

/// A case as it is written: either `when` or `else`, and `steps`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseSource {
    /// A condition in CEL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// True for the last case, which runs if no condition holds.
    #[serde(default, rename = "else", skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<bool>,
    /// The steps to run.
    pub steps: Vec<StepSource>,
}

/// A step that runs the first case whose condition holds. Its output is the output of that case.
/// Without such a case the step is skipped.
#[derive(Clone, Debug)]
pub struct Switch {
    /// The conditions of the cases; none for `else`.
    pub conditions: Vec<Option<Expression>>,
}

/// An open `switch`.
#[derive(Clone, Debug)]
pub(crate) struct SwitchRun {
    ready_at: Timestamp,
    /// The case that runs; none if no condition holds.
    case: Option<usize>,
    is_open: bool,
    end: Option<BlockEnd>,
}

impl Switch {
    pub(super) fn check(
        written: &StepSource,
        cases: &[CaseSource],
        path: &Path,
        mistakes: &mut Vec<DefinitionMistake>,
    ) -> Option<Self> {
        let step = format!("step `{}`: ", written.id);
        let path = path.field("switch");
        let before = mistakes.len();
        if cases.is_empty() {
            let message = format!("{step}`switch` needs at least one case with `when` and `steps`");
            mistakes.push(DefinitionMistake::new(path.clone(), message));
        }
        let mut conditions = Vec::new();
        for (index, case) in cases.iter().enumerate() {
            let path = path.index(index);
            let is_last = index + 1 == cases.len();
            if case.steps.is_empty() {
                let message = format!("{step}a case of the `switch` has no steps");
                mistakes.push(DefinitionMistake::new(path.field("steps"), message));
            }
            match (&case.when, case.otherwise) {
                (Some(text), None) => match Expression::parse(text) {
                    Ok(condition) => conditions.push(Some(condition)),
                    Err(_) if text.contains("${") => {
                        let message = format!(
                            "{step}`when` is an expression already: write it without ${{…}}"
                        );
                        mistakes.push(DefinitionMistake::new(path.field("when"), message));
                    }
                    Err(error) => {
                        let path = path.field("when");
                        let prefix = format!("{step}`when`: ");
                        mistakes.push(DefinitionMistake::expression(path, &prefix, &error));
                    }
                },
                (None, Some(true)) if is_last => conditions.push(None),
                (None, Some(true)) => {
                    let message = format!("{step}only the last case may have `else: true`");
                    mistakes.push(DefinitionMistake::new(path.field("else"), message));
                }
                _ => {
                    let message =
                        format!("{step}a case has either `when`, a condition, or `else: true`");
                    mistakes.push(DefinitionMistake::new(path, message));
                }
            }
        }
        (mistakes.len() == before).then_some(Self { conditions })
    }

    pub(super) fn conditions(&self) -> Vec<(Path, &Expression)> {
        let path = Path::default().field("switch");
        let conditions = self.conditions.iter().enumerate();
        conditions
            .filter_map(|(index, condition)| {
                Some((path.index(index).field("when"), condition.as_ref()?))
            })
            .collect()
    }

    pub(super) fn begin(&self, beginning: &Beginning<'_>) -> Result<SwitchRun, Failure> {
        let mut case = None;
        for (index, condition) in self.conditions.iter().enumerate() {
            let holds = match condition {
                None => true,
                Some(condition) => (beginning.holds)(condition)?,
            };
            if holds {
                case = Some(index);
                break;
            }
        }
        Ok(SwitchRun {
            ready_at: beginning.ready_at,
            case,
            is_open: false,
            end: None,
        })
    }
}

impl SwitchRun {
    pub(super) fn next(&mut self, blocks: &[Block]) -> GroupNext {
        if let Some(end) = self.end.take() {
            return GroupNext::Ended(end);
        }
        let Some(case) = self.case else {
            return GroupNext::Skipped;
        };
        let Some(block) = blocks.get(case).filter(|_| !self.is_open) else {
            return GroupNext::Waits;
        };
        self.is_open = true;
        GroupNext::Opens(Opening {
            key: BlockKey::Index(case),
            block: block.clone(),
            variables: BlockVariables::default(),
            ready_at: self.ready_at,
        })
    }

    pub(super) fn close(&mut self, closing: Closing<'_>) {
        self.end = Some(closing.end);
    }
}
