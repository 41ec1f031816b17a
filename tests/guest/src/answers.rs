//! Steps whose output the host must refuse: `huge-output` and `invalid-json`.

use serde::Deserialize;
use serde::de::IgnoredAny;
use stepwell_guest::{Context, Failure, Step};

#[derive(Deserialize)]
pub(crate) struct Size {
    bytes: usize,
}

pub(crate) struct HugeOutput;

impl Step for HugeOutput {
    const NAME: &'static str = "huge-output";
    const DESCRIPTION: &'static str = "Answers JSON text of exactly so many bytes, at least 2";
    type Input = Size;
    type Output = String;

    fn run(_context: &Context, size: Size) -> Result<String, Failure> {
        // The two quotes around it are bytes too.
        Ok("x".repeat(size.bytes.saturating_sub(2)))
    }
}

pub(crate) struct InvalidJson;

impl Step for InvalidJson {
    const NAME: &'static str = "invalid-json";
    const DESCRIPTION: &'static str = "Answers text that is not JSON";
    type Input = IgnoredAny;
    type Output = ();

    fn run(_context: &Context, _input: IgnoredAny) -> Result<(), Failure> {
        Ok(())
    }

    fn call(_context: &Context, _input: &str) -> Result<String, Failure> {
        Ok("{\"this is\": not JSON".into())
    }
}
