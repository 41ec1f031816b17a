//! The live feed: sends snapshots to subscribers.
//!
//! Subscribers with the same rights share one snapshot, which is made and written as JSON once.
//! Nothing is queued. A slow subscriber finds only the newest snapshot when it reads again, so it
//! costs no memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::config::LiveConfig;
use crate::model::{AlertRule, AlertState, Name, Severity};

/// An update for a subscriber, as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// The numbers of this moment.
    Stats(Arc<str>),
    /// The pending and firing alerts, sent at first and at each change.
    Alerts(Arc<str>),
}

/// The reason why a subscription is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionError {
    /// `live.subscribers_max` or `live.subscribers_per_team_max` is reached.
    #[error("too many live streams are open: close one, or try again later")]
    Full,
    /// The host stops.
    #[error("the host is shutting down")]
    Closed,
}

/// A group of alerts that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AlertGroup {
    /// The team that owns the alerts; none for the host's own alerts.
    pub team: Option<Name>,
    /// The rule that the alerts are about.
    pub rule: AlertRule,
    /// The severity of the alerts.
    pub severity: Severity,
    /// The state: pending or firing.
    pub state: AlertState,
}

/// An alert as subscribers see it.
#[derive(Clone, Debug)]
pub(super) struct LiveAlert {
    /// The group that the alert counts in. Every team sees the host's alerts.
    pub(super) group: AlertGroup,
    /// True if this host owns the alert and counts it.
    pub(super) ours: bool,
    /// The whole alert, as JSON.
    pub(super) body: Value,
}

/// The receiving end of a subscription.
#[derive(Debug)]
pub struct Subscription {
    stats: watch::Receiver<Arc<str>>,
    alerts: watch::Receiver<Arc<str>>,
}

impl Subscription {
    /// Waits for the next update; returns none when the feed is closed. Cancelling the future loses
    /// no update.
    pub async fn next(&mut self) -> Option<Update> {
        tokio::select! {
            biased;
            changed = self.alerts.changed() => {
                changed.ok()?;
                Some(Update::Alerts(Arc::clone(&self.alerts.borrow_and_update())))
            }
            changed = self.stats.changed() => {
                changed.ok()?;
                Some(Update::Stats(Arc::clone(&self.stats.borrow_and_update())))
            }
        }
    }
}

/// The feed of all subscribers.
pub(super) struct Feed {
    config: LiveConfig,
    state: Mutex<FeedState>,
    /// Notified for each new subscriber.
    came: Notify,
    closed: CancellationToken,
}

#[derive(Default)]
struct FeedState {
    /// The senders of each team; those without a team serve operators, who see everything.
    scopes: HashMap<Option<Name>, ScopeSenders>,
    alerts: Arc<[LiveAlert]>,
    closed: bool,
}

struct ScopeSenders {
    stats: watch::Sender<Arc<str>>,
    alerts: watch::Sender<Arc<str>>,
}

impl Feed {
    pub(super) fn new(config: LiveConfig) -> Self {
        Self {
            config,
            state: Mutex::default(),
            came: Notify::new(),
            closed: CancellationToken::new(),
        }
    }

    pub(super) fn subscribe(
        &self,
        team: Option<&Name>,
        snapshot: impl FnOnce() -> Value,
    ) -> Result<Subscription, SubscriptionError> {
        self.admit(&mut self.state.lock(), team)?;
        // The snapshot is made without the lock, because it takes longer than all that is done
        // under the lock. Other subscribers may come meanwhile, so `admit` runs again.
        let snapshot = snapshot();
        let mut state = self.state.lock();
        self.admit(&mut state, team)?;
        let alerts = Arc::clone(&state.alerts);
        let senders = state
            .scopes
            .entry(team.cloned())
            .or_insert_with(|| ScopeSenders {
                stats: watch::Sender::new(stats_text(snapshot, team, &alerts)),
                alerts: watch::Sender::new(alerts_text(team, &alerts)),
            });
        let (mut stats, mut alerts) = (senders.stats.subscribe(), senders.alerts.subscribe());
        // The present values count as new for the new subscriber.
        stats.mark_changed();
        alerts.mark_changed();
        drop(state);
        self.came.notify_one();
        Ok(Subscription { stats, alerts })
    }

    fn admit(&self, state: &mut FeedState, team: Option<&Name>) -> Result<(), SubscriptionError> {
        if state.closed {
            return Err(SubscriptionError::Closed);
        }
        state.forget_who_left();
        let all: usize = state.scopes.values().map(ScopeSenders::receivers).sum();
        let ours = state
            .scopes
            .get(&team.cloned())
            .map_or(0, ScopeSenders::receivers);
        if all >= self.config.subscribers_max || ours >= self.config.subscribers_per_team_max {
            return Err(SubscriptionError::Full);
        }
        Ok(())
    }

    /// Waits until there is a subscriber. Returns false if the feed is closed.
    pub(super) async fn is_watched(&self) -> bool {
        loop {
            {
                let mut state = self.state.lock();
                state.forget_who_left();
                if state.closed || !state.scopes.is_empty() {
                    return !state.closed;
                }
            }
            tokio::select! {
                () = self.closed.cancelled() => {}
                () = self.came.notified() => {}
            }
        }
    }

    /// Sends the present numbers to all subscribers.
    pub(super) fn show(&self, snapshot: impl Fn(Option<&Name>) -> Value) {
        let (teams, alerts) = {
            let state = self.state.lock();
            (
                state.scopes.keys().cloned().collect::<Vec<_>>(),
                Arc::clone(&state.alerts),
            )
        };
        for team in teams {
            let text = stats_text(snapshot(team.as_ref()), team.as_ref(), &alerts);
            if let Some(senders) = self.state.lock().scopes.get(&team) {
                senders.stats.send_replace(text);
            }
        }
    }

    /// Sends the pending and firing alerts to the subscribers whose alerts changed.
    pub(super) fn show_alerts(&self, alerts: Vec<LiveAlert>) {
        let mut state = self.state.lock();
        state.alerts = alerts.into();
        for (team, senders) in &state.scopes {
            let text = alerts_text(team.as_ref(), &state.alerts);
            // The text is the same if only another team's alert changed.
            senders
                .alerts
                .send_if_modified(|shown| std::mem::replace(shown, Arc::clone(&text)) != text);
        }
    }

    /// Returns the number of firing alerts among those shown last.
    pub(super) fn alerts_firing(&self, team: Option<&Name>) -> u64 {
        let alerts = Arc::clone(&self.state.lock().alerts);
        visible(team, &alerts)
            .filter(|alert| alert.is_firing())
            .count() as u64
    }

    /// Counts the alerts that this host owns among those shown last.
    pub(super) fn alert_counts(&self, team: Option<&Name>) -> BTreeMap<AlertGroup, u64> {
        let alerts = Arc::clone(&self.state.lock().alerts);
        let mut counts = BTreeMap::new();
        for alert in visible(team, &alerts).filter(|alert| alert.ours) {
            *counts.entry(alert.group.clone()).or_default() += 1;
        }
        counts
    }

    /// Ends all subscriptions and refuses new ones.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.scopes.clear();
        drop(state);
        self.closed.cancel();
    }

    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

impl LiveAlert {
    /// Returns true if the alert fires.
    fn is_firing(&self) -> bool {
        self.group.state == AlertState::Firing
    }
}

impl FeedState {
    fn forget_who_left(&mut self) {
        self.scopes.retain(|_, senders| senders.receivers() > 0);
    }
}

impl ScopeSenders {
    fn receivers(&self) -> usize {
        self.stats.receiver_count()
    }
}

fn visible<'a>(
    team: Option<&Name>,
    alerts: &'a [LiveAlert],
) -> impl Iterator<Item = &'a LiveAlert> {
    alerts.iter().filter(move |LiveAlert { group, .. }| {
        team.is_none() || group.team.is_none() || group.team.as_ref() == team
    })
}

fn stats_text(mut snapshot: Value, team: Option<&Name>, alerts: &[LiveAlert]) -> Arc<str> {
    let firing = visible(team, alerts)
        .filter(|alert| alert.is_firing())
        .count();
    if let Some(fields) = snapshot.as_object_mut() {
        fields.insert("alerts_firing".to_owned(), firing.into());
    }
    snapshot.to_string().into()
}

fn alerts_text(team: Option<&Name>, alerts: &[LiveAlert]) -> Arc<str> {
    let alerts: Vec<_> = visible(team, alerts).map(|alert| &alert.body).collect();
    json!({ "alerts": alerts }).to_string().into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn feed(subscribers_max: usize, subscribers_per_team_max: usize) -> Feed {
        Feed::new(LiveConfig {
            interval: Duration::from_secs(1),
            subscribers_max,
            subscribers_per_team_max,
        })
    }

    fn team(text: &str) -> Name {
        text.parse().expect("is a name")
    }

    fn alert(team: Option<Name>, name: &str) -> LiveAlert {
        let (rule, severity, state) =
            (AlertRule::ErrorRate, Severity::Critical, AlertState::Firing);
        LiveAlert {
            group: AlertGroup {
                team,
                rule,
                severity,
                state,
            },
            ours: true,
            body: json!({ "id": name }),
        }
    }

    async fn two(subscription: &mut Subscription) -> [String; 2] {
        let mut texts = [String::new(), String::new()];
        for _ in 0..2 {
            match subscription.next().await.expect("is open") {
                Update::Alerts(text) => texts[0] = text.to_string(),
                Update::Stats(text) => texts[1] = text.to_string(),
            }
        }
        texts
    }

    #[tokio::test]
    async fn who_comes_is_told_at_once_and_who_is_slow_sees_only_the_newest() {
        let feed = feed(2, 2);
        let mut all = feed
            .subscribe(None, || json!({ "number": 0 }))
            .expect("is admitted");
        assert_eq!(
            two(&mut all).await,
            [r#"{"alerts":[]}"#, r#"{"number":0,"alerts_firing":0}"#]
        );
        for number in 1..=9 {
            feed.show(|_| json!({ "number": number }));
        }
        assert_eq!(
            all.next().await,
            Some(Update::Stats(r#"{"number":9,"alerts_firing":0}"#.into()))
        );
        feed.close();
        assert_eq!(all.next().await, None);
        assert!(!feed.is_watched().await);
        assert_eq!(
            feed.subscribe(None, || json!({})).err(),
            Some(SubscriptionError::Closed)
        );
    }

    #[tokio::test]
    async fn another_teams_alerts_are_not_seen_and_not_felt() {
        let feed = feed(9, 9);
        let (acme, rival) = (team("acme"), team("rival"));
        let mut ours = feed
            .subscribe(Some(&acme), || json!({}))
            .expect("is admitted");
        let mut all = feed.subscribe(None, || json!({})).expect("is admitted");
        two(&mut ours).await;
        two(&mut all).await;
        feed.show_alerts(vec![alert(Some(rival), "theirs")]);
        assert_eq!(
            all.next().await,
            Some(Update::Alerts(r#"{"alerts":[{"id":"theirs"}]}"#.into()))
        );
        feed.show(|_| json!({}));
        // The empty list of alerts comes first.
        assert_eq!(
            ours.next().await,
            Some(Update::Stats(r#"{"alerts_firing":0}"#.into()))
        );
        feed.show_alerts(vec![alert(None, "host"), alert(Some(acme), "ours")]);
        let text = r#"{"alerts":[{"id":"host"},{"id":"ours"}]}"#;
        assert_eq!(ours.next().await, Some(Update::Alerts(text.into())));
    }

    #[test]
    fn alerts_that_are_alike_are_counted_by_the_host_that_looks_after_them() {
        let feed = feed(9, 9);
        let (acme, rival) = (team("acme"), team("rival"));
        let other_hosts = LiveAlert {
            ours: false,
            ..alert(Some(acme.clone()), "elsewhere")
        };
        let ours = ["one", "two"].map(|name| alert(Some(acme.clone()), name));
        let others = [
            other_hosts,
            alert(None, "host"),
            alert(Some(rival.clone()), "theirs"),
        ];
        feed.show_alerts([ours.as_slice(), &others].concat());
        let counts = |team: Option<&Name>| -> Vec<_> {
            feed.alert_counts(team)
                .into_iter()
                .map(|(group, count)| (group.team, count))
                .collect()
        };
        assert_eq!(counts(Some(&acme)), [(None, 1), (Some(acme.clone()), 2)]);
        assert_eq!(
            counts(None),
            [(None, 1), (Some(acme.clone()), 2), (Some(rival), 1)]
        );
        assert_eq!(
            feed.alerts_firing(Some(&acme)),
            4,
            "who looks sees those of all hosts"
        );
    }

    #[test]
    fn subscribers_are_bounded_by_team_and_all_together_and_a_place_is_given_back() {
        let feed = feed(3, 2);
        let (acme, rival) = (team("acme"), team("rival"));
        let open = |team: &Name| feed.subscribe(Some(team), || json!({}));
        let first = open(&acme).expect("is admitted");
        let _second = open(&acme).expect("is admitted");
        assert_eq!(open(&acme).err(), Some(SubscriptionError::Full));
        let _third = open(&rival).expect("is admitted");
        assert_eq!(open(&rival).err(), Some(SubscriptionError::Full));
        drop(first);
        open(&rival).expect("is admitted");
    }
}
