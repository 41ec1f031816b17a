//! `demo`: starts a server, uploads the example plugins, runs hundreds of instances with approvals,
//! and prints the statistics.
//!
//! The demo is an ordinary client. The server is this program as a child process, and everything
//! shown comes from its HTTP API.

mod expenses;

mod load;
mod progress;
mod report;
mod server;
mod sources;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::client::{Client, Payload};
use super::error::CliError;
use super::output::{self, tell};
use super::{plugin, workflow};
use crate::cli::interrupt::Interrupt;
use crate::clock::Clock;
use load::Load;
use progress::Progress;
use server::Server;
use sources::Sources;

/// Longest demo. A slower one has found a fault.
const DEADLINE: Duration = Duration::from_secs(120);
/// Most instances that a payroll run creates.
const PAYROLL_MAX: u32 = 1_000;

#[derive(Args)]
pub(super) struct DemoArguments {
    /// Number of expenses to file
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    instances: u32,
    /// Leave the server running at the end, and print how to use it
    #[arg(long)]
    keep: bool,
    /// Take components from this directory instead of building them
    #[arg(long, value_name = "DIRECTORY")]
    plugins: Option<PathBuf>,
    /// Take workflow definitions from this directory instead of the checkout's examples
    #[arg(long, value_name = "DIRECTORY")]
    workflows: Option<PathBuf>,
}

pub(super) fn demo(arguments: &DemoArguments) -> Result<(), CliError> {
    let mut progress = Progress::new(7);
    let clock = Clock::System;
    let interrupt = Interrupt::listen()?;

    progress.begin(if arguments.plugins.is_some() {
        "Find the plugins"
    } else {
        "Build the example plugins"
    });
    let sources = Sources::find(arguments.plugins.as_deref(), arguments.workflows.as_deref())?;
    for (name, path) in &sources.components {
        progress.detail(&format!("{name}: {}", path.display()));
    }

    progress.begin("Start a server with an empty database");
    let server = Server::start(arguments.keep, &clock)?;
    interrupt.check()?;
    let operator = Client::new(&server.url, Some(server.token.clone()));
    progress.detail(&format!(
        "{} in {}",
        server.url,
        server.directory().display()
    ));

    // The server and its directory are removed on every path, so an error quotes the server's log.
    let show = Show {
        sources: &sources,
        operator: &operator,
        instances: arguments.instances,
        clock: &clock,
    };
    match show.run(&mut progress, &interrupt) {
        Ok(()) if arguments.keep => server.leave_running(),
        Ok(()) => {
            server.stop(&clock)?;
            tell("");
            tell(
                "The server is stopped and its data is gone. With --keep it goes on, to look around in.",
            );
            Ok(())
        }
        Err(mut error) => {
            // After Ctrl-C, errors of interrupted work are not reported.
            interrupt.check()?;
            error.hint = error.hint.or_else(|| server.last_complaint());
            Err(error)
        }
    }
}

/// The steps of the demo that need a server.
struct Show<'a> {
    sources: &'a Sources,
    operator: &'a Client,
    instances: u32,
    clock: &'a Clock,
}

impl Show<'_> {
    fn run(&self, progress: &mut Progress, interrupt: &Interrupt) -> Result<(), CliError> {
        progress.begin("Upload the plugins");
        for (_, path) in &self.sources.components {
            interrupt.check()?;
            let verdict = self
                .operator
                .post("/plugins", Payload::Component(&plugin::read(path)?))?;
            progress.detail(&plugin::verdict_line(&verdict));
        }

        progress.begin("Apply the workflows");
        for path in &self.sources.workflows {
            let text = std::fs::read_to_string(path).map_err(|error| {
                CliError::new(format!("cannot read {}: {error}", path.display()))
            })?;
            progress.detail(&workflow::applied_line(
                &self.operator.post("/workflows", Payload::Text(&text))?,
            ));
        }

        progress.begin("Give tokens to the managers, who may decide and nothing else");
        let mut managers = Vec::new();
        for manager in expenses::MANAGERS {
            let body =
                json!({ "user": manager, "permissions": ["approval_decide"], "expires_in": "1d" });
            let created = self.operator.post("/tokens", Payload::Json(&body))?;
            managers.push(self.operator.with_token(&output::cell(&created, "/token")));
        }
        progress.detail(&expenses::MANAGERS.join(", "));

        let payroll = (self.instances / 3).clamp(1, PAYROLL_MAX);
        progress.begin(&format!(
            "File {} expenses, and {payroll} more through one batch",
            self.instances
        ));
        let load = Load {
            operator: self.operator,
            managers: &managers,
            instances: self.instances,
            payroll,
            deadline: DEADLINE,
            clock: self.clock,
            interrupt,
        };
        let result = load.run(progress)?;

        progress.begin("The numbers, from GET /workflow-metrics/stats");
        report::show(self.operator, &result)?;
        result.check()
    }
}
