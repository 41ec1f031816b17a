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
mod story;

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
/// The interval of checks until the last claims wait for a manager.
const POLL: Duration = Duration::from_millis(50);
/// Most instances that a payroll run creates.
const PAYROLL_MAX: u32 = 1_000;

#[derive(Args)]
pub(super) struct DemoArguments {
    /// Number of expenses to file
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    instances: u32,
    /// Leave the server running at the end with approvals that wait, and print how to use it
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
        keep: arguments.keep,
    };
    match show.run(&mut progress, &interrupt) {
        Ok(managers) if arguments.keep => server.leave_running(&managers),
        Ok(_) => {
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
    /// True if approvals are left waiting at the end.
    keep: bool,
}

/// A manager of the demo.
pub(super) struct Manager {
    pub(super) name: &'static str,
    pub(super) token: String,
}

impl Show<'_> {
    fn run(
        &self,
        progress: &mut Progress,
        interrupt: &Interrupt,
    ) -> Result<Vec<Manager>, CliError> {
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
        for name in expenses::MANAGERS {
            let body =
                json!({ "user": name, "permissions": ["approval_decide"], "expires_in": "1d" });
            let created = self.operator.post("/tokens", Payload::Json(&body))?;
            let token = output::cell(&created, "/token");
            managers.push(Manager { name, token });
        }
        let clients: Vec<_> = managers
            .iter()
            .map(|manager| self.operator.with_token(&manager.token))
            .collect();
        progress.detail(&expenses::MANAGERS.join(", "));

        let payroll = (self.instances / 3).clamp(1, PAYROLL_MAX);
        progress.begin(&format!(
            "File {} expenses, and {payroll} more through one batch",
            self.instances
        ));
        let load = Load {
            operator: self.operator,
            managers: &clients,
            instances: self.instances,
            payroll,
            deadline: DEADLINE,
            clock: self.clock,
            interrupt,
        };
        let result = load.run(progress)?;

        progress.begin("What happened, and the numbers from GET /workflow-metrics/stats");
        output::print(&format!("\n{}", story::tell(self.operator)?))?;
        report::show(self.operator, &result)?;
        result.check()?;
        if self.keep {
            self.leave_waiting()?;
        }
        Ok(managers)
    }

    /// Files claims that the demo does not decide, so that approvals wait in the dashboard.
    fn leave_waiting(&self) -> Result<(), CliError> {
        for number in 0..expenses::WAITING {
            let body = json!({
                "input": expenses::large_expense(number),
                "entity_type": "expense",
                "entity_id": format!("waiting-{number}"),
            });
            self.operator.post(
                "/workflows/expense-approval/instances",
                Payload::Json(&body),
            )?;
        }
        let began = self.clock.monotonic();
        while self.clock.monotonic().duration_since(began) < DEADLINE {
            let waiting = self
                .operator
                .get("/approvals?approver=*&status=pending&limit=200")?;
            if output::items(&waiting).len() >= usize::try_from(expenses::WAITING).unwrap_or(0) {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        Err(CliError::new("the last claims do not wait for a manager"))
    }
}
