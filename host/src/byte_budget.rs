//! A budget of bytes in flight: the memory that request bodies, unsent responses or driven
//! instances may take together.
//!
//! A budget has a limit for the host and a smaller limit for each team. Bytes are taken before the
//! memory is used, and dropping the [`Charge`] returns them. A request that does not fit waits in a
//! fair queue: teams take turns, and the requests of one team are served in their order. A team
//! that has used up its own limit waits without delaying other teams. If the host's limit is
//! reached, all teams wait, and the next bytes are kept for the team whose turn it is, so that
//! small requests cannot overtake a large one for ever.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::model::Name;

/// A budget of bytes. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<BudgetState>);

/// Bytes taken from a budget. Dropping the charge returns them.
#[derive(Debug)]
pub(crate) struct Charge {
    shared: Arc<BudgetState>,
    team: Name,
    bytes: u64,
}

/// A snapshot of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BudgetStats {
    /// Bytes in flight.
    pub bytes: u64,
    /// Limit of bytes in flight.
    pub bytes_max: u64,
    /// Requests that wait for bytes.
    pub waiting: u64,
}

#[derive(Debug)]
struct BudgetState {
    host_max: u64,
    team_max: u64,
    state: Mutex<BudgetUsage>,
}

#[derive(Debug, Default)]
struct BudgetUsage {
    used: u64,
    /// Teams with bytes in flight or waiting requests.
    teams: HashMap<Name, Team>,
    /// The waiting teams, in the order of their turns.
    turns: VecDeque<Name>,
}

#[derive(Debug, Default)]
struct Team {
    used: u64,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    bytes: u64,
    granted: oneshot::Sender<Charge>,
}

/// A request in the queue. Dropping it leaves the queue.
struct Queued<'a> {
    shared: &'a Arc<BudgetState>,
    team: &'a Name,
    granted: oneshot::Receiver<Charge>,
}

impl Budget {
    /// Creates a budget of `host_max` bytes in total and `team_max` bytes for each team.
    pub(crate) fn new(host_max: u64, team_max: u64) -> Self {
        Self(Arc::new(BudgetState {
            host_max,
            team_max: team_max.min(host_max),
            state: Mutex::default(),
        }))
    }

    /// Takes bytes, but at most the team's limit. Waits for a turn if they do not fit; dropping the
    /// future leaves the queue.
    pub(crate) async fn take(&self, team: &Name, bytes: u64) -> Charge {
        let bytes = bytes.min(self.0.team_max);
        let mut queued = {
            let mut state = self.0.state.lock();
            if state.turns.is_empty() && state.fits(team, bytes, &self.0) {
                return state.grant(&self.0, team, bytes);
            }
            let (sender, granted) = oneshot::channel();
            let waiting = &mut state.teams.entry(team.clone()).or_default().waiting;
            waiting.push_back(Waiter {
                bytes,
                granted: sender,
            });
            if !state.turns.contains(team) {
                state.turns.push_back(team.clone());
            }
            state.serve(&self.0);
            Queued {
                shared: &self.0,
                team,
                granted,
            }
        };
        (&mut queued.granted)
            .await
            .expect("a request in the queue keeps its sender until it is served")
    }

    /// Takes bytes like [`Budget::take`], but returns none instead of waiting.
    pub(crate) fn try_take(&self, team: &Name, bytes: u64) -> Option<Charge> {
        let bytes = bytes.min(self.0.team_max);
        let mut state = self.0.state.lock();
        (state.turns.is_empty() && state.fits(team, bytes, &self.0))
            .then(|| state.grant(&self.0, team, bytes))
    }

    /// Returns true if the team or the host has used at least seven eighths of its limit.
    pub(crate) fn is_spent(&self, team: &Name) -> bool {
        let state = self.0.state.lock();
        let most = |max: u64| max - max / 8;
        state.used >= most(self.0.host_max) || state.used_by(team) >= most(self.0.team_max)
    }

    /// Returns a snapshot.
    pub(crate) fn stats(&self) -> BudgetStats {
        let state = self.0.state.lock();
        let waiting: usize = state.teams.values().map(|team| team.waiting.len()).sum();
        BudgetStats {
            bytes: state.used,
            bytes_max: self.0.host_max,
            waiting: waiting as u64,
        }
    }
}

impl BudgetUsage {
    fn fits(&self, team: &Name, bytes: u64, shared: &BudgetState) -> bool {
        self.used + bytes <= shared.host_max && self.used_by(team) + bytes <= shared.team_max
    }

    fn used_by(&self, team: &Name) -> u64 {
        self.teams.get(team).map_or(0, |team| team.used)
    }

    fn grant(&mut self, shared: &Arc<BudgetState>, team: &Name, bytes: u64) -> Charge {
        self.used += bytes;
        self.teams.entry(team.clone()).or_default().used += bytes;
        Charge {
            shared: Arc::clone(shared),
            team: team.clone(),
            bytes,
        }
    }

    /// Serves the teams in turn, until the next one has to wait for the host's limit or all have to
    /// wait for their own limits.
    fn serve(&mut self, shared: &Arc<BudgetState>) {
        let mut passed_over = 0;
        while passed_over < self.turns.len() {
            let Some(name) = self.turns.pop_front() else {
                return;
            };
            let Some(team) = self.teams.get_mut(&name) else {
                continue;
            };
            while team
                .waiting
                .front()
                .is_some_and(|waiter| waiter.granted.is_closed())
            {
                team.waiting.pop_front();
            }
            let Some(bytes) = team.waiting.front().map(|waiter| waiter.bytes) else {
                self.forget_if_unused(&name);
                continue;
            };
            if team.used + bytes > shared.team_max {
                passed_over += 1;
                self.turns.push_back(name);
            } else if self.used + bytes > shared.host_max {
                self.turns.push_front(name);
                return;
            } else if let Some(waiter) = team.waiting.pop_front() {
                passed_over = 0;
                let charge = self.grant(shared, &name, bytes);
                if let Err(mut unwanted) = waiter.granted.send(charge) {
                    // Not by dropping the charge, which would take the lock again.
                    self.give_back(&name, std::mem::take(&mut unwanted.bytes));
                }
                self.turns.push_back(name);
            }
        }
    }

    fn give_back(&mut self, team: &Name, bytes: u64) {
        self.used -= bytes;
        if let Some(team) = self.teams.get_mut(team) {
            team.used -= bytes;
        }
        self.forget_if_unused(team);
    }

    fn forget_if_unused(&mut self, team: &Name) {
        if self
            .teams
            .get(team)
            .is_some_and(|team| team.used == 0 && team.waiting.is_empty())
        {
            self.teams.remove(team);
        }
    }
}

impl Charge {
    /// Takes more bytes, up to `bytes` in total, without waiting. If they do not fit now, takes
    /// nothing and returns false. Growth stops at the team's limit, which counts as success.
    pub(crate) fn try_grow_to(&mut self, bytes: u64) -> bool {
        let more = bytes.min(self.shared.team_max).saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        let mut state = self.shared.state.lock();
        if !state.turns.is_empty() || !state.fits(&self.team, more, &self.shared) {
            return false;
        }
        state.used += more;
        state.teams.entry(self.team.clone()).or_default().used += more;
        self.bytes += more;
        true
    }

    /// Keeps this many bytes and returns the rest to the budget.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let excess = self.bytes.saturating_sub(bytes);
        if excess > 0 {
            self.bytes -= excess;
            let mut state = self.shared.state.lock();
            state.give_back(&self.team, excess);
            state.serve(&self.shared);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.granted.close();
        let mut state = self.shared.state.lock();
        if let Some(team) = state.teams.get_mut(self.team) {
            team.waiting.retain(|waiter| !waiter.granted.is_closed());
        }
        // The next request may be smaller.
        state.serve(self.shared);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("is a name")
    }

    #[tokio::test]
    async fn a_team_that_has_used_up_its_share_waits_alone() {
        let budget = Budget::new(10, 6);
        let (acme, rival) = (name("acme"), name("rival"));
        let mut first = budget.take(&acme, 5).await;
        let mut second = Box::pin(budget.take(&acme, 2));
        assert!((&mut second).now_or_never().is_none());
        let other = budget
            .take(&rival, 4)
            .now_or_never()
            .expect("another team has a share of its own");
        assert_eq!(
            budget.stats(),
            BudgetStats {
                bytes: 9,
                bytes_max: 10,
                waiting: 1
            }
        );
        first.shrink_to(3);
        assert!(
            (&mut second).now_or_never().is_some(),
            "what is given back goes to the next"
        );
        drop((first, other));
        drop(second);
        assert_eq!(
            budget.stats(),
            BudgetStats {
                bytes: 0,
                bytes_max: 10,
                waiting: 0
            }
        );
        assert!(
            budget.0.state.lock().teams.is_empty(),
            "a team that has nothing is forgotten"
        );
    }

    #[tokio::test]
    async fn teams_take_turns_and_each_keeps_its_order() {
        let budget = Budget::new(2, 2);
        let all = budget.take(&name("acme"), 2).await;
        let order = Mutex::new(Vec::new());
        let ask = |team: &'static str, number: u32| {
            let (budget, order) = (&budget, &order);
            async move {
                let charge = budget.take(&name(team), 2).await;
                order.lock().push((team, number));
                drop(charge);
            }
        };
        let flood = futures_util::future::join_all((0..3).map(|number| ask("acme", number)));
        let (mut flood, mut small) = (Box::pin(flood), Box::pin(ask("rival", 0)));
        assert!((&mut flood).now_or_never().is_none() && (&mut small).now_or_never().is_none());
        drop(all);
        tokio::join!(flood, small);
        // A team at its own limit is passed over.
        assert_eq!(
            *order.lock(),
            [("rival", 0), ("acme", 0), ("acme", 1), ("acme", 2)]
        );
    }

    #[tokio::test]
    async fn a_request_that_gives_up_makes_room_for_those_behind_it() {
        let budget = Budget::new(4, 4);
        let acme = name("acme");
        let half = budget.take(&acme, 2).await;
        let mut large = Box::pin(budget.take(&acme, 4));
        assert!((&mut large).now_or_never().is_none());
        let mut small = Box::pin(budget.take(&acme, 1));
        assert!(
            (&mut small).now_or_never().is_none(),
            "one team's requests keep their order"
        );
        drop(large);
        assert!((&mut small).now_or_never().is_some());
        drop(half);
    }

    #[test]
    fn what_does_not_wait_takes_what_fits_and_grows_within_it() {
        let budget = Budget::new(10, 6);
        let (acme, rival) = (name("acme"), name("rival"));
        let mut held = budget.try_take(&acme, 4).expect("fits");
        assert!(budget.try_take(&acme, 3).is_none(), "the team's share");
        assert!(
            held.try_grow_to(99),
            "more than a share takes the whole share"
        );
        assert!(budget.is_spent(&acme) && !budget.is_spent(&rival));
        let mut other = budget.try_take(&rival, 4).expect("fits");
        assert!(
            !other.try_grow_to(5) && budget.is_spent(&rival),
            "the host's budget"
        );
        drop(held);
        assert!(other.try_grow_to(5));
        drop(other);
        assert_eq!(budget.stats().bytes, 0);
    }

    #[tokio::test]
    async fn more_than_a_share_takes_the_whole_share() {
        let budget = Budget::new(10, 6);
        let charge = budget.take(&name("acme"), 99).await;
        assert_eq!(budget.stats().bytes, 6);
        drop(charge);
        assert_eq!(budget.stats().bytes, 0);
    }
}
