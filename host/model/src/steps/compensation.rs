//! The step that undoes a plugin step.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plugin::{PluginStep, Retry};
use super::{Block, StepAction};
use crate::Name;
use crate::definition::{DefinitionMistake, Step, StepSource};
use crate::yaml::Path;

/// The compensation of a step as it is written: a plugin step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompensationSource {
    /// `name`, or `name@version` to stay on one version.
    pub plugin: String,
    /// The plugin's step to run.
    pub step: Name,
    /// A template for the input. It sees the output of the compensated step. Without it, the
    /// instance's input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// The retry policy after a retryable failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Longest time of one attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

impl CompensationSource {
    /// Checks the compensation of the step `of`. Returns a block with the one step that compensates;
    /// it has the id of the compensated step.
    pub(crate) fn check(
        &self,
        of: &StepSource,
        path: &Path,
        mistakes: &mut Vec<DefinitionMistake>,
    ) -> Option<Block> {
        let mut found = Vec::new();
        // The check reads the reference to the plugin from its own argument.
        let plain = StepSource::of_plugin(of.id.clone(), &self.step, self.step.clone());
        let written = StepSource {
            input: self.input.clone(),
            retry: self.retry.clone(),
            timeout: self.timeout.clone(),
            ..plain
        };
        let action = PluginStep::check(&written, &self.plugin, path, &mut found);
        let step = format!("step `{}`: ", of.id);
        mistakes.extend(found.into_iter().map(|mistake| DefinitionMistake {
            message: match mistake.message.strip_prefix(&step) {
                Some(rest) => format!("{step}`compensate`: {rest}"),
                None => mistake.message,
            },
            ..mistake
        }));
        let step = Step {
            id: of.id.clone(),
            needs: Vec::new(),
            when: None,
            action: StepAction::Plugin(action?),
            continue_on_error: false,
            compensate: None,
        };
        Some(vec![step].into())
    }
}
