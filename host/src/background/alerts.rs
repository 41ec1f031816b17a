//! Evaluates the alert rules, writes the changed alerts, and queues the messages that are due.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::evaluation::{EvaluationContext, EvaluationResult, evaluate};
use super::{AlertGroup, BackgroundParts, BackgroundState, BackgroundTasks, LiveAlert};
use crate::clock::Timestamp;
use crate::model::{AlertEventKind, AlertRule, AlertState, Name};
use crate::monitor::alerts::{CacheNumbers, Reading, RecentHits, Suppression, due_notice, read};
use crate::store::{Alert, HistoryStep, Silence, StoreError};

/// State of the evaluation that is kept from one tick to the next. The alerts themselves are in the
/// database.
#[derive(Debug, Default)]
pub(super) struct AlertEvaluator {
    recent: Option<RecentHits>,
    /// The minute of the last deletion of old alerts.
    tidied: Option<Timestamp>,
}

impl AlertEvaluator {
    pub(super) async fn tick(&mut self, shared: &BackgroundState) {
        if let Err(error) = self.evaluate(shared).await {
            tracing::warn!(%error, "could not evaluate the alerts; the next tick tries again");
        }
    }

    async fn evaluate(&mut self, shared: &BackgroundState) -> Result<(), StoreError> {
        let parts = &shared.parts;
        let now = parts.clock.now();
        let readings = self.read(shared, now).await?;
        let in_flight = shared.webhook.in_flight();
        let mut watched = parts.store.watched_alerts().await?;
        let active_max = parts.alerts.active_max as usize;
        let context = EvaluationContext {
            thresholds: &shared.thresholds,
            clock: &parts.clock,
            active_max,
            now,
        };
        let EvaluationResult {
            changes,
            news,
            left_out,
        } = evaluate(&context, &readings, &watched);
        if left_out > 0 {
            tracing::warn!(
                left_out,
                "there are more alerts than alerts.active_max; some are left out"
            );
        }
        if !changes.is_empty() {
            parts.store.write_alert_changes(changes).await?;
            news.iter().for_each(|(event, alert)| log(*event, alert));
            watched = parts.store.watched_alerts().await?;
        }
        let silences = parts.store.silences(None, now).await?;
        silence(&mut watched.alerts, &silences);
        shared.feed.show_alerts(live(&watched.alerts, watched.own));
        let is_free = |alert: &&Alert| watched.is_ours(alert) && !in_flight.contains(&alert.id);
        for alert in watched.alerts.iter().filter(is_free) {
            let suppression = Suppression {
                acknowledged: alert.acknowledged.is_some(),
                silenced: alert.silenced_until.is_some(),
            };
            let repeat_every = parts.alerts.webhook.repeat_every;
            if let Some(notice) = due_notice(
                alert.condition.state,
                alert.told,
                suppression,
                repeat_every,
                now,
            ) {
                shared.webhook.tell(notice, alert);
            }
        }
        self.tidy(parts, now).await
    }

    /// Reads the numbers on a blocking thread, because this computes percentiles of perhaps
    /// thousands of operations.
    async fn read(
        &mut self,
        shared: &BackgroundState,
        now: Timestamp,
    ) -> Result<Vec<Reading>, StoreError> {
        let parts = &shared.parts;
        let caches = parts.store.cache_stats().into_iter();
        let caches: Vec<_> = caches
            .map(|cache| CacheNumbers {
                kind: cache.kind.to_owned(),
                hits: cache.hits,
                misses: cache.misses,
            })
            .collect();
        let window = parts.alerts.window.duration();
        let caches = self
            .recent
            .get_or_insert_with(|| RecentHits::new(window))
            .update(now, &caches);
        let (monitor, thresholds) = (parts.monitor.clone(), shared.thresholds.clone());
        let reading = move || {
            let mut numbers = monitor.watched(thresholds.window());
            numbers.caches = caches;
            read(&thresholds, &numbers)
        };
        tokio::task::spawn_blocking(reading)
            .await
            .map_err(|_| StoreError::Closed)
    }

    /// Deletes old alerts and ended silences, at most once a minute.
    async fn tidy(&mut self, parts: &BackgroundParts, now: Timestamp) -> Result<(), StoreError> {
        let minute = HistoryStep::Minute.begin(now);
        if self.tidied == Some(minute) {
            return Ok(());
        }
        self.tidied = Some(minute);
        let before = now.before(parts.alerts.retention);
        parts
            .store
            .delete_resolved_alerts(before, parts.alerts.resolved_max)
            .await?;
        parts.store.delete_ended_silences(now).await?;
        Ok(())
    }
}

impl BackgroundTasks {
    /// Sends the alerts in the database to subscribers. Called after a user has changed an alert.
    ///
    /// # Errors
    /// Fails if the database fails.
    pub async fn refresh_alerts(&self) -> Result<(), StoreError> {
        let alerts = self.active_alerts(None).await?;
        self.0
            .feed
            .show_alerts(live(&alerts, self.0.parts.store.host_id()));
        Ok(())
    }

    /// Returns the pending and firing alerts that the team may see, with their silences; without a
    /// team, all of them.
    ///
    /// # Errors
    /// Fails if the database fails.
    pub async fn active_alerts(&self, team: Option<Name>) -> Result<Vec<Alert>, StoreError> {
        let BackgroundState { parts, .. } = &*self.0;
        let mut alerts = parts.store.active_alerts(team).await?;
        // Silences of all teams are read, because an operator's silence of a host alert holds for
        // every team.
        let silences = parts.store.silences(None, parts.clock.now()).await?;
        silence(&mut alerts, &silences);
        Ok(alerts)
    }

    /// Returns the number of firing alerts that the team may see, as of the last evaluation;
    /// without a team, of all.
    pub fn alerts_firing(&self, team: Option<&Name>) -> u64 {
        self.0.feed.alerts_firing(team)
    }

    /// Returns the numbers of pending and firing alerts that this host owns and the team may see,
    /// as of the last evaluation; without a team, of all alerts. Each host counts only its own
    /// alerts, so the sum over all hosts is right. For the host's own alerts there is an entry for
    /// each enabled rule, even if it is 0. A missing entry would look like a rule that is not
    /// evaluated.
    pub fn alert_counts(&self, team: Option<&Name>) -> BTreeMap<AlertGroup, u64> {
        let mut counts = self.0.feed.alert_counts(team);
        for rule in AlertRule::ALL {
            let Some(limit) = self.0.thresholds.general(*rule) else {
                continue;
            };
            for state in [AlertState::Pending, AlertState::Firing] {
                let group = AlertGroup {
                    team: None,
                    rule: *rule,
                    severity: limit.severity,
                    state,
                };
                counts.entry(group).or_default();
            }
        }
        counts
    }
}

fn silence(alerts: &mut [Alert], silences: &[Silence]) {
    for alert in alerts {
        let about = silences
            .iter()
            .filter(|silence| silence.is_about(&alert.key));
        alert.silenced_until = about.map(|silence| silence.until).max();
    }
}

fn live(alerts: &[Alert], own: Uuid) -> Vec<LiveAlert> {
    let active = alerts
        .iter()
        .filter(|alert| alert.condition.state != AlertState::Resolved);
    let shown = active.map(|alert| LiveAlert {
        group: AlertGroup {
            team: alert.key.team.clone(),
            rule: alert.key.rule,
            severity: alert.severity,
            state: alert.condition.state,
        },
        ours: alert.host == own,
        body: serde_json::to_value(alert).unwrap_or_default(),
    });
    shown.collect()
}

fn log(event: AlertEventKind, alert: &Alert) {
    let (id, what) = (alert.id, &alert.reading.message);
    let team = alert.key.team.as_ref().map_or("", Name::as_str);
    match event {
        AlertEventKind::Pending => tracing::debug!(%id, team, what, "an alert is pending"),
        AlertEventKind::Fired => tracing::warn!(%id, team, what, "an alert fires"),
        AlertEventKind::Resolved => tracing::info!(%id, team, what, "an alert is resolved"),
    }
}
