//! The smallest useful plugin: one step that greets.

use stepwell_guest::{Context, Failure, Step, plugin};

#[derive(serde::Deserialize)]
struct Input {
    name: String,
}

#[derive(serde::Serialize)]
struct Output {
    greeting: String,
}

struct Greet;

impl Step for Greet {
    const NAME: &'static str = "greet";
    const DESCRIPTION: &'static str = "Greets somebody by name";
    type Input = Input;
    type Output = Output;

    fn run(_context: &Context, input: Input) -> Result<Output, Failure> {
        Ok(Output {
            greeting: format!("Hello, {}!", input.name),
        })
    }
}

plugin! { steps: [Greet] }
