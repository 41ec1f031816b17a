//! Alerts and silences: writes of an evaluation, visibility, changes, several hosts, deletion.

use std::time::Duration;

use stepwell::clock::Timestamp;
use stepwell::model::{AlertRule, AlertState, Name, Severity};
use stepwell::monitor::alerts::{Condition, Evidence, LastNotice, NoticeState};
use stepwell::store::{
    Acknowledgement, Alert, AlertChanges, AlertKey, AlertReading, Page, Silence, Store, StoreError,
};
use uuid::Uuid;

use crate::databases::{START, on_both, on_both_databases, on_postgres};
use crate::fixtures::{acme, name};

fn at(seconds: u64) -> Timestamp {
    START.after(Duration::from_secs(seconds))
}

fn evidence() -> Evidence {
    serde_json::from_value(serde_json::json!({ "window": "5m", "calls": 200, "errors": 30 }))
        .expect("is evidence")
}

async fn firing(store: &Store, team: Option<Name>, subject: &str) -> Alert {
    let condition = Condition {
        state: AlertState::Firing,
        since: at(0),
        held_since: None,
        fired_at: Some(at(60)),
        resolved_at: None,
    };
    Alert {
        id: Uuid::now_v7(),
        key: AlertKey {
            rule: AlertRule::ErrorRate,
            team,
            subject: subject.to_owned(),
        },
        severity: Severity::Critical,
        condition,
        reading: AlertReading {
            value: 0.15,
            threshold: 0.05,
            unit: "ratio".to_owned(),
            message: "it fails".to_owned(),
            evidence: evidence(),
        },
        acknowledged: None,
        silenced_until: None,
        told: LastNotice::default(),
        host: store.watched_alerts().await.expect("reads").own,
    }
}

fn resolved(alert: &Alert, at: Timestamp) -> Alert {
    let condition = Condition {
        state: AlertState::Resolved,
        resolved_at: Some(at),
        ..alert.condition
    };
    Alert {
        condition,
        ..alert.clone()
    }
}

async fn begin(store: &Store, alerts: &[&Alert]) -> u64 {
    let begun = alerts.iter().map(|alert| (*alert).clone()).collect();
    store
        .write_alert_changes(AlertChanges {
            begun,
            ..AlertChanges::default()
        })
        .await
        .expect("writes")
}

async fn change(store: &Store, alert: Alert) -> u64 {
    store
        .write_alert_changes(AlertChanges {
            changed: vec![alert],
            ..AlertChanges::default()
        })
        .await
        .expect("writes")
}

async fn active(store: &Store, team: Option<Name>) -> Vec<Uuid> {
    store
        .active_alerts(team)
        .await
        .expect("reads")
        .into_iter()
        .map(|alert| alert.id)
        .collect()
}

async fn earlier(store: &Store, team: Option<Name>, page: Page) -> Vec<Uuid> {
    store
        .resolved_alerts(team, page)
        .await
        .expect("reads")
        .into_iter()
        .map(|alert| alert.id)
        .collect()
}

#[test]
fn an_alert_survives_a_restart_as_it_was() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let ours = firing(&store, Some(acme()), "step expense/pay").await;
        let hosts = firing(&store, None, "commit_step").await;
        assert_eq!(begin(&store, &[&ours, &hosts]).await, 2);
        store.close().await;
        let store = database.open().await;
        let watched = store.watched_alerts().await.expect("reads");
        let found = watched.alerts.iter().find(|alert| alert.id == ours.id);
        assert_eq!(found, Some(&ours));
        assert!(watched.alerts.iter().all(|alert| watched.is_ours(alert)));
        store.close().await;
    });
}

#[test]
fn a_team_sees_its_own_and_the_hosts_and_pages_through_what_is_over() {
    on_both(|store, _| async move {
        let ours = firing(&store, Some(acme()), "step expense/pay").await;
        let theirs = firing(&store, Some(name("rival")), "step expense/pay").await;
        let hosts = firing(&store, None, "commit_step").await;
        begin(&store, &[&ours, &theirs, &hosts]).await;
        assert_eq!(active(&store, Some(acme())).await, [hosts.id, ours.id]);
        assert_eq!(active(&store, None).await, [hosts.id, theirs.id, ours.id]);
        for alert in [&ours, &theirs, &hosts] {
            assert_eq!(change(&store, resolved(alert, at(100))).await, 1);
        }
        assert!(active(&store, None).await.is_empty());
        assert_eq!(
            earlier(&store, Some(acme()), Page::first(9)).await,
            [hosts.id, ours.id]
        );
        assert_eq!(
            earlier(&store, Some(acme()), Page::first(1)).await,
            [hosts.id]
        );
        let next = Page {
            after: Some(hosts.id),
            limit: 9,
        };
        assert_eq!(earlier(&store, Some(acme()), next.clone()).await, [ours.id]);
        assert_eq!(earlier(&store, None, next).await, [theirs.id, ours.id]);
    });
}

#[test]
fn there_is_one_active_alert_of_a_kind_and_after_its_end_another() {
    on_both(|store, _| async move {
        let first = firing(&store, Some(acme()), "step expense/pay").await;
        let second = firing(&store, Some(acme()), "step expense/pay").await;
        assert_eq!(begin(&store, &[&first]).await, 1);
        assert_eq!(begin(&store, &[&second]).await, 0);
        change(&store, resolved(&first, at(100))).await;
        assert_eq!(
            change(&store, first.clone()).await,
            0,
            "what is over stays so"
        );
        assert_eq!(begin(&store, &[&second]).await, 1);
        assert_eq!(active(&store, None).await, [second.id]);
        let pending = Condition {
            state: AlertState::Pending,
            fired_at: None,
            ..second.condition
        };
        change(
            &store,
            Alert {
                condition: pending,
                ..second.clone()
            },
        )
        .await;
        let dropped = vec![second];
        let changes = AlertChanges {
            dropped,
            ..AlertChanges::default()
        };
        assert_eq!(store.write_alert_changes(changes).await.expect("writes"), 1);
        assert!(active(&store, None).await.is_empty());
    });
}

#[test]
fn an_alert_is_acknowledged_by_those_it_belongs_to_while_it_lasts() {
    on_both(|store, _| async move {
        let alert = firing(&store, Some(acme()), "step expense/pay").await;
        begin(&store, &[&alert]).await;
        let given = Acknowledgement {
            by: "ann".to_owned(),
            at: at(5),
            comment: Some("on it".to_owned()),
        };
        let acknowledge = async |team: Option<&str>| {
            store
                .acknowledge_alert(team.map(name), alert.id, given.clone())
                .await
                .map(|alert| alert.acknowledged)
        };
        assert!(matches!(
            acknowledge(Some("rival")).await,
            Err(StoreError::NotFound)
        ));
        assert_eq!(
            acknowledge(Some("acme")).await.expect("is noted"),
            Some(given.clone())
        );
        // A look that began before leaves it alone.
        change(&store, alert.clone()).await;
        let found = store.active_alerts(None).await.expect("reads").remove(0);
        assert_eq!(found.acknowledged, Some(given.clone()));
        change(&store, resolved(&alert, at(100))).await;
        assert!(matches!(acknowledge(None).await, Err(StoreError::InUse(_))));
    });
}

#[test]
fn a_resolution_is_owed_until_it_is_notified() {
    on_both(|store, _| async move {
        let alert = firing(&store, None, "commit_step").await;
        begin(&store, &[&alert]).await;
        store
            .mark_alert_told(alert.id, NoticeState::Firing, at(61))
            .await
            .expect("is noted");
        change(&store, resolved(&alert, at(100))).await;
        let watched = store.watched_alerts().await.expect("reads").alerts;
        assert_eq!(watched.len(), 1);
        assert_eq!(
            watched[0].told,
            LastNotice {
                state: NoticeState::Firing,
                at: Some(at(61))
            }
        );
        store
            .mark_alert_told(alert.id, NoticeState::Resolved, at(101))
            .await
            .expect("is noted");
        assert_eq!(store.watched_alerts().await.expect("reads").alerts, []);
    });
}

#[test]
fn old_and_excess_resolved_alerts_are_deleted_and_active_ones_are_kept() {
    on_both(|store, _| async move {
        let mut ids = Vec::new();
        for number in 0..5 {
            let alert = firing(&store, Some(acme()), &format!("step expense/{number}")).await;
            begin(&store, &[&alert]).await;
            change(&store, resolved(&alert, at(number))).await;
            ids.insert(0, alert.id);
        }
        let lasting = firing(&store, Some(acme()), "step expense/pay").await;
        begin(&store, &[&lasting]).await;
        assert_eq!(
            store
                .delete_resolved_alerts(at(0), 100)
                .await
                .expect("deletes"),
            1
        );
        assert_eq!(earlier(&store, None, Page::first(9)).await, ids[..4]);
        assert_eq!(
            store
                .delete_resolved_alerts(at(0), 2)
                .await
                .expect("deletes"),
            2
        );
        assert_eq!(earlier(&store, None, Page::first(9)).await, ids[..2]);
        assert_eq!(
            store
                .delete_resolved_alerts(at(0), 2)
                .await
                .expect("deletes"),
            0
        );
        assert_eq!(active(&store, None).await, [lasting.id]);
    });
}

#[test]
fn silences_are_seen_and_ended_by_whom_they_concern_and_run_out() {
    on_both(|store, _| async move {
        let silence = |team: Option<Name>, until| Silence {
            id: Uuid::now_v7(),
            team,
            rule: Some(AlertRule::ErrorRate),
            subject: Some("step expense/*".parse().expect("is a pattern")),
            comment: "maintenance".to_owned(),
            created_by: "ann".to_owned(),
            created_at: at(0),
            until,
        };
        let (ours, hosts) = (silence(Some(acme()), at(60)), silence(None, at(90)));
        let theirs = silence(Some(name("rival")), at(120));
        for one in [&ours, &hosts, &theirs] {
            assert!(
                store
                    .insert_silence(one.clone(), 1, None)
                    .await
                    .expect("is stored")
            );
        }
        assert!(
            !store
                .insert_silence(silence(Some(acme()), at(60)), 1, None)
                .await
                .expect("is refused")
        );
        let seen = async |team, now| store.silences(team, now).await.expect("reads");
        assert_eq!(
            seen(Some(acme()), at(0)).await,
            [ours.clone(), hosts.clone()]
        );
        assert_eq!(
            seen(Some(acme()), at(60)).await,
            std::slice::from_ref(&hosts),
            "it has run out"
        );
        assert_eq!(seen(None, at(0)).await.len(), 3);
        assert!(matches!(
            store.delete_silence(Some(acme()), theirs.id).await,
            Err(StoreError::NotFound)
        ));
        assert!(matches!(
            store.delete_silence(Some(acme()), hosts.id).await,
            Err(StoreError::NotFound)
        ));
        store.delete_silence(None, theirs.id).await.expect("ends");
        assert_eq!(
            store.delete_ended_silences(at(60)).await.expect("deletes"),
            1
        );
        assert_eq!(seen(None, at(0)).await, [hosts]);
    });
}

#[test]
fn one_host_owns_an_alert_and_another_takes_over_after_its_death() {
    on_postgres(|database| async move {
        let one = database.open().await;
        let other = database.another_host().open().await;
        let alert = firing(&one, Some(acme()), "step expense/pay").await;
        begin(&one, &[&alert]).await;
        let again = firing(&other, Some(acme()), "step expense/pay").await;
        assert_eq!(begin(&other, &[&again]).await, 0, "it is known");
        let watched = other.watched_alerts().await.expect("reads");
        assert!(!watched.is_ours(&watched.alerts[0]));
        one.close().await;
        database
            .sql(&format!(
                "UPDATE hosts SET lease_until = 1 WHERE id = '{}'",
                alert.host
            ))
            .await;
        let watched = other.watched_alerts().await.expect("reads");
        assert!(watched.is_ours(&watched.alerts[0]));
        assert_eq!(change(&other, watched.alerts[0].clone()).await, 1);
        assert_eq!(
            change(&other, alert.clone()).await,
            0,
            "as it was the dead one's, it is taken already"
        );
        let taken = other
            .watched_alerts()
            .await
            .expect("reads")
            .alerts
            .remove(0);
        assert_eq!((taken.id, taken.host), (alert.id, again.host));
        other.close().await;
    });
}
