//! The author's side of a step: [`Step`] and the [`Context`] of one attempt.

use core::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::exports::stepwell::plugin::step;
use crate::{Failure, json};

/// The context of an attempt: its team, plugin, workflow and instance. Constant during the attempt.
pub use crate::bindings::stepwell::plugin::types::StepContext as Context;

/// One step of a plugin. List it in [`plugin!`](crate::plugin).
///
/// Each attempt runs in a fresh instance of the plugin. `static` variables start anew, and attempts
/// share data only through [`storage`](crate::storage).
pub trait Step {
    /// The name of the step in workflow definitions: 1 to 63 of a-z, 0-9, '-', starting with a
    /// letter. Checked when the plugin is compiled.
    const NAME: &'static str;

    /// A description of one sentence for people, at most 1,024 bytes. Checked when the plugin is
    /// compiled.
    const DESCRIPTION: &'static str;

    /// The type of the input. The workflow's input mapping makes the input, at most 1 MiB of JSON.
    /// JSON that does not fit the type fails the step with the fatal code `invalid-input` and a
    /// message that names the place.
    type Input: DeserializeOwned;

    /// The type of the output. Later steps see the output as `steps.<id>.output`, at most 1 MiB of
    /// JSON.
    type Output: Serialize;

    /// Runs one attempt. Its writes through [`storage`](crate::storage) and [`batch`](crate::batch)
    /// are committed together with its output, or not at all.
    ///
    /// # Errors
    ///
    /// Fails with a [`Failure`] if the step cannot do its work. A refused host call becomes a
    /// failure through `?`.
    fn run(context: &Context, input: Self::Input) -> Result<Self::Output, Failure>;

    /// Runs one attempt from JSON text to JSON text. Only tests of the host replace this function,
    /// to return text that is not JSON.
    #[doc(hidden)]
    fn call(context: &Context, input: &str) -> Result<String, Failure> {
        let input = json::decode(input.as_bytes())
            .map_err(|reason| Failure::fatal("invalid-input", reason))?;
        json::encode(&Self::run(context, input)?)
    }
}

impl Context {
    /// Returns the rest of the attempt's time by the host's clock; zero after the deadline.
    pub fn time_left(&self) -> Duration {
        Duration::from_micros(self.deadline.saturating_sub(crate::runtime::now()))
    }

    /// Returns a made-up context for unit tests of a step: the first attempt, in a team called
    /// `test`, with a deadline one minute after `now`. Change the fields that the test is about.
    ///
    /// ```
    /// # use stepwell_guest::{Context, Failure, Step};
    /// # struct Double;
    /// # impl Step for Double {
    /// #     const NAME: &'static str = "double";
    /// #     const DESCRIPTION: &'static str = "Doubles a number";
    /// #     type Input = i64;
    /// #     type Output = i64;
    /// #     fn run(_: &Context, input: i64) -> Result<i64, Failure> { Ok(2 * input) }
    /// # }
    /// let context = Context { attempt: 3, ..Context::for_test("double") };
    /// assert_eq!(Double::run(&context, 21), Ok(42));
    /// ```
    pub fn for_test(step: &str) -> Self {
        Self {
            team: "test".into(),
            plugin: "test".into(),
            plugin_version: "0.0.0".into(),
            step: step.into(),
            workflow: "test".into(),
            workflow_version: 1,
            instance_id: "00000000-0000-7000-8000-000000000000".into(),
            step_id: step.replace('-', "_"),
            entity_type: None,
            entity_id: None,
            started_by: "test".into(),
            attempt: 1,
            idempotency_key: "test".into(),
            now: 1_767_225_600_000_000,
            deadline: 1_767_225_660_000_000,
        }
    }
}

/// Returns the failure for a step that [`plugin!`](crate::plugin) does not know. The host offers
/// only described steps, so the definition was written for another version of the plugin.
pub(crate) fn unknown_step(context: &Context, known: &[&str]) -> step::StepError {
    let message = format!(
        "{} {} has no step `{}`, it has: {}",
        context.plugin,
        context.plugin_version,
        context.step,
        known.join(", ")
    );
    Failure::fatal("unknown-step", message).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl Step for Echo {
        const NAME: &'static str = "echo";
        const DESCRIPTION: &'static str = "Answers its input";
        type Input = Vec<u8>;
        type Output = Vec<u8>;

        fn run(_context: &Context, input: Vec<u8>) -> Result<Vec<u8>, Failure> {
            Ok(input)
        }
    }

    #[test]
    fn input_and_output_are_json_text() {
        assert_eq!(
            Echo::call(&Context::for_test("echo"), "[1, 2]"),
            Ok("[1,2]".into())
        );
    }

    #[test]
    fn input_that_does_not_fit_is_fatal_and_names_the_place() {
        let failure = Echo::call(&Context::for_test("echo"), "[1, 256]").unwrap_err();
        assert_eq!(
            failure.to_string(),
            "invalid-input: at `[1]`: invalid value: integer `256`, expected u8"
        );
        assert!(!failure.is_retry());
    }

    #[test]
    fn an_unknown_step_names_those_that_exist() {
        let step::StepError::Fatal(failure) =
            unknown_step(&Context::for_test("pya"), &["score", "pay"])
        else {
            panic!("an unknown step is fatal");
        };
        assert_eq!(
            failure.message,
            "test 0.0.0 has no step `pya`, it has: score, pay"
        );
    }
}
