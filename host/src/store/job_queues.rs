//! The order in which groups of commits take the jobs of the teams.
//!
//! A group takes one job of each team in a round, and ends with the round in which a team's last job
//! was taken. So the jobs of a team with few wait neither for the backlog of another team nor for a
//! long transaction.
//!
//! While a calm team writes, the others give way to it. A team is calm if it has lately written less
//! than half of what the average team has. Its jobs are taken first, and a group takes only a few
//! jobs of the other teams, because the next job of the calm team waits for the whole group. The
//! others lose some throughput by that, since each group has a COMMIT, but never their turn.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::model::Name;

/// A group takes so many jobs before a team that has no more ends it. Smaller groups cost
/// throughput, because each has a COMMIT.
const FAIR_GROUP_MIN: usize = 16;
/// Most jobs and bytes of other teams in a group, while a calm team writes. Writing them takes about
/// as long as a COMMIT.
const BESIDE_CALM_MAX: usize = 4;
const BESIDE_CALM_BYTES_MAX: usize = 16 << 10;
/// Time constant with which it is forgotten how much a team has written.
const LATELY: Duration = Duration::from_millis(100);
/// A team whose writes have decayed to so many bytes has not written lately.
const FORGOTTEN_BYTES: f64 = 16.0;

/// A job in a queue.
pub(super) struct Queued<J> {
    pub(super) job: J,
    /// The job's estimated need for memory and database log, in bytes.
    pub(super) bytes: usize,
}

/// Jobs by team, in the order in which groups take them: the teams in turn, and the jobs of a team
/// in their order.
pub(super) struct JobQueues<J> {
    teams: HashMap<Name, VecDeque<Queued<J>>>,
    turns: VecDeque<Name>,
    written: HashMap<Name, Written>,
}

/// The bytes that a team has lately written.
#[derive(Clone, Copy)]
struct Written {
    bytes: f64,
    at: Instant,
}

impl Written {
    fn at(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at);
        self.bytes * (-passed.as_secs_f64() / LATELY.as_secs_f64()).exp()
    }
}

impl<J> Default for JobQueues<J> {
    fn default() -> Self {
        Self {
            teams: HashMap::new(),
            turns: VecDeque::new(),
            written: HashMap::new(),
        }
    }
}

/// The jobs of a group, while it is put together.
struct Group<J> {
    jobs: Vec<J>,
    bytes: usize,
    jobs_max: usize,
    bytes_max: usize,
}

impl<J> Group<J> {
    /// Returns true if a job of so many bytes may be added. One job always fits.
    fn has_room(&self, bytes: usize) -> bool {
        let bytes = self.bytes.saturating_add(bytes);
        self.jobs.is_empty() || (self.jobs.len() < self.jobs_max && bytes <= self.bytes_max)
    }
}

impl<J> JobQueues<J> {
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    pub(super) fn push(&mut self, team: &Name, queued: Queued<J>) {
        match self.teams.get_mut(team) {
            Some(jobs) => jobs.push_back(queued),
            None => {
                self.turns.push_back(team.clone());
                self.teams.insert(team.clone(), VecDeque::from([queued]));
            }
        }
    }

    /// Takes the jobs of the next group: at most `jobs_max` jobs of together `bytes_max` bytes, but
    /// one job at least, if one waits.
    pub(super) fn take(&mut self, now: Instant, jobs_max: usize, bytes_max: usize) -> Vec<J> {
        self.written
            .retain(|_, written| written.at(now) > FORGOTTEN_BYTES);
        let mut group = Group {
            jobs: Vec::new(),
            bytes: 0,
            jobs_max,
            bytes_max,
        };
        if let Some(calm_below) = self.calm_below(now) {
            let is_calm = |queues: &Self, team: &Name| queues.lately(team, now) < calm_below;
            let turns = std::mem::take(&mut self.turns);
            let (calm, others) = turns.into_iter().partition(|team| is_calm(self, team));
            self.turns = calm;
            self.fill(&mut group, now, false);
            let left = std::mem::replace(&mut self.turns, others);
            group.jobs_max = jobs_max.min(group.jobs.len().saturating_add(BESIDE_CALM_MAX));
            group.bytes_max = bytes_max.min(group.bytes.saturating_add(BESIDE_CALM_BYTES_MAX));
            self.fill(&mut group, now, true);
            left.into_iter()
                .rev()
                .for_each(|team| self.turns.push_front(team));
        } else {
            self.fill(&mut group, now, true);
        }
        group.jobs
    }

    /// Returns the number of bytes below which a team is calm; none if no calm
    /// team writes.
    fn calm_below(&self, now: Instant) -> Option<f64> {
        let written = || self.written.values().map(|written| written.at(now));
        #[expect(clippy::cast_precision_loss, reason = "a few teams")]
        let below = written().sum::<f64>() / (2 * self.written.len().max(1)) as f64;
        let mut waiting = self.turns.iter().map(|team| self.lately(team, now));
        (waiting.any(|bytes| bytes < below) || written().any(|bytes| bytes < below))
            .then_some(below)
    }

    /// Returns the bytes that a team has lately written.
    fn lately(&self, team: &Name, now: Instant) -> f64 {
        self.written.get(team).map_or(0.0, |known| known.at(now))
    }

    /// Takes whole rounds as far as they fit. If the group is to be short, it ends with the round in
    /// which a team's last job was taken, unless it has less than [`FAIR_GROUP_MIN`].
    fn fill(&mut self, group: &mut Group<J>, now: Instant, is_short: bool) {
        let (mut left_in_round, mut is_a_team_done) = (self.turns.len(), false);
        while let Some(team) = self.turns.pop_front() {
            let Some(jobs) = self.teams.get_mut(&team) else {
                continue;
            };
            let bytes = jobs.front().map_or(0, |queued| queued.bytes);
            if !group.has_room(bytes) {
                // The team has the first place in the next group.
                self.turns.push_front(team);
                return;
            }
            group.bytes = group.bytes.saturating_add(bytes);
            group.jobs.extend(jobs.pop_front().map(|queued| queued.job));
            let is_empty = jobs.is_empty();
            self.note_written(&team, now, bytes);
            if is_empty {
                self.teams.remove(&team);
                is_a_team_done = true;
            } else {
                self.turns.push_back(team);
            }
            left_in_round -= 1;
            if left_in_round == 0 {
                if is_short && is_a_team_done && group.jobs.len() >= FAIR_GROUP_MIN {
                    return;
                }
                left_in_round = self.turns.len();
            }
        }
    }

    fn note_written(&mut self, team: &Name, now: Instant, bytes: usize) {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let bytes = self.lately(team, now) + bytes as f64;
        let written = Written { bytes, at: now };
        match self.written.get_mut(team) {
            Some(known) => *known = written,
            None => drop(self.written.insert(team.clone(), written)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn name(team: &str) -> Name {
        team.parse().expect("is a name")
    }

    /// Queues jobs of so many bytes, each pair with a team and its number of jobs. A job is its
    /// team.
    fn waiting(teams: &[(&'static str, usize)], bytes: usize) -> JobQueues<&'static str> {
        let mut waiting = JobQueues::default();
        for (team, jobs) in teams {
            for _ in 0..*jobs {
                waiting.push(&name(team), Queued { job: *team, bytes });
            }
        }
        waiting
    }

    fn of(team: &str, jobs: &[&str]) -> usize {
        jobs.iter().filter(|job| **job == team).count()
    }

    #[test]
    fn a_team_with_one_job_is_in_the_next_group_which_is_short() {
        let mut waiting = waiting(&[("busy", 1_000), ("calm", 1)], 1);
        let now = Clock::System.monotonic();
        let group = waiting.take(now, 256, 1_000);
        assert_eq!(
            (of("busy", &group), of("calm", &group)),
            (FAIR_GROUP_MIN - 1, 1)
        );
        assert_eq!(
            waiting.take(now + LATELY * 10, 256, 1_000).len(),
            256,
            "the busy team is alone"
        );
    }

    #[test]
    fn teams_with_much_to_write_share_a_full_group() {
        let group =
            waiting(&[("one", 1_000), ("two", 200)], 1).take(Clock::System.monotonic(), 256, 1_000);
        assert_eq!((of("one", &group), of("two", &group)), (128, 128));
    }

    #[test]
    fn a_group_is_bounded_by_bytes_and_has_one_job_at_least() {
        let now = Clock::System.monotonic();
        let mut jobs = waiting(&[("one", 3), ("two", 3)], 10);
        let sizes = [25, 5, 1_000].map(|bytes| jobs.take(now, 256, bytes).len());
        assert_eq!(sizes, [2, 1, 3]);
        assert!(jobs.is_empty() && jobs.take(now, 256, 25).is_empty());
    }

    #[test]
    fn other_teams_give_way_while_a_calm_team_writes() {
        let start = Clock::System.monotonic();
        let at = |ms| start + Duration::from_millis(ms);
        let mut waiting = waiting(&[("busy", 1_000), ("wild", 1_000)], 1_000);
        assert_eq!(waiting.take(at(0), 64, 1 << 20).len(), 64);
        let push = |waiting: &mut JobQueues<_>, jobs| {
            (0..jobs).for_each(|_| {
                let bytes = 1_000;
                waiting.push(&name("calm"), Queued { job: "calm", bytes });
            });
        };
        push(&mut waiting, 2);
        let first = waiting.take(at(1), 64, 1 << 20);
        assert_eq!((of("calm", &first), first.len()), (2, 2 + BESIDE_CALM_MAX));
        assert_eq!(waiting.take(at(2), 64, 1 << 20).len(), BESIDE_CALM_MAX);
        push(&mut waiting, 2);
        let with_calm = waiting.take(at(3), 64, 1 << 20);
        assert_eq!(with_calm[..2], ["calm", "calm"]);
        assert_eq!(
            (of("busy", &with_calm), of("wild", &with_calm)),
            (2, 2),
            "they are never left out"
        );
        assert_eq!(
            waiting.take(at(1_000), 64, 1 << 20).len(),
            64,
            "the calm team has gone"
        );
    }

    #[test]
    fn a_team_that_writes_as_much_as_the_others_is_not_calm() {
        let start = Clock::System.monotonic();
        let mut waiting = waiting(&[("one", 200), ("two", 200), ("three", 200)], 1_000);
        for group in 0..6 {
            let now = start + Duration::from_millis(5 * group);
            assert_eq!(waiting.take(now, 60, 1 << 20).len(), 60);
        }
    }
}
