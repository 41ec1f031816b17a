//! `run`: runs one attempt at a step in this process, under the same limits as on a server.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::error::{CliError, ErrorClass};
use super::output::{self, Output, cell};
use super::{Global, digits, instances, logging, plugin, serve, settings, source};
use crate::app::{self, LocalContext, LocalError, LocalRun, LocalStage, LocalStep};
use crate::build;
use crate::clock::Timestamp;
use crate::config::{Config, LogConfig};
use crate::model::{Json, Name};

/// Time until a progress message is shown.
const LONG: Duration = Duration::from_secs(1);
/// The interval of frames of the progress line.
const MOVE: Duration = Duration::from_millis(100);
/// Warnings of the host, without lines that guests log.
const LOG_FILTER: &str = "warn,stepwell::guest=off";

#[derive(Args)]
pub(super) struct RunArguments {
    /// The file of the component, or of the core module to make it of; - for stdin
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
    /// The number of the attempt, as the step reads it
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    attempt: u32,
    /// A fixed time that the step reads, for example 2026-04-01T12:30:00Z
    #[arg(long, value_name = "TIME")]
    now: Option<Timestamp>,
    /// The workflow's name, as the step reads it [default: the plugin's name]
    #[arg(long, value_name = "NAME")]
    workflow: Option<Name>,
    /// The entity of the instance, as the step reads it
    #[arg(long, value_name = "TYPE/ID", value_parser = entity)]
    entity: Option<(String, String)>,
    /// The user who started the instance, as the step reads it
    #[arg(long, value_name = "USER", default_value = "local")]
    started_by: String,
}

fn entity(text: &str) -> Result<(String, String), String> {
    let (kind, id) = text.split_once('/').ok_or("write TYPE/ID")?;
    Ok((kind.to_owned(), id.to_owned()))
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
    for line in settings::stray_variables() {
        output::warn(&line);
    }
    let config = settings::load(global)?;
    logging::start(&LogConfig {
        // The step's log lines are shown below.
        filter: LOG_FILTER.to_owned(),
        ..config.log.clone()
    })?;
    let local = LocalStep {
        component: component(&arguments.file)?,
        step: arguments.step,
        input: input(&arguments.input)?,
        stored: arguments.stored,
        shared_buckets: arguments.shared.into_iter().collect(),
        context: LocalContext {
            attempt: arguments.attempt,
            now: arguments.now,
            workflow: arguments.workflow,
            entity: arguments.entity,
            started_by: arguments.started_by,
        },
    };
    let file = source::shown(&arguments.file);
    let run = serve::runtime()?
        .block_on(watched(config, serve::program()?, local, &file))
        .map_err(|error| CliError::new(format!("cannot run the step: {error}")))?;
    let run = serde_json::to_vec(&run)
        .and_then(|json| digits::read(&json))
        .map_err(|error| CliError::new(error.to_string()))?;
    output.show(&run, |run| {
        tell_details(run);
        match run.get("output") {
            None | Some(Value::Null) => String::new(),
            Some(output) => digits::write_pretty(output) + "\n",
        }
    })?;
    match run.get("failure").filter(|failure| !failure.is_null()) {
        None => Ok(()),
        Some(failure) => Err(CliError::new(format!(
            "{}: {}",
            cell(failure, "/code"),
            cell(failure, "/message")
        ))
        .of(ErrorClass::Unsuccessful)),
    }
}

/// Reads the input of the step.
fn input(argument: &str) -> Result<Json, CliError> {
    let value = instances::read_json(argument)?;
    Json::parse(&digits::write(&value))
        .map_err(|error| CliError::new(format!("the input cannot be used: {error}")))
}

/// Reads the component in a file. A core module that carries the contract is encoded.
fn component(file: &Path) -> Result<Vec<u8>, CliError> {
    let bytes = plugin::read(file)?;
    if !build::is_core_module(&bytes) {
        return Ok(bytes);
    }
    let shown = source::shown(file);
    if !build::has_contract(&bytes) {
        return Err(CliError::with_hint(
            format!("{shown} is a core WebAssembly module without the types of the contract"),
            "build it with the crate stepwell-guest and its `plugin!` macro, as a library of the type cdylib",
        ));
    }
    build::component_of(&bytes).map_err(|problem| {
        CliError::new(format!(
            "cannot make a component of the core module {shown}: {problem}"
        ))
    })
}

/// Runs the step. Shows the current stage if it takes long.
async fn watched(
    config: Config,
    program: PathBuf,
    local: LocalStep,
    file: &str,
) -> Result<LocalRun, LocalError> {
    let megabytes = local.component.len() as f64 / 1e6;
    let stage = Cell::new(LocalStage::Loading);
    let run = app::run_step_locally(config, program, local, |next| stage.set(next));
    tokio::pin!(run);
    tokio::select! {
        run = &mut run => return run,
        () = tokio::time::sleep(LONG) => {}
    }
    let mut compiles = false;
    let bar = output::moving_line();
    loop {
        if stage.get() == LocalStage::Compiling && !compiles {
            compiles = true;
            let line = format!(
                "compiling {file} ({megabytes:.1} MB); the machine code is kept for the next time"
            );
            bar.suspend(|| output::tell(&output::escape(&line)));
        }
        bar.set_message(match stage.get() {
            LocalStage::Loading => "loading the machine code",
            LocalStage::Compiling => "compiling",
            LocalStage::Running => "the step runs",
        });
        bar.tick();
        tokio::select! {
            run = &mut run => {
                bar.finish_and_clear();
                return run;
            }
            () = tokio::time::sleep(MOVE) => {}
        }
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
