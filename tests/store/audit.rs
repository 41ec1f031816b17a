//! The audit: visibility, outcomes and deletion of entries.

use std::time::Duration;

use serde_json::json;
use stepwell::clock::Timestamp;
use stepwell::model::{AuditAction, AuditOutcome, Name};
use stepwell::store::{AuditActor, AuditBounds, AuditEntry, AuditFilter, Page, Period, Store};
use uuid::Uuid;

use crate::databases::{START, on_both};
use crate::fixtures::{acme, name};

fn at(seconds: u64) -> Timestamp {
    START.after(Duration::from_secs(seconds))
}

fn entry(team: Option<Name>, second: u64, action: AuditAction, subject: &str) -> AuditEntry {
    AuditEntry {
        id: Uuid::now_v7(),
        at: at(second),
        team,
        actor: Some(AuditActor {
            user: "ann".to_owned(),
            team: acme(),
            token: Some(Uuid::from_u128(7)),
        }),
        action,
        subject: subject.to_owned(),
        detail: json!({ "bytes": 9 }),
        outcome: AuditOutcome::Begun,
        request_id: "3f2a9c41d07b65e8-12".to_owned(),
        source: "192.0.2.7".to_owned(),
    }
}

fn clear(team: Option<Name>, second: u64) -> AuditEntry {
    entry(team, second, AuditAction::CacheClear, "team")
}

async fn all(store: &Store, team: Option<&Name>, filter: &AuditFilter) -> Vec<AuditEntry> {
    store
        .audit(team, filter, &Page::first(200))
        .await
        .expect("lists")
}

#[test]
fn an_entry_is_kept_as_it_was_and_ends_once_known() {
    on_both(|store, _| async move {
        let mut upload = entry(Some(acme()), 1, AuditAction::PluginUpload, "");
        let other = AuditEntry {
            actor: None,
            ..clear(None, 2)
        };
        store
            .insert_audit(vec![upload.clone(), other.clone()])
            .await
            .expect("is written");
        assert_eq!(
            all(&store, None, &AuditFilter::default()).await,
            [other.clone(), upload.clone()]
        );
        upload.subject = "expense@1.0.0".to_owned();
        upload.detail = json!({ "bytes": 9, "code": "conflict" });
        upload.outcome = AuditOutcome::Failed;
        store
            .end_audit(vec![upload.clone()])
            .await
            .expect("is written");
        assert_eq!(
            all(&store, None, &AuditFilter::default()).await,
            [other, upload]
        );
    });
}

#[test]
fn a_team_sees_its_own_entries_by_page_and_filter() {
    on_both(|store, _| async move {
        let ours: Vec<_> = (0..5).map(|second| clear(Some(acme()), second)).collect();
        let upload = entry(Some(acme()), 9, AuditAction::PluginUpload, "expense@1.0.0");
        let theirs = [clear(Some(name("rival")), 3), clear(None, 4)];
        store
            .insert_audit([ours.as_slice(), &theirs, std::slice::from_ref(&upload)].concat())
            .await
            .expect("is written");
        let (mut seen, mut page) = (Vec::new(), Page::first(2));
        loop {
            let part = store
                .audit(Some(&acme()), &AuditFilter::default(), &page)
                .await
                .expect("lists");
            page.after = part.last().map(AuditFilter::cursor);
            if part.is_empty() {
                break;
            }
            seen.extend(part);
        }
        let expected: Vec<_> = std::iter::once(upload.clone())
            .chain(ours.iter().rev().cloned())
            .collect();
        assert_eq!(seen, expected);
        for filter in [
            AuditFilter {
                action: Some(AuditAction::PluginUpload),
                ..AuditFilter::default()
            },
            AuditFilter {
                subject: Some("expense@1.0.0".to_owned()),
                ..AuditFilter::default()
            },
            AuditFilter {
                period: Period {
                    from: Some(at(5)),
                    to: Some(at(10)),
                },
                ..AuditFilter::default()
            },
        ] {
            assert_eq!(
                all(&store, None, &filter).await,
                std::slice::from_ref(&upload),
                "{filter:?}"
            );
        }
        let nobody = AuditFilter {
            actor: Some("bob".to_owned()),
            ..AuditFilter::default()
        };
        assert!(all(&store, None, &nobody).await.is_empty());
    });
}

#[test]
fn old_audit_entries_and_those_beyond_a_teams_bound_are_deleted() {
    on_both(|store, _| async move {
        let rival = name("rival");
        let mut entries: Vec<_> = (0..8).map(|second| clear(Some(acme()), second)).collect();
        entries.extend([
            clear(Some(rival.clone()), 2),
            clear(Some(rival.clone()), 9),
            clear(None, 0),
            clear(None, 9),
        ]);
        store.insert_audit(entries).await.expect("is written");
        let mut deleted = 0;
        loop {
            match store
                .delete_old_audit(
                    at(2),
                    AuditBounds {
                        rows: 3,
                        cheap_rows: 3,
                    },
                )
                .await
                .expect("deletes")
            {
                0 => break,
                some => deleted += some,
            }
        }
        assert_eq!(deleted, 3 + 3);
        let left = all(&store, Some(&acme()), &AuditFilter::default()).await;
        assert_eq!(
            left.iter().map(|entry| entry.at).collect::<Vec<_>>(),
            [at(7), at(6), at(5)]
        );
        assert_eq!(
            all(&store, Some(&rival), &AuditFilter::default())
                .await
                .len(),
            2,
            "another team's stay"
        );
    });
}

#[test]
fn a_flood_pushes_out_its_own_kind_and_no_other() {
    on_both(|store, _| async move {
        let of = |second, action, outcome| AuditEntry {
            outcome,
            ..entry(Some(acme()), second, action, "it")
        };
        let mut entries = vec![
            of(0, AuditAction::PluginUpload, AuditOutcome::Done),
            of(1, AuditAction::TokenRevoke, AuditOutcome::Begun),
        ];
        entries
            .extend((10..60).map(|second| of(second, AuditAction::CacheClear, AuditOutcome::Done)));
        entries.extend(
            (60..90).map(|second| of(second, AuditAction::PluginUpload, AuditOutcome::Refused)),
        );
        entries.extend(
            (90..99).map(|second| of(second, AuditAction::PluginUpload, AuditOutcome::Failed)),
        );
        store.insert_audit(entries).await.expect("is written");
        let bounds = AuditBounds {
            rows: 10,
            cheap_rows: 4,
        };
        while store
            .delete_old_audit(at(0), bounds)
            .await
            .expect("deletes")
            > 0
        {}
        let left = all(&store, Some(&acme()), &AuditFilter::default()).await;
        let seconds: Vec<_> = left
            .iter()
            .map(|entry| entry.at.since(START).as_secs())
            .collect();
        let expected: Vec<u64> = (95..99).rev().chain((52..60).rev()).chain([1, 0]).collect();
        assert_eq!(seconds, expected);
    });
}

#[test]
fn an_entry_that_fails_becomes_cheap_at_its_end() {
    on_both(|store, _| async move {
        let begun: Vec<_> = (0..5)
            .map(|second| entry(Some(acme()), second, AuditAction::InstanceCancel, "it"))
            .collect();
        store.insert_audit(begun.clone()).await.expect("is written");
        let bounds = AuditBounds {
            rows: 10,
            cheap_rows: 2,
        };
        assert_eq!(
            store
                .delete_old_audit(at(0), bounds)
                .await
                .expect("deletes"),
            0
        );
        let ended = begun
            .into_iter()
            .map(|entry| AuditEntry {
                outcome: AuditOutcome::Failed,
                ..entry
            })
            .collect();
        store.end_audit(ended).await.expect("is written");
        assert_eq!(
            store
                .delete_old_audit(at(0), bounds)
                .await
                .expect("deletes"),
            3
        );
    });
}
