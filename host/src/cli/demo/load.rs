//! The demo's load: threads that start instances, threads of managers that decide, and a thread
//! that waits until all instances have ended.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::client::{Client, ClientError, Payload, encode};
use super::super::error::CliError;
use super::super::output::{cell, items};
use super::expenses;
use super::progress::Progress;
use crate::cli::interrupt::Interrupt;
use crate::clock::Clock;
use crate::model::InstanceStatus;

/// Threads that file expenses concurrently.
const STARTERS: u32 = 8;
const POLL: Duration = Duration::from_millis(100);
/// Interval of progress lines when stderr is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The parameters of the load.
pub(super) struct Load<'a> {
    pub(super) operator: &'a Client,
    pub(super) managers: &'a [Client],
    pub(super) instances: u32,
    pub(super) payroll: u32,
    pub(super) deadline: Duration,
    pub(super) clock: &'a Clock,
    pub(super) interrupt: &'a Interrupt,
}

/// The outcome of the load.
pub(super) struct LoadResult {
    /// Time from the first start to the last end.
    pub(super) elapsed: Duration,
    /// Approvals decided.
    pub(super) decisions: u32,
    /// Instances that ended.
    ended: u64,
    /// Instances expected to end.
    expected: u64,
    /// Instances that failed.
    failed: u64,
    /// Invalid expenses filed.
    mistakes: u64,
}

impl LoadResult {
    /// Checks that all instances ended and only invalid ones failed.
    pub(super) fn check(&self) -> Result<(), CliError> {
        if self.ended != self.expected {
            return Err(CliError::new(format!(
                "{} instances ended, and not {}",
                self.ended, self.expected
            )));
        }
        if self.failed != self.mistakes {
            let (failed, mistakes) = (self.failed, self.mistakes);
            return Err(CliError::new(format!(
                "{failed} instances failed, and {mistakes} had a mistake in them"
            )));
        }
        Ok(())
    }
}

/// State shared by the threads.
#[derive(Default)]
struct LoadState {
    next: AtomicU32,
    decisions: AtomicU32,
    over: AtomicBool,
}

impl Load<'_> {
    /// Runs the load until all instances have ended.
    ///
    /// # Errors
    /// The first error of any thread, or that the deadline has passed.
    pub(super) fn run(&self, progress: &Progress) -> Result<LoadResult, CliError> {
        let began = self.clock.monotonic();
        let shared = LoadState::default();
        thread::scope(|scope| {
            let starters: Vec<_> = (0..STARTERS)
                .map(|_| scope.spawn(|| self.start_expenses(&shared)))
                .collect();
            let managers: Vec<_> = self
                .managers
                .iter()
                .map(|manager| scope.spawn(|| decide(manager, &shared)))
                .collect();
            let watched = scope.spawn(|| self.watch(&shared, progress));
            let mut result = self.start_payroll();
            for starter in starters {
                result = result.and(joined(starter.join()));
            }
            if result.is_err() {
                shared.over.store(true, Ordering::SeqCst);
            }
            let watched = watched
                .join()
                .unwrap_or_else(|_| Err(CliError::new("a thread panicked")));
            shared.over.store(true, Ordering::SeqCst);
            for manager in managers {
                result = result.and(joined(manager.join()));
            }
            result?;
            let counts = watched?;
            Ok(LoadResult {
                elapsed: self.clock.monotonic().duration_since(began),
                decisions: shared.decisions.load(Ordering::SeqCst),
                ended: counts.ended,
                failed: counts.failed,
                expected: u64::from(self.instances) + u64::from(self.payroll) + 1,
                mistakes: (0..self.instances)
                    .filter(|number| expenses::is_mistake(*number))
                    .count() as u64,
            })
        })
    }

    fn start_payroll(&self) -> Result<(), CliError> {
        let body = json!({ "input": { "count": self.payroll, "manager": expenses::manager(0) } });
        let path = "/workflows/payroll-fan-out/instances";
        self.operator
            .post_once(path, Payload::Json(&body), "demo-payroll")?;
        Ok(())
    }

    fn start_expenses(&self, shared: &LoadState) -> Result<(), CliError> {
        loop {
            let number = shared.next.fetch_add(1, Ordering::SeqCst);
            if number >= self.instances || shared.over.load(Ordering::SeqCst) {
                return Ok(());
            }
            let body = json!({
                "input": expenses::expense(number),
                "entity_type": "expense",
                "entity_id": number.to_string(),
            });
            let key = format!("demo-expense-{number}");
            self.operator.post_once(
                "/workflows/expense-approval/instances",
                Payload::Json(&body),
                &key,
            )?;
        }
    }

    /// Shows progress until all instances have ended.
    fn watch(&self, shared: &LoadState, progress: &Progress) -> Result<InstanceCounts, CliError> {
        let expected = u64::from(self.instances) + u64::from(self.payroll) + 1;
        let bar = progress.bar(expected);
        let began = self.clock.monotonic();
        let mut last_line = began;
        loop {
            if shared.over.load(Ordering::SeqCst) {
                return Err(CliError::new("stopped early"));
            }
            if let Err(error) = self.interrupt.check() {
                bar.abandon();
                shared.over.store(true, Ordering::SeqCst);
                return Err(error);
            }
            let counts = InstanceCounts::of(&self.operator.get("/workflow-metrics/stats")?);
            let decisions = shared.decisions.load(Ordering::SeqCst);
            bar.set_position(counts.ended);
            bar.set_message(format!(
                "{} wait for a manager, {decisions} decided",
                counts.waiting
            ));
            // The server may show counts of some seconds ago, in which few instances exist yet.
            if counts.ended >= expected {
                bar.finish_and_clear();
                progress.detail(&format!(
                    "{} of {expected} instances ended, {decisions} decisions",
                    counts.ended
                ));
                return Ok(counts);
            }
            let now = self.clock.monotonic();
            if now.duration_since(began) > self.deadline {
                bar.abandon();
                shared.over.store(true, Ordering::SeqCst);
                return Err(CliError::new(format!(
                    "{} instances had not ended after {} s",
                    expected.saturating_sub(counts.ended),
                    self.deadline.as_secs()
                )));
            }
            if bar.is_hidden() && now.duration_since(last_line) >= LINE_EVERY {
                last_line = now;
                progress.detail(&format!(
                    "{} of {expected} ended, {} wait for a manager",
                    counts.ended, counts.waiting
                ));
            }
            thread::sleep(POLL);
        }
    }
}

/// Counts of the team's instances.
struct InstanceCounts {
    waiting: u64,
    ended: u64,
    failed: u64,
}

impl InstanceCounts {
    fn of(stats: &Value) -> Self {
        let count = |status: InstanceStatus| {
            stats
                .pointer(&format!("/instances/{}", status.as_str()))
                .and_then(Value::as_u64)
                .unwrap_or_default()
        };
        Self {
            waiting: count(InstanceStatus::Waiting),
            ended: InstanceStatus::ALL
                .into_iter()
                .filter(|status| status.is_final())
                .map(count)
                .sum(),
            failed: count(InstanceStatus::Failed),
        }
    }
}

/// Runs [`decide_all`], and ends the demo if it fails: without its manager, some instances would
/// never end.
fn decide(manager: &Client, shared: &LoadState) -> Result<(), CliError> {
    decide_all(manager, shared).inspect_err(|_| shared.over.store(true, Ordering::SeqCst))
}

/// Decides the manager's pending approvals until the demo is over.
fn decide_all(manager: &Client, shared: &LoadState) -> Result<(), CliError> {
    while !shared.over.load(Ordering::SeqCst) {
        let inbox = manager.get("/approvals?limit=200")?;
        for approval in items(&inbox) {
            let number = shared.decisions.load(Ordering::SeqCst);
            let body = if expenses::is_approved(number) {
                json!({ "decision": "approve" })
            } else {
                json!({ "decision": "reject", "comment": "please talk to me first" })
            };
            let path = format!("/approvals/{}/decision", encode(&cell(approval, "/id")));
            match manager.post(&path, Payload::Json(&body)) {
                Ok(_) => {
                    shared.decisions.fetch_add(1, Ordering::SeqCst);
                }
                // The list may be older than the last decision.
                Err(ClientError::Api { status: 409, .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        thread::sleep(POLL);
    }
    Ok(())
}

fn joined(result: thread::Result<Result<(), CliError>>) -> Result<(), CliError> {
    result.unwrap_or_else(|_| Err(CliError::new("a thread panicked")))
}
