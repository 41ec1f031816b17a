//! The command line: arguments, commands, terminal output. All commands but `serve`, `run`,
//! `config`, `compile-worker` and `token create --data-dir` are clients of the HTTP API, with the
//! rights of their token.

mod alerts;
mod approvals;
mod audit;
mod cache;
mod client;
mod demo;
mod digits;
mod each;
mod error;
mod help;
mod history;
mod instances;
mod interrupt;
mod logging;
mod output;
mod period;
mod plugin;
mod quotas;
mod retention;
mod run;
mod serve;
mod settings;
mod source;
mod start_from;
mod stats;
mod token;
mod top;
mod workflow;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, FromArgMatches as _, Parser, Subcommand};

use client::Client;
use error::{CliError, ErrorClass};
use output::Output;

use crate::model::plain::plain;

const SERVER_DEFAULT: &str = "http://127.0.0.1:7400";
const GLOBAL_OPTIONS: &str = "Global options";

/// Workflow engine whose steps are uploaded while it runs, as sandboxed WebAssembly components
#[derive(Parser)]
#[command(name = "stepwell", version, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that several commands take. `help.rs` hides them for commands that do not use them.
#[derive(Args)]
struct Global {
    /// Settings in TOML, or - for stdin; `stepwell config --defaults` lists them all
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL_OPTIONS)]
    config: Option<PathBuf>,
    /// The server's address, http://… or https://…
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "STEPWELL_URL",
        default_value = SERVER_DEFAULT,
        help_heading = GLOBAL_OPTIONS
    )]
    server: String,
    /// The token to authenticate with; safer in the environment than on the command line
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "STEPWELL_TOKEN",
        hide_env_values = true,
        help_heading = GLOBAL_OPTIONS
    )]
    token: Option<String>,
    /// Print the API's responses as JSON
    #[arg(long, global = true, help_heading = GLOBAL_OPTIONS)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::ServeArguments),
    /// Show what Stepwell does: start a server, upload example plugins, run hundreds of instances
    Demo(demo::DemoArguments),
    /// Upload, list, show, compare and delete plugins
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Apply, list, show and archive workflows
    #[command(subcommand)]
    Workflow(workflow::WorkflowCommand),
    /// Start an instance of a workflow, or many from a file
    Start(instances::StartArguments),
    /// List instances, or show one with its steps
    Instances(instances::InstancesArguments),
    /// Cancel instances
    Cancel(instances::CancelArguments),
    /// End the quarantine of instances, so that they are driven again
    Release(instances::CancelArguments),
    /// List approvals that wait for you
    Approvals(approvals::ApprovalsArguments),
    /// Approve pending approvals
    Approve(approvals::DecisionArguments),
    /// Reject pending approvals
    Reject(approvals::DecisionArguments),
    /// Create, list and revoke tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Delete instances that ended long ago, with their attempts, approvals and storage
    Retention(retention::RetentionArguments),
    /// Show the usage and quotas of teams
    Quotas(quotas::QuotasArguments),
    /// Run one step of a component in this process, once, without a server
    Run(run::RunArguments),
    /// Show the server's statistics
    Stats(stats::StatsArguments),
    /// Watch the server's statistics as they change
    Top(top::TopArguments),
    /// Show an operation over time
    History(history::HistoryArguments),
    /// List, acknowledge and silence alerts
    Alerts(alerts::AlertsArguments),
    /// List audit entries: who did what
    Audit(audit::AuditArguments),
    /// Show, clear and tidy the server's caches
    #[command(subcommand)]
    Cache(cache::CacheCommand),
    /// Show the effective settings, from the defaults, --config and the environment
    Config(settings::ConfigArguments),
    /// Print the completion script of a shell
    Completions(help::CompletionsArguments),
    /// Write manual pages, one for each command
    Man(help::ManArguments),
    /// Compile an upload; started by the server
    #[command(hide = true)]
    CompileWorker {
        /// Limit on address space, in bytes
        memory_bytes: u64,
        /// Limit on CPU time, in seconds
        cpu_seconds: u64,
        /// The file of the component
        component: std::path::PathBuf,
    },
}

impl Global {
    fn client(&self) -> Client {
        Client::new(&self.server, self.token.clone())
    }

    fn output(&self) -> Output {
        Output::new(self.json)
    }
}

/// Runs the command that the arguments name. The exit code is 0, or the class of the error that
/// stderr explains.
pub fn main() -> ExitCode {
    let arguments = help::command()
        .try_get_matches()
        .and_then(|matches| Arguments::from_arg_matches(&matches));
    let Arguments { global, command } = match arguments {
        Ok(arguments) => arguments,
        Err(error) if error.kind() == ErrorKind::ValueValidation => {
            // Plain words replace the texts of the standard library's parsers.
            output::tell(plain(&error.to_string()).trim_end());
            return ErrorClass::Usage.into();
        }
        Err(error) => error.exit(),
    };
    if let Command::CompileWorker {
        memory_bytes,
        cpu_seconds,
        component,
    } = command
    {
        return crate::plugins::compile_worker_main(memory_bytes, cpu_seconds, &component);
    }
    match run(&global, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::tell_error(&error);
            error.class.into()
        }
    }
}

fn run(global: &Global, command: Command) -> Result<(), CliError> {
    let (client, output) = (global.client(), global.output());
    match command {
        Command::Serve(arguments) => serve::serve(global, arguments),
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Plugin(command) => plugin::run(&client, output, command),
        Command::Workflow(command) => workflow::run(&client, output, command),
        Command::Start(arguments) => instances::start(&client, output, arguments),
        Command::Instances(arguments) => instances::instances(&client, output, arguments),
        Command::Cancel(arguments) => instances::cancel(&client, output, &arguments),
        Command::Release(arguments) => instances::release(&client, output, &arguments),
        Command::Approvals(arguments) => approvals::approvals(&client, output, arguments),
        Command::Approve(arguments) => approvals::decide(&client, output, "approve", &arguments),
        Command::Reject(arguments) => approvals::decide(&client, output, "reject", &arguments),
        Command::Token(command) => token::run(global, &client, output, command),
        Command::Retention(arguments) => retention::retention(&client, output, &arguments),
        Command::Quotas(arguments) => quotas::quotas(&client, output, arguments),
        Command::Run(arguments) => run::run(global, output, arguments),
        Command::Stats(arguments) => stats::stats(&client, output, &arguments),
        Command::Top(arguments) => top::top(&client, output, arguments),
        Command::History(arguments) => history::history(&client, output, arguments),
        Command::Alerts(arguments) => alerts::alerts(&client, output, arguments),
        Command::Audit(arguments) => audit::audit(&client, output, arguments),
        Command::Cache(command) => cache::run(&client, output, command),
        Command::Config(arguments) => settings::config(global, &arguments),
        Command::Completions(arguments) => help::completions(&arguments),
        Command::Man(arguments) => help::man(&arguments),
        Command::CompileWorker { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_arguments_are_consistent() {
        super::help::command().debug_assert();
    }
}
