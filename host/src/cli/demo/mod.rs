//! `demo`

use clap::Args;

use super::error::CliError;

#[derive(Args)]
pub(super) struct DemoArguments {}

pub(super) fn demo(_: &DemoArguments) -> Result<(), CliError> {
    Err(CliError::new("not yet"))
}
