//! Drives one instance until it has to wait or has ended.
//!
//! A driver holds its instance in memory, runs all steps that are ready at the same time, and
//! commits outcomes as they come; outcomes that are ready together are committed together. A commit
//! is refused if another commit has changed the instance, or a storage entry that a step had read.
//! The driver then drops its copy, loads the instance again and applies the rules anew. Steps that
//! still run go on. Steps that conflict on an entry repeatedly take turns ([`super::contention`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;
use uuid::Uuid;

use super::admission::AttemptPermit;
use super::attempt::{Attempt, Ended, Outcome, Stage, log_span};
use super::children::cancelled_by_parent;
use super::contention::Contention;
use super::dispatcher::WaitingGuard;
use super::memory::InstanceCharge;
use super::{Core, CoreState};
use crate::clock::Clock;
use crate::fair_queue::FairPermit;
use crate::model::failure::{self, Blame, Failure};
use crate::model::transition::{Change, Event, Progress};
use crate::model::{Effects, Instance, Name, StepAddress, TraceParent};
use crate::store::{CommitError, Conflict, StoreError};

/// The driver's next action after a commit.
enum AfterCommit {
    GoOn,
    /// Load again: the copy in memory is stale.
    Reload,
    /// The waiting room is full.
    NoRoom,
    /// The database has failed.
    GiveUp,
}

/// The reason why a driver stops for now.
enum RestReason {
    /// There is nothing to do now.
    Done,
    /// There is work, but no room to wait for it. The instance stays due, and the poller finds it.
    NoRoom,
}

/// The driver of one instance. Dropping it stops the steps that run; their effects are lost.
struct Drive<'e> {
    engine: &'e Core,
    team: &'e Name,
    id: Uuid,
    in_hand: InstanceCharge,
    /// AttemptPermit in the waiting room, while no step runs and some wait for their turn.
    waiting: Option<WaitingGuard<'e>>,
    /// A permit for an instance that was being driven in a crash. Few such instances run at the
    /// same time.
    suspect: Option<FairPermit<Name>>,
    /// Conflicts in a row of commits that belong to no attempt.
    conflicts: u32,
    /// A refusal by the database that ends the instance when it is loaded again.
    refused: Option<Failure>,
    /// A refusal by the database of a commit that created children. The steps that start children
    /// fail with it.
    children_refused: Option<Failure>,
    /// The steps with an attempt in `stages` or in `ended`.
    steps: BTreeSet<StepAddress>,
    /// The attempts that wait or run.
    stages: FuturesUnordered<Pin<Box<dyn Future<Output = Stage> + Send + 'e>>>,
    /// Number of attempts in `stages` that have a permit.
    running: usize,
    /// The attempts that have ended and are not committed, in the order of their ends.
    ended: VecDeque<Ended>,
    /// True if the outcomes in `ended` are committed one by one, after a commit of several failed.
    one_by_one: bool,
    /// The conflicts of steps that run again.
    contended: BTreeMap<StepAddress, Contention>,
    /// True if the instance has become too large to be kept in memory. No further step starts.
    is_too_large: bool,
}

impl Core {
    /// Drives an instance until it rests. `progress` is a fresh copy of the instance; without one,
    /// the driver loads it.
    pub(super) async fn drive(&self, team: &Name, id: Uuid, mut progress: Option<Progress>) {
        loop {
            let rest = Drive::new(self, team, id).until_rest(progress.take()).await;
            self.0.store.put_down(id);
            match rest {
                RestReason::NoRoom => return self.0.active.step_back(team, id),
                RestReason::Done if self.0.active.release(team, id) => return,
                RestReason::Done => self.0.store.take_in_hand(id),
            }
        }
    }
}

impl<'e> Drive<'e> {
    fn new(engine: &'e Core, team: &'e Name, id: Uuid) -> Self {
        Self {
            engine,
            team,
            id,
            in_hand: InstanceCharge::default(),
            waiting: None,
            suspect: None,
            conflicts: 0,
            refused: None,
            children_refused: None,
            steps: BTreeSet::new(),
            stages: FuturesUnordered::new(),
            running: 0,
            ended: VecDeque::new(),
            one_by_one: false,
            contended: BTreeMap::new(),
            is_too_large: false,
        }
    }

    async fn until_rest(mut self, mut known: Option<Progress>) -> RestReason {
        while !self.engine.0.stop.is_cancelled() || !self.steps.is_empty() {
            let mut progress = match self.load(known.take()).await {
                Ok(progress) => progress,
                Err(rest) => return rest,
            };
            if !self.suspect(&progress.instance).await {
                return RestReason::NoRoom;
            }
            let after = self.follow(&mut progress).await;
            drop(progress);
            self.waiting = None;
            match after {
                AfterCommit::GoOn => return RestReason::Done,
                AfterCommit::NoRoom => return RestReason::NoRoom,
                AfterCommit::Reload if self.conflicts > 0 => {
                    self.engine.back_off(self.conflicts).await
                }
                AfterCommit::Reload => {}
                AfterCommit::GiveUp => {
                    self.engine.pause().await;
                    return RestReason::Done;
                }
            }
        }
        RestReason::Done
    }

    /// Loads the instance, if its bytes fit into the budget and this host owns it.
    async fn load(&mut self, known: Option<Progress>) -> Result<Progress, RestReason> {
        let Self {
            engine, team, id, ..
        } = *self;
        let in_hand = &mut self.in_hand;
        let fits = engine.take_in_hand(team, id, known.as_ref(), in_hand).await;
        let loaded = match (fits, known) {
            (Ok(false), _) => return Err(RestReason::NoRoom),
            (Ok(true), Some(known)) => Ok(Some(known)),
            (Ok(true), None) => {
                let _turn = engine.0.loads.acquire(team).await;
                engine.load_ours(id).await
            }
            (Err(error), _) => Err(error),
        };
        match loaded {
            Ok(loaded) => loaded.ok_or(RestReason::Done),
            Err(error) => {
                tracing::warn!(%error, instance = %id, "could not load an instance; it stays due");
                engine.pause().await;
                Err(RestReason::Done)
            }
        }
    }

    /// Waits until an instance that was being driven in a crash may be driven again. Only few such
    /// instances run at the same time, so that a further crash points to the culprit. Returns false
    /// if the waiting room is full.
    async fn suspect(&mut self, instance: &Instance) -> bool {
        if instance.crashes == 0 || self.suspect.is_some() {
            return true;
        }
        let suspects = if instance.crashes == 1 {
            &self.engine.0.suspects
        } else {
            &self.engine.0.prime_suspects
        };
        self.suspect = suspects.try_acquire(&instance.team);
        if self.suspect.is_some() {
            return true;
        }
        let Some(_waiting) = self.engine.wait(self.team, self.id) else {
            return false;
        };
        tokio::select! {
            biased;
            permit = suspects.acquire(&instance.team) => self.suspect = Some(permit),
            () = self.engine.0.stop.cancelled() => {}
        }
        true
    }

    /// Follows the instance until nothing is left to do now, which is `GoOn`.
    async fn follow(&mut self, progress: &mut Progress) -> AfterCommit {
        loop {
            let Instance {
                status,
                quarantined_at,
                cancel_requested_at,
                ..
            } = &progress.instance;
            let rests = quarantined_at.is_some() && cancel_requested_at.is_none();
            if status.is_final() || rests {
                return AfterCommit::GoOn;
            }
            match self.catch_up(progress).await {
                AfterCommit::GoOn => {}
                other => return other,
            }
            if let Some(after) = self.run_steps(progress).await {
                return after;
            }
        }
    }

    /// Applies what happened without the driver: time has passed, children have ended, the parent waits
    /// no more, or the database refused a change.
    async fn catch_up(&mut self, progress: &mut Progress) -> AfterCommit {
        let state = |instance: &Instance| {
            (
                instance.status,
                instance.wake_at,
                instance.current_step.clone(),
            )
        };
        let before = state(&progress.instance);
        let refused = self.refused.take();
        let event = refused
            .map(|failure| Event::Refused { failure })
            .or_else(|| cancelled_by_parent(&progress.instance))
            .unwrap_or(Event::Woken);
        let mut change = match self.engine.apply(progress, event).await {
            Ok(change) => change,
            // Compensations or `finally` run, and end the instance without a further request.
            Err(_) => {
                let woken = self.engine.apply(progress, Event::Woken).await;
                woken.unwrap_or_default()
            }
        };
        let settled = change != Change::default() || progress.instance.status.is_final();
        let rests = progress.next_run(self.engine.0.clock.now()).is_none()
            && before != state(&progress.instance);
        if !settled && !rests {
            return AfterCommit::GoOn;
        }
        let trace = progress.instance.span();
        let mut effects = Effects::default();
        let starts = match self
            .start_children(progress, &mut change, &mut effects)
            .await
        {
            Ok(starts) => starts,
            Err(error) => return self.give_up(&error),
        };
        let engine = self.engine;
        match engine
            .commit_for_driver(progress, change, effects, trace)
            .await
        {
            Ok(()) => {
                self.children_refused = None;
                AfterCommit::GoOn
            }
            Err(CommitError::Store(error)) => self.give_up(&error),
            Err(CommitError::Rejected { code, message }) if starts => {
                self.refuse_children(code, message)
            }
            Err(CommitError::Rejected { code, message }) => {
                self.refused = Some(Failure::fatal(code, Blame::Definition, message));
                AfterCommit::Reload
            }
            Err(CommitError::Conflict(conflict)) => {
                let conflicts = self.conflicts + 1;
                self.conflicts = conflicts;
                tracing::debug!(instance = %self.id, what = %conflict, conflicts, "a commit met another one");
                if conflicts <= self.engine.0.config.conflict_retries_max {
                    AfterCommit::Reload
                } else {
                    AfterCommit::GiveUp
                }
            }
        }
    }

    /// Adds the new children of a change to its effects. Returns true if there are any.
    async fn start_children(
        &mut self,
        progress: &mut Progress,
        change: &mut Change,
        effects: &mut Effects,
    ) -> Result<bool, StoreError> {
        let starts = !change.new_children.is_empty();
        let refused = self.children_refused.as_ref();
        self.engine
            .start_children(progress, change, effects, refused)
            .await?;
        Ok(starts)
    }

    /// Handles the refusal of a commit that creates children: the same again, with steps that fail
    /// instead.
    fn refuse_children(&mut self, code: &str, message: String) -> AfterCommit {
        self.children_refused = Some(Failure::fatal(code, Blame::Definition, message));
        AfterCommit::Reload
    }

    /// Runs ready steps and commits their outcomes. Returns `None` when a retry or an expiry is due, or
    /// when a child has begun that is not awaited.
    async fn run_steps(&mut self, progress: &mut Progress) -> Option<AfterCommit> {
        loop {
            if progress.has_settled_children() {
                return None;
            }
            let may_start = !self.engine.0.stop.is_cancelled() && !self.is_too_large;
            if may_start {
                self.start_ready(progress).await;
            }
            if self.steps.is_empty() {
                let after = if self.is_too_large {
                    AfterCommit::NoRoom
                } else {
                    AfterCommit::GoOn
                };
                return Some(after);
            }
            if self.ended.is_empty() {
                if self.running == 0 && self.waiting.is_none() {
                    self.waiting = self.engine.wait(self.team, self.id);
                    if self.waiting.is_none() {
                        return Some(AfterCommit::NoRoom);
                    }
                }
                let now = self.engine.0.clock.now();
                let next_event = progress.next_event_at(now).map(|at| at.since(now));
                tokio::select! {
                    biased;
                    stage = self.stages.next() => self.take(progress, stage).await,
                    () = self.engine.0.active.missed_event(self.id) => return Some(AfterCommit::Reload),
                    () = sleep(&self.engine.0.clock, next_event) => return None,
                }
                while let Some(Some(stage)) = self.stages.next().now_or_never() {
                    self.take(progress, Some(stage)).await;
                }
            }
            match self.settle(progress).await {
                AfterCommit::GoOn => {}
                other => return Some(other),
            }
            if progress.instance.status.is_final() {
                return Some(AfterCommit::GoOn);
            }
            if !self.engine.keep_in_hand(progress, &mut self.in_hand) {
                self.is_too_large = true;
            }
        }
    }

    /// Starts the steps that are ready and have no attempt yet, as many as may run.
    async fn start_ready(&mut self, progress: &Progress) {
        let room = self.engine.0.config.parallel_steps_max;
        let room = room.saturating_sub(self.steps.len());
        let ready = progress.ready_runs(self.engine.0.clock.now());
        let ready = ready
            .filter(|run| !self.steps.contains(run.step))
            .take(room);
        let attempts: Vec<_> = ready
            .map(|run| Attempt {
                step: run.step.clone(),
                number: run.number,
                delay: run.action.retry.delay_after(run.number),
                contention: Contention::default(),
            })
            .collect();
        for mut attempt in attempts {
            if let Some(contention) = self.contended.remove(&attempt.step) {
                attempt.contention = contention;
            }
            self.start(progress, attempt).await;
        }
    }

    async fn start(&mut self, progress: &Progress, mut attempt: Attempt) {
        let (engine, team) = (self.engine, self.team);
        self.steps.insert(attempt.step.clone());
        let forced = attempt.contention.forced.take();
        if let Some((number, failure)) = forced
            && number == attempt.number
        {
            let span = engine.span(&progress.instance, &attempt.step, number);
            let ended = attempt.failed(span, failure, engine.0.clock.now());
            return self.ended.push_back(ended);
        }
        if attempt.contention.conflicts == 0
            && let Some(permit) = engine.0.admission.try_enter(team)
        {
            return self.run(progress, attempt, permit).await;
        }
        self.stages.push(Box::pin(engine.enter(team, attempt)));
    }

    /// Runs an attempt that has a permit: on this thread if it is the only one, otherwise on any
    /// guest thread.
    async fn run(&mut self, progress: &Progress, attempt: Attempt, permit: AttemptPermit) {
        self.waiting = None;
        let engine = self.engine;
        let started_at = engine.0.clock.now();
        let span = engine.span(&progress.instance, &attempt.step, attempt.number);
        let call = match engine.prepare(progress, &attempt).await {
            Ok(call) => call,
            Err(failure) => {
                return self
                    .ended
                    .push_back(attempt.failed(span, failure, started_at));
            }
        };
        let log_span = log_span(&span);
        let work = engine
            .clone()
            .run_attempt(attempt, call, span, started_at, permit)
            .instrument(log_span);
        let is_alone = self.running == 0;
        self.running += 1;
        self.stages.push(if is_alone {
            Box::pin(async move { Stage::Ended(Box::new(work.await)) })
        } else {
            let task = engine.0.threads.spawn(work);
            let task = AbortOnDropHandle::new(task);
            Box::pin(async move {
                match task.await {
                    Ok(ended) => Stage::Ended(Box::new(ended)),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    // The runtime is shutting down, and drops this driver too.
                    Err(_cancelled) => std::future::pending().await,
                }
            })
        });
    }

    /// Takes the next stage of an attempt.
    async fn take(&mut self, progress: &Progress, stage: Option<Stage>) {
        match stage {
            Some(Stage::Entered(attempt, permit)) => self.run(progress, *attempt, permit).await,
            Some(Stage::Ended(ended)) => {
                self.running -= 1;
                self.ended.push_back(*ended);
            }
            Some(Stage::Left(step)) => {
                self.steps.remove(&step);
            }
            None => {}
        }
    }

    /// Commits the outcome of the first attempt that has ended, together with the outcomes after it
    /// that can be committed with it.
    async fn settle(&mut self, progress: &mut Progress) -> AfterCommit {
        let mut group = Vec::new();
        while let Some(ended) = self.ended.front() {
            let joins = group.is_empty() || (!self.one_by_one && ended.joins(&group));
            let Some(ended) = joins.then(|| self.ended.pop_front()).flatten() else {
                break;
            };
            self.steps.remove(&ended.attempt.step);
            // The instance was loaded again since, and has gone on without this attempt.
            if !progress.awaits(&ended.attempt.step, ended.attempt.number) {
                continue;
            }
            if let Outcome::Conflict(entry) = ended.outcome {
                self.collide(progress, ended.attempt, &Conflict::Entry(entry));
            } else {
                group.push(ended);
            }
        }
        let (mut change, mut effects) = self.apply(progress, &mut group).await;
        let Some(first) = group.first() else {
            return AfterCommit::GoOn;
        };
        let trace = first.span.context();
        let starts = match self
            .start_children(progress, &mut change, &mut effects)
            .await
        {
            Ok(starts) => starts,
            Err(error) => return self.give_up(&error),
        };
        let engine = self.engine;
        match engine
            .commit_for_driver(progress, change, effects, trace)
            .await
        {
            Ok(()) => {
                self.suspect = None;
                self.conflicts = 0;
                self.children_refused = None;
                self.one_by_one &= !self.ended.is_empty();
                AfterCommit::GoOn
            }
            Err(CommitError::Store(error)) => self.give_up(&error),
            Err(CommitError::Rejected { code, message }) if starts => {
                self.put_back(group);
                self.refuse_children(code, message)
            }
            Err(error) => {
                self.refuse(progress, group, error);
                AfterCommit::Reload
            }
        }
    }

    /// Applies the reports of ended attempts, until one of them ends the instance. The attempts
    /// after that one go back to `ended`.
    async fn apply(
        &mut self,
        progress: &mut Progress,
        group: &mut Vec<Ended>,
    ) -> (Change, Effects) {
        let (mut change, mut effects) = (Change::default(), Effects::default());
        // An outcome that starts children may have to be committed again without them.
        let is_alone = group.len() == 1 && !progress.definition.starts_children();
        let mut applied = 0;
        for ended in group.iter_mut() {
            if progress.instance.status.is_final() {
                break;
            }
            // An outcome of the same group may have ended the block of this step.
            if !progress.awaits(&ended.attempt.step, ended.attempt.number) {
                applied += 1;
                continue;
            }
            let Some((report, wanted)) = ended.reported(is_alone) else {
                break;
            };
            let event = Event::StepFinished(report);
            let more = self.engine.apply(progress, event).await.unwrap_or_default();
            if let Some(attempt) = more.attempts.first() {
                ended
                    .span
                    .set("stepwell.step.outcome", attempt.outcome.as_str());
            }
            change.extend(more);
            effects.extend(wanted);
            applied += 1;
        }
        self.put_back(group.split_off(applied));
        (change, effects)
    }

    /// Puts outcomes that are not committed back to the front of the queue.
    fn put_back(&mut self, group: Vec<Ended>) {
        for ended in group.into_iter().rev() {
            self.steps.insert(ended.attempt.step.clone());
            self.ended.push_front(ended);
        }
    }

    /// Handles the refusal of a commit. Several outcomes are then committed one by one; a single
    /// attempt runs again or fails.
    fn refuse(&mut self, progress: &Progress, mut group: Vec<Ended>, error: CommitError) {
        if group.len() > 1 {
            tracing::debug!(instance = %self.id, %error, "several outcomes are committed one by one");
            self.put_back(group);
            self.one_by_one = true;
            return;
        }
        let Some(Ended { attempt, .. }) = group.pop() else {
            return;
        };
        match error {
            CommitError::Conflict(conflict) => self.collide(progress, attempt, &conflict),
            CommitError::Rejected { code, message } => {
                let failure = Failure::fatal(code, Blame::Guest, message);
                self.fail_next(attempt, failure);
            }
            CommitError::Store(_) => {}
        }
    }

    /// Handles a conflict: the step runs again. After too many conflicts the attempt fails, and its
    /// retry policy decides.
    fn collide(&mut self, progress: &Progress, mut attempt: Attempt, conflict: &Conflict) {
        let team = &progress.instance.team;
        let may_run_again = self
            .engine
            .note_conflict(team, &mut attempt.contention, conflict);
        let conflicts = attempt.contention.conflicts;
        tracing::debug!(instance = %self.id, what = %conflict, conflicts, "a commit met another one");
        if may_run_again {
            self.contended.insert(attempt.step, attempt.contention);
            return;
        }
        let message =
            format!("other commits came first {conflicts} times in a row; the last on {conflict}");
        let mut failure = Failure::retryable(failure::CONFLICT, Blame::Guest, message);
        // Many steps fail at the same time, and must not all return at the same time.
        failure.retry_after = Some(attempt.delay.mul_f64(1.0 + self.engine.0.random.chance()));
        self.fail_next(attempt, failure);
    }

    /// Makes the attempt fail when it comes up again.
    fn fail_next(&mut self, mut attempt: Attempt, failure: Failure) {
        attempt.contention.conflicts = 0;
        attempt.contention.forced = Some((attempt.number, failure));
        self.contended.insert(attempt.step, attempt.contention);
    }

    fn give_up(&self, error: &StoreError) -> AfterCommit {
        tracing::warn!(%error, instance = %self.id, "could not commit a step; it will run again");
        AfterCommit::GiveUp
    }
}

impl Core {
    /// Commits a change for a driver. This measures the commit, and logs a refusal.
    async fn commit_for_driver(
        &self,
        progress: &mut Progress,
        change: Change,
        effects: Effects,
        trace: Option<TraceParent>,
    ) -> Result<(), CommitError> {
        let CoreState {
            clock,
            committing,
            monitor,
            ..
        } = &*self.0;
        let started = clock.monotonic();
        let committed = self.commit(progress, change, effects, trace).await;
        let ended = clock.monotonic();
        committing.record_at(ended, ended.duration_since(started), committed.is_ok());
        if let Err(CommitError::Rejected { code, message }) = &committed {
            let instance = &progress.instance;
            monitor.record_limit(&instance.team, code);
            tracing::warn!(instance = %instance.id, code, "a commit was refused: {}", message.escape_debug());
        }
        committed
    }
}

/// Sleeps for this long; for ever without a duration.
async fn sleep(clock: &Clock, duration: Option<Duration>) {
    match duration {
        Some(duration) => clock.sleep(duration).await,
        None => std::future::pending().await,
    }
}
