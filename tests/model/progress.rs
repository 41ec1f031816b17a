//! An instance in memory, driven by hand.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use stepwell_model::Timestamp;
use stepwell_model::approval::ApprovalStatus;
use stepwell_model::failure::{Blame, Failure};
use stepwell_model::transition::{Change, DecisionError, Event, Progress, StepReport};
use stepwell_model::{
    Approval, Attempt, Child, ChildEnd, Decision, Definition, Instance, NewInstance,
};
use uuid::Uuid;

/// An instance with everything that a store would keep of it.
pub struct Stage {
    pub progress: Progress,
    pub attempts: Vec<Attempt>,
    /// All children that were ever created, except those that were stopped.
    pub children: Vec<Child>,
    pub now: Timestamp,
    ids: u128,
}

/// Returns a guest's failure.
pub fn failure(retryable: bool) -> Failure {
    if retryable {
        Failure::retryable("flaky", Blame::Guest, "try again")
    } else {
        Failure::fatal("broken", Blame::Guest, "no")
    }
}

impl Stage {
    pub fn new(definition: &str, input: Value) -> Self {
        let definition = Arc::new(Definition::parse(definition).expect("is a valid definition"));
        Self::of(definition, input)
    }

    pub fn of(definition: Arc<Definition>, input: Value) -> Self {
        let now = Timestamp::from_micros(1_000_000);
        let instance: Instance = NewInstance {
            id: Uuid::from_u128(1),
            team: "default".parse().expect("is a name"),
            workflow_id: Uuid::from_u128(2),
            workflow: definition.name().clone(),
            workflow_version: 1,
            pins: Default::default(),
            entity_type: Some("expense".to_owned()),
            entity_id: Some("e-1".to_owned()),
            project_id: None,
            started_by: "ann".to_owned(),
            input: input.into(),
            idempotency_key: None,
            depth: 0,
            root_id: None,
            parent: None,
            traceparent: None,
            created_at: now,
        }
        .into();
        let progress = Progress::restore(instance, definition, &[], Vec::new());
        let mut stage = Self {
            progress,
            attempts: Vec::new(),
            children: Vec::new(),
            now,
            ids: 100,
        };
        stage.apply(Event::Woken).expect("is no decision");
        stage
    }

    pub fn apply(&mut self, event: Event) -> Result<Change, DecisionError> {
        let ids = &mut self.ids;
        let change = self.progress.apply(event, self.now, &mut || {
            *ids += 1;
            Uuid::from_u128(*ids)
        })?;
        self.attempts.extend(change.attempts.iter().cloned());
        self.progress.committed();
        let new = change.new_children.iter().map(|new| Child {
            id: new.id,
            step: new.step.clone(),
            workflow: new.workflow.clone(),
            awaited: new.awaited,
            created_at: self.now,
            exists: true,
            end: None,
        });
        self.children.extend(new);
        let stopped = &change.stopped_children;
        self.children.retain(|child| !stopped.contains(&child.id));
        Ok(change)
    }

    /// Ends a child. The next event finds the end.
    pub fn end_child(&mut self, id: Uuid, end: ChildEnd) {
        let kept = self.children.iter_mut();
        let children = kept.chain(&mut self.progress.children);
        for child in children.filter(|child| child.id == id) {
            child.end = Some(end.clone());
        }
    }

    pub fn wait(&mut self, duration: Duration) -> Change {
        self.now = self.now.after(duration);
        self.apply(Event::Woken).expect("is no decision")
    }

    /// Returns the id of the step that is ready.
    pub fn ready(&self) -> Option<String> {
        self.progress
            .next_run(self.now)
            .map(|run| run.step.to_string())
    }

    pub fn finish(&mut self, result: Result<Value, Failure>) -> Change {
        self.finish_nth(0, result)
    }

    /// Finishes one of the steps that are ready: number `nth` in the order written, counted round.
    pub fn finish_nth(&mut self, nth: usize, result: Result<Value, Failure>) -> Change {
        let ready: Vec<_> = self.progress.ready_runs(self.now).collect();
        let run = ready.iter().cycle().nth(nth).expect("a step is ready");
        assert!(self.progress.awaits(run.step, run.number));
        assert!(!self.progress.awaits(run.step, run.number + 1));
        let report = StepReport {
            step: run.step.clone(),
            number: run.number,
            plugin: Some("p@1.0.0".to_owned()),
            result: result.map(Into::into),
            started_at: self.now,
            finished_at: self.now,
        };
        self.apply(Event::StepFinished(report))
            .expect("is no decision")
    }

    pub fn complete(&mut self, output: Value) -> Change {
        self.finish(Ok(output))
    }

    pub fn fail(&mut self, retryable: bool) -> Change {
        self.finish(Err(failure(retryable)))
    }

    pub fn pending(&self) -> Vec<&Approval> {
        self.progress
            .approvals
            .iter()
            .filter(|approval| approval.status == ApprovalStatus::Pending)
            .collect()
    }

    pub fn decide(&mut self, approver: &str, decision: Decision) -> Result<Change, DecisionError> {
        let approval = self
            .progress
            .approvals
            .iter()
            .find(|approval| approval.approver_id == approver);
        let approval_id = approval.expect("was asked").id;
        self.apply(Event::Decided {
            approval_id,
            decision,
            comment: Some("because".to_owned()),
        })
    }

    pub fn status(&self) -> &'static str {
        self.progress.instance.status.as_str()
    }

    /// Returns the instance as a host restores it after a restart.
    pub fn restored(&self) -> Progress {
        Progress::restore(
            self.progress.instance.clone(),
            Arc::clone(&self.progress.definition),
            &self.attempts,
            self.progress.approvals.clone(),
        )
        .with_children(self.children.clone(), false)
    }
}

pub const EXPENSE: &str = "
name: expense
steps:
  - { id: score, plugin: expense, step: score, retry: { max_attempts: 3, initial_delay: 1s, backoff_factor: 2.0, max_delay: 1m } }
  - id: manager
    when: steps.score.output.risk > 50
    approval: { title: 'Expense of ${input.amount}', approvers: ['${input.managers}'], quorum: 2, expires_in: 1h }
  - { id: pay, plugin: expense, step: pay, input: { amount: '${input.amount}', note: 'risk ${steps.score.output.risk}' } }
";

pub fn expense() -> Stage {
    Stage::new(
        EXPENSE,
        json!({ "amount": 12, "managers": ["bob", "eve", "joe"] }),
    )
}
