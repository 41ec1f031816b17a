//! `run`: runs one attempt at a step in this process, under the same limits as on a server.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::error::CliError;
use super::output::{self, Output, cell};
use super::{Global, instances, plugin, serve, settings};
use crate::app::{self, LocalStep};
use crate::model::Name;

#[derive(Args)]
pub(super) struct RunArguments {
    /// The component's file
    file: PathBuf,
    /// The step to run
    step: Name,
    /// JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON", default_value = "{}")]
    input: String,
    /// An entry of the plugin's bucket before the run; can be repeated
    #[arg(long = "stored", value_name = "KEY=VALUE", value_parser = key_and_value)]
    stored: Vec<(String, Vec<u8>)>,
    /// Shared buckets that the step may open
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    shared: Vec<Name>,
}

fn key_and_value(text: &str) -> Result<(String, Vec<u8>), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.as_bytes().to_vec()))
}

pub(super) fn run(
    global: &Global,
    output: Output,
    arguments: RunArguments,
) -> Result<(), CliError> {
    let local = LocalStep {
        component: plugin::read(&arguments.file)?,
        step: arguments.step,
        input: instances::read_json(&arguments.input)?.into(),
        stored: arguments.stored,
        shared_buckets: arguments.shared.into_iter().collect(),
    };
    let run = app::run_step_locally(settings::load(global)?, serve::program()?, local);
    let run = serve::runtime()?
        .block_on(run)
        .map_err(|error| CliError::new(format!("cannot run the step: {error}")))?;
    let run = serde_json::to_value(run).map_err(|error| CliError::new(error.to_string()))?;
    output.show(&run, |run| {
        tell_details(run);
        match run.get("output") {
            None | Some(Value::Null) => String::new(),
            Some(output) => format!("{output:#}\n"),
        }
    })?;
    match run.get("failure").filter(|failure| !failure.is_null()) {
        None => Ok(()),
        Some(failure) => Err(CliError::new(format!(
            "{}: {}",
            cell(failure, "/code"),
            cell(failure, "/message")
        ))),
    }
}

/// Prints logs, metrics, writes and usage of the step to stderr, so that the output can be piped.
fn tell_details(run: &Value) {
    let list = |name: &str| {
        run.get(name)
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
    };
    let tell = |line: String| output::tell(&output::escape(&line));
    for log in list("logs") {
        tell(format!(
            "log     {} {}",
            cell(log, "/level"),
            cell(log, "/line")
        ));
    }
    for metric in list("metrics") {
        tell(format!(
            "metric  {} {} {}",
            cell(metric, "/kind"),
            cell(metric, "/name"),
            cell(metric, "/value")
        ));
    }
    for write in list("writes") {
        let value: String = cell(write, "/value").chars().take(200).collect();
        tell(format!(
            "write   {} {}/{} {value}",
            cell(write, "/action"),
            cell(write, "/space"),
            cell(write, "/key")
        ));
    }
    if run
        .get("instances_created")
        .and_then(Value::as_u64)
        .is_some_and(|count| count > 0)
    {
        tell(format!(
            "batch   {} instances created",
            cell(run, "/instances_created")
        ));
    }
    let milliseconds = |pointer: &str| {
        run.pointer(pointer)
            .and_then(Value::as_f64)
            .map_or_else(|| "-".to_owned(), |us| output::number(us / 1e3))
    };
    let memory = run
        .pointer("/usage/memory_bytes")
        .and_then(Value::as_u64)
        .map(output::bytes)
        .unwrap_or_default();
    tell(format!(
        "took    {} ms, {} ms on a CPU, {memory} of memory, {} host calls",
        milliseconds("/usage/wall_us"),
        milliseconds("/usage/cpu_us"),
        cell(run, "/usage/host_calls"),
    ));
}
