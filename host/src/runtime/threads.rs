//! The threads that run guests: foreground threads for short work, and low-priority background
//! threads for long work.
//!
//! An attempt starts on the thread of its driver. It moves to the background once it has used more
//! CPU than [`SHORT`]. It starts there if its team has lately used more than its share of CPU, or
//! if the last attempts of the same step were long. Background
//! threads run only when a CPU is idle: on Linux they have the policy `SCHED_IDLE`, and elsewhere
//! the lowest priority of normal threads. So they give way at once to short steps, requests and
//! commits, and a team that burns CPU delays itself.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::clock::Clock;
use crate::model::Name;

/// CPU time of an attempt in the foreground. Two ticks of the default length, so nearly all steps
/// end there.
const SHORT: Duration = Duration::from_millis(20);
/// Time constant with which a team's CPU use decays.
const LATELY: Duration = Duration::from_millis(500);
/// Most teams whose use is remembered. Beyond this, teams without recent use are forgotten.
const TEAMS_MAX: usize = 1_024;

/// After so many short attempts in a row, a step that was long starts in the foreground again.
const SHORT_AGAIN: u8 = 8;
/// The largest number of steps that are known to be long. Beyond it all are forgotten, and each
/// long step costs [`SHORT`] in the foreground once more.
const LONG_STEPS_MAX: usize = 4_096;

/// A step of a plugin version.
pub(super) type StepKey = (Uuid, Name);

/// The foreground and the background threads.
pub(super) struct GuestThreads {
    /// Held so that they can be shut down.
    runtimes: [Option<Runtime>; 2],
    foreground: Handle,
    background: Handle,
    usage: Arc<TeamUsage>,
    long: Arc<LongSteps>,
}

impl Drop for GuestThreads {
    fn drop(&mut self) {
        // A destructor must not wait, and no caller is left to read a result.
        self.runtimes
            .iter_mut()
            .filter_map(Option::take)
            .for_each(Runtime::shutdown_background);
    }
}

impl GuestThreads {
    pub(super) fn start(clock: Clock) -> std::io::Result<Self> {
        let foreground = Builder::new_multi_thread()
            .thread_name("guest")
            .enable_all()
            .build()?;
        let background = Builder::new_multi_thread()
            .thread_name("guest-background")
            .enable_all()
            .on_thread_start(|| {
                if let Err(error) = yield_to_other_threads() {
                    tracing::warn!(?error, "long steps run with the priority of short ones");
                }
            })
            .build()?;
        let cpus = std::thread::available_parallelism()?.get();
        Ok(Self {
            foreground: foreground.handle().clone(),
            background: background.handle().clone(),
            runtimes: [Some(foreground), Some(background)],
            usage: Arc::new(TeamUsage {
                cpus,
                clock,
                teams: Mutex::default(),
            }),
            long: Arc::default(),
        })
    }

    pub(super) fn foreground(&self) -> &Handle {
        &self.foreground
    }

    /// Runs an attempt of a team on the caller's thread until the attempt turns out to be long.
    /// Then the rest of the attempt is returned as the error, to continue in the background. All of
    /// the attempt is returned if the team exceeds its share or the step is known to be long.
    pub(super) async fn run_in_foreground<T>(
        &self,
        team: &Name,
        step: &StepKey,
        work: Work<T>,
    ) -> Result<T, Work<T>> {
        if self.usage.is_over_share(team) || self.long.has(step) {
            return Err(work);
        }
        let ended = MeteredWork {
            work: Some(work),
            used: Duration::ZERO,
            team,
            usage: &self.usage,
        }
        .await;
        if ended.is_err() {
            self.long.note_long(step);
        }
        ended
    }

    /// Runs an attempt, or the rest of one, in the background until the time `until`, and then
    /// stops it. Returns after the work is dropped, which may take up to a tick after `until`.
    pub(super) async fn run_in_background<T: Send + 'static>(
        &self,
        team: &Name,
        step: StepKey,
        work: Work<T>,
        until: tokio::time::Instant,
    ) -> Background<T> {
        let charged = ChargedWork {
            work,
            used: Duration::ZERO,
            team: team.clone(),
            usage: Arc::clone(&self.usage),
            step,
            long: Arc::clone(&self.long),
        };
        let mut task = AbortOnDropHandle::new(self.background.spawn(charged));
        let ended = match tokio::time::timeout_at(until, &mut task).await {
            Ok(ended) => ended,
            Err(_elapsed) => {
                task.abort();
                match task.await {
                    Err(error) if error.is_cancelled() => return Background::Stopped,
                    // The work ended at the same moment.
                    ended => ended,
                }
            }
        };
        ended.map_or(Background::Broken, Background::Done)
    }
}

/// Lets every other thread run before the current one. The lowest niceness is not enough on Linux:
/// a thread that wakes up may then still wait for the end of a time slice of some milliseconds.
fn yield_to_other_threads() -> Result<(), thread_priority::Error> {
    #[cfg(target_os = "linux")]
    let result = thread_priority::set_thread_priority_and_policy(
        thread_priority::thread_native_id(),
        thread_priority::ThreadPriority::Min,
        thread_priority::ThreadSchedulePolicy::Normal(
            thread_priority::NormalThreadSchedulePolicy::Idle,
        ),
    );
    #[cfg(not(target_os = "linux"))]
    let result = thread_priority::set_current_thread_priority(
        thread_priority::ThreadPriority::Crossplatform(thread_priority::ThreadPriorityValue::MIN),
    );
    result
}

/// The end of background work.
pub(super) enum Background<T> {
    Done(T),
    /// The work was not done in time.
    Stopped,
    /// The work panicked, or the host is shutting down.
    Broken,
}

pub(super) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Foreground work that measures its CPU time. It returns itself when it has to continue in the
/// background.
struct MeteredWork<'a, T> {
    work: Option<Work<T>>,
    used: Duration,
    team: &'a Name,
    usage: &'a TeamUsage,
}

impl<T> Future for MeteredWork<'_, T> {
    type Output = Result<T, Work<T>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(mut work) = self.work.take() else {
            return Poll::Pending;
        };
        if self.used >= SHORT {
            return Poll::Ready(Err(work));
        }
        let started = self.usage.clock.monotonic();
        let polled = work.as_mut().poll(context);
        let ended = self.usage.clock.monotonic();
        let used = ended.duration_since(started);
        self.used += used;
        self.usage.charge(self.team, ended, used);
        match polled {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => {
                self.work = Some(work);
                Poll::Pending
            }
        }
    }
}

/// Background work that charges its CPU time to the team.
struct ChargedWork<T> {
    work: Work<T>,
    used: Duration,
    team: Name,
    usage: Arc<TeamUsage>,
    step: StepKey,
    long: Arc<LongSteps>,
}

impl<T> Drop for ChargedWork<T> {
    fn drop(&mut self) {
        if self.used >= SHORT {
            self.long.note_long(&self.step);
        } else {
            self.long.note_short(&self.step);
        }
    }
}

impl<T> Future for ChargedWork<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let started = self.usage.clock.monotonic();
        let polled = self.work.as_mut().poll(context);
        let ended = self.usage.clock.monotonic();
        let used = ended.duration_since(started);
        self.used += used;
        self.usage.charge(&self.team, ended, used);
        polled
    }
}

/// Steps whose attempts use more CPU than [`SHORT`], with the number of short attempts in a row
/// that are missing until the step counts as short again.
#[derive(Default)]
struct LongSteps(Mutex<HashMap<StepKey, u8>>);

impl LongSteps {
    fn has(&self, step: &StepKey) -> bool {
        self.0.lock().contains_key(step)
    }

    fn note_long(&self, step: &StepKey) {
        let mut steps = self.0.lock();
        if steps.len() >= LONG_STEPS_MAX {
            steps.clear();
        }
        steps.insert(step.clone(), SHORT_AGAIN);
    }

    fn note_short(&self, step: &StepKey) {
        let mut steps = self.0.lock();
        if let Some(missing) = steps.get_mut(step) {
            *missing -= 1;
            if *missing == 0 {
                steps.remove(step);
            }
        }
    }
}

/// Recent CPU use of each team.
struct TeamUsage {
    cpus: usize,
    clock: Clock,
    teams: Mutex<HashMap<Name, CpuUsage>>,
}

/// CPUs that one team uses, on average over [`LATELY`].
struct CpuUsage {
    cpus: f64,
    at: Instant,
}

impl CpuUsage {
    fn at(&self, now: Instant) -> f64 {
        self.cpus * (-now.duration_since(self.at).as_secs_f64() / LATELY.as_secs_f64()).exp()
    }
}

impl TeamUsage {
    fn charge(&self, team: &Name, now: Instant, used: Duration) {
        let more = used.as_secs_f64() / LATELY.as_secs_f64();
        let mut teams = self.teams.lock();
        if let Some(known) = teams.get_mut(team) {
            *known = CpuUsage {
                cpus: known.at(now) + more,
                at: now,
            };
            return;
        }
        if teams.len() >= TEAMS_MAX {
            teams.retain(|_, used| used.at(now) > 0.01);
        }
        teams.insert(
            team.clone(),
            CpuUsage {
                cpus: more,
                at: now,
            },
        );
    }

    /// Returns true if a team has lately used more than an equal share of the CPUs while other
    /// teams used some too.
    fn is_over_share(&self, team: &Name) -> bool {
        let now = self.clock.monotonic();
        let teams = self.teams.lock();
        let Some(own) = teams.get(team).map(|used| used.at(now)) else {
            return false;
        };
        let busy = teams.values().filter(|used| used.at(now) > 0.01).count();
        #[expect(clippy::cast_precision_loss, reason = "a few CPUs and teams")]
        let share = self.cpus as f64 / busy.max(1) as f64;
        busy > 1 && own > share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn name(text: &str) -> Name {
        text.parse().expect("is a name")
    }

    #[test]
    fn a_team_is_over_its_share_only_beside_others_and_for_a_while() {
        let clock = Clock::manual(Timestamp::from_micros(0));
        let usage = TeamUsage {
            cpus: 2,
            clock: clock.clone(),
            teams: Mutex::default(),
        };
        let start = clock.monotonic();
        let (hostile, quiet) = (name("hostile"), name("quiet"));
        usage.charge(&hostile, start, Duration::from_millis(900));
        assert!(!usage.is_over_share(&hostile), "it is alone");
        usage.charge(&quiet, start, Duration::from_millis(10));
        assert!(usage.is_over_share(&hostile));
        assert!(!usage.is_over_share(&quiet));
        usage.charge(&hostile, start + LATELY * 5, Duration::ZERO);
        assert!(!usage.is_over_share(&hostile), "that was long ago");
    }

    #[test]
    fn long_work_moves_to_the_background_and_short_work_stays() {
        let threads = GuestThreads::start(Clock::System).expect("starts");
        let ran_on = |spins: usize| async move {
            for _ in 0..spins {
                let started = Clock::System.monotonic();
                while Clock::System.monotonic().duration_since(started) < SHORT {}
                tokio::task::yield_now().await;
            }
            std::thread::current().name().map(str::to_owned)
        };
        let (team, step) = (name("acme"), (Uuid::nil(), name("spin")));
        let until =
            tokio::time::Instant::from_std(Clock::System.monotonic() + Duration::from_secs(60));
        threads.foreground().block_on(async {
            let short = threads.run_in_foreground(&team, &step, Box::pin(ran_on(0))).await;
            assert!(short.is_ok_and(|thread| thread.as_deref() != Some("guest-background")));
            let Err(rest) = threads.run_in_foreground(&team, &step, Box::pin(ran_on(3))).await else { panic!("it is long") };
            let rest = threads.run_in_background(&team, step.clone(), rest, until).await;
            assert!(matches!(rest, Background::Done(thread) if thread.as_deref() == Some("guest-background")));
            while threads.long.has(&step) {
                let Err(all) = threads.run_in_foreground(&team, &step, Box::pin(ran_on(0))).await else { panic!("the step was long") };
                threads.run_in_background(&team, step.clone(), all, until).await;
            }
            let short = threads.run_in_foreground(&team, &step, Box::pin(ran_on(0))).await;
            assert!(short.is_ok(), "the step is short again");
        });
    }

    #[test]
    fn work_that_is_stopped_is_dropped_before_its_caller_goes_on() {
        let threads = GuestThreads::start(Clock::System).expect("starts");
        let held = Arc::new(());
        let holds = Arc::clone(&held);
        let work = Box::pin(async move {
            let _holds = holds;
            loop {
                tokio::task::yield_now().await;
            }
        });
        threads.foreground().block_on(async {
            let ended: Background<()> = threads
                .run_in_background(
                    &name("acme"),
                    (Uuid::nil(), name("spin")),
                    work,
                    Clock::System.monotonic().into(),
                )
                .await;
            assert!(matches!(ended, Background::Stopped));
        });
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
