//! Scopes: the host's own numbers, which belong to no team, and the numbers of each team.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::approvals::Approvals;
use super::batches::Batches;
use super::lifecycle::Lifecycle;
use super::limits::Limits;
use super::operations::Operations;
use super::window::{Reset, View};
use crate::clock::Timestamp;
use crate::model::Name;

/// Maximum number of teams with numbers of their own. The numbers of further teams are summed, and
/// only operators see the sum.
pub const TEAMS_MAX: usize = 256;

/// The numbers of the host or of a team.
#[derive(Debug)]
pub(super) struct Scope {
    since: RwLock<CountingStart>,
    pub(super) operations: Operations,
    pub(super) lifecycle: Lifecycle,
    pub(super) approvals: Approvals,
    pub(super) batches: Batches,
    pub(super) limits: Limits,
}

/// The start of counting, in the team's own view and in the operators' view.
#[derive(Clone, Copy, Debug)]
struct CountingStart {
    own: Timestamp,
    whole: Timestamp,
}

/// The numbers of the host and of all teams.
#[derive(Debug)]
pub(super) struct Scopes {
    pub(super) host: Arc<Scope>,
    teams: RwLock<HashMap<Name, Arc<Scope>>>,
    rest: Arc<Scope>,
}

impl Scope {
    fn new(now: Timestamp) -> Self {
        Self {
            since: RwLock::new(CountingStart {
                own: now,
                whole: now,
            }),
            operations: Operations::default(),
            lifecycle: Lifecycle::new(now),
            approvals: Approvals::new(now),
            batches: Batches::default(),
            limits: Limits::default(),
        }
    }

    /// Returns the time since which the numbers of a view are counted.
    pub(super) fn since(&self, view: View) -> Timestamp {
        let CountingStart { own, whole } = *self.since.read();
        if view.whole { whole } else { own }
    }

    pub(super) fn reset(&self, reset: Reset, now: Timestamp) {
        let mut since = self.since.write();
        since.own = now;
        if reset == Reset::OfAll {
            since.whole = now;
        }
        drop(since);
        self.operations.reset(reset, now);
        self.lifecycle.reset(reset, now);
        self.approvals.reset(reset, now);
        self.batches.reset(reset, now);
        self.limits.reset(reset, now);
    }
}

impl Scopes {
    pub(super) fn new(now: Timestamp) -> Self {
        let [host, rest] = [(); 2].map(|()| Arc::new(Scope::new(now)));
        Self {
            host,
            teams: RwLock::default(),
            rest,
        }
    }

    /// Returns the scope that records the numbers of a team; without a team, the host's.
    pub(super) fn of(&self, team: Option<&Name>, now: impl Fn() -> Timestamp) -> Arc<Scope> {
        let Some(team) = team else {
            return Arc::clone(&self.host);
        };
        if let Some(known) = self.find(team) {
            return known;
        }
        let mut teams = self.teams.write();
        if teams.len() >= TEAMS_MAX && !teams.contains_key(team) {
            return Arc::clone(&self.rest);
        }
        Arc::clone(
            teams
                .entry(team.clone())
                .or_insert_with(|| Arc::new(Scope::new(now()))),
        )
    }

    pub(super) fn find(&self, team: &Name) -> Option<Arc<Scope>> {
        self.teams.read().get(team).cloned()
    }

    /// Returns all scopes with their teams. The host's scope and the sum of the teams beyond
    /// [`TEAMS_MAX`] have no team.
    pub(super) fn all(&self) -> Vec<(Option<Name>, Arc<Scope>)> {
        let teams = self.teams.read();
        let named = teams
            .iter()
            .map(|(team, scope)| (Some(team.clone()), Arc::clone(scope)));
        [&self.host, &self.rest]
            .into_iter()
            .map(|scope| (None, Arc::clone(scope)))
            .chain(named)
            .collect()
    }

    /// Returns the host's scope and the scope of each team that has one.
    pub(super) fn named(&self) -> Vec<(Option<Name>, Arc<Scope>)> {
        let teams = self.teams.read();
        let named = teams
            .iter()
            .map(|(team, scope)| (Some(team.clone()), Arc::clone(scope)));
        std::iter::once((None, Arc::clone(&self.host)))
            .chain(named)
            .collect()
    }

    /// Returns the scopes that a user of the team may see, except for the host's operations;
    /// without a team, all scopes.
    pub(super) fn seen_by(&self, team: Option<&Name>) -> Vec<Arc<Scope>> {
        match team {
            Some(team) => self.find(team).into_iter().collect(),
            None => self.all().into_iter().map(|(_, scope)| scope).collect(),
        }
    }
}
